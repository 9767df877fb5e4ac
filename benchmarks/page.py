"""Write docs/benchmarks.md, docs/speed.md, docs/images.md, docs/flows and the table of the README from results/*.json.

No number is typed by hand; a test compares the documents with the results.

Run: python benchmarks/page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anomalies_page
import conditionals_page
import discrete_page
import flow_pages
import image_page
import imputation_page
import islands_page
import latent_models_page
import latent_small_page
import reliability_page
import stacking_page
import streaming_page
import synthetic_page
import tables_page
import tree_page
import variations_page
from markdown_parts import between, mean_se, number, place, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
TOY_NAMES = {
    "ring": "ring of 8 Gaussians, d=2",
    "moons": "two moons, d=2",
    "grid": "grid of 25 Gaussians, d=2",
    "gaussians:k=8,d=10": "8 Gaussians, d=10",
}


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def toys(content: dict[str, Any]) -> list[str]:
    s = content["settings"]
    lines = [
        "## Toys of known entropy",
        "",
        f"{s['rows']:,} training rows, {s['validation']:,} for early stopping, {s['test']:,} fresh test rows, means over "
        f"{len(content['table'][0]['states'])} seeds ± standard error. *Gap*: entropy minus test log-likelihood, nats (0 is the truth; two moons "
        "have no closed density, so there the log-likelihood itself is shown). *Off the islands*: share of "
        f"{s['samples']:,} samples farther than 4σ from every mode. The flow of NVF is a coupling NSF; every flow has the same number of "
        "layers and the same training (most steps, schedule, averaged weights, early stopping on the same rows); plain flows and zuko's "
        "are widened to the parameter count of NVF with K known. The mixture chooses K by BIC; it is the right model class for three of "
        "the four: it shows what is possible. Seconds of the processor, one thread, the choice of K included.",
        "",
    ]
    for name, title in TOY_NAMES.items():
        rows = [r for r in content["table"] if r["toy"] == name]
        has_gap, has_bridge = "gap" in rows[0], "bridge" in rows[0]
        truth = f" (truth {100 * rows[0]['true_bridge']:.3f} %)" if has_bridge else ""
        lines += [f"**{title}**{truth}", ""]
        header = ["model", "gap, nats" if has_gap else "test log-likelihood, nats"]
        header += ["off the islands, %", "modes found"] if has_bridge else []
        header += ["parameters", "seconds"]
        body = []
        for r in rows:
            row = [r["model"], mean_se(r["gap"]) if has_gap else mean_se(r["test"])]
            if has_bridge:
                row += [mean_se(r["bridge"], 3, 100), f"{r['modes_found']['mean']:.1f} of {r['modes']}"]
            body.append([*row, f"{r['parameters']:,}", f"{r['seconds']['mean']:.0f}"])
        lines += [*table(header, body), ""]
    return [*lines, place(content), "", "`python benchmarks/toys.py`", ""]


def labels(content: dict[str, Any]) -> list[str]:
    s, runs = content["settings"], content["runs"]
    lines = [
        "## Labels",
        "",
        "What a joint density of rows and labels costs where only the label is asked for: `NVFClassifier` beside classifiers of "
        "scikit-learn with their defaults, on the same rows, drawn from the published parts. "
        f"The density has {s['states']} states a column and at most {s['max_epochs']} epochs, else its defaults. *Log-loss*: mean of "
        "−log p(y | x), nats. *ECE*: expected calibration error, Σ n_b / n · |accuracy − mean confidence| over "
        f"{s['calibration_bins']} bins of equal width of the confidence in the class predicted. Means over test rows ± their standard error, "
        "one fit each; seconds of the processor, one thread.",
        "",
    ]
    for name in dict.fromkeys(r["table"] for r in runs):
        rows = [r for r in runs if r["table"] == name]
        lines += [
            f"**{name}** ({' training, '.join(f'{n:,}' for n in rows[0]['rows'])} test rows; most frequent class {100 * rows[0]['majority']:.1f} %)",
            "",
        ]
        header = ["", "accuracy, %", "log-loss, nats", "ECE, %", "seconds to fit", "to score"]
        body = [
            [
                r["method"],
                f"{100 * r['accuracy']:.1f} ± {100 * r['accuracy_error']:.1f}",
                f"{r['log_loss']:.3f} ± {r['log_loss_error']:.3f}",
                f"{100 * r['calibration_error']:.1f}",
                f"{r['seconds_fit']:.2f}",
                f"{r['seconds_score']:.2f}",
            ]
            for r in rows
        ]
        lines += [*table(header, body), ""]
    return [*lines, place(content), ""]


def jacobian(content: dict[str, Any]) -> list[str]:
    lines = [
        "## Exact maps beside trained ones",
        "",
        "½N(−μ, σ²) + ½N(μ, σ²) with σ = 0.5 (Examples 1 and 2 and Figure 3 of the paper). The exact slope at 0 is "
        "σ exp(μ²/2σ²); its curve was inverted numerically and differs from the formula by less than 1e-4 of its value. "
        "*Leak*: share of samples with |x| < μ − 3σ.",
        "",
    ]
    body = []
    for r in content["runs"]:
        leak = "–"
        if "plain_leak" in r:
            leak = " / ".join(f"{100 * r[k]:.2f} %" for k in ("true_leak", "plain_leak", "nvf_leak"))
        body.append(
            [
                f"{r['mu']}",
                f"{r['slope_exact']:,.2f}",
                f"{r['plain_steepest']:,.1f}",
                f"{r['nvf_steepest']:.2f}",
                number(r["plain_gap_nats"], 4),
                number(r["nvf_gap_nats"], 4),
                leak,
            ]
        )
    header = [
        "μ",
        "exact slope",
        "steepest slope of the plain flow",
        "of NVF, K=2",
        "gap of the plain flow, nats",
        "of NVF",
        "leak: truth / plain / NVF",
    ]
    lines += [
        *table(header, body),
        "",
        "At μ = σ there is one mode and two states are one too many: they share it.",
        "",
    ]
    lines += ["Exact slopes from a base with modes ½N(−ν, t²) + ½N(ν, t²), for μ = 2:", ""]
    bases = [
        [f"{b['nu']:g}", f"{b['t']:g}", f"{b['slope_exact']:,.3f}", f"{b['slope_of_exact_curve']:,.3f}"]
        for b in content["bases"]
    ]
    lines += [*table(["ν", "t", "slope by the formula", "slope of the curve"], bases), ""]
    return [
        *lines,
        "![exact and trained maps](images/jacobian.png)",
        "",
        place(content),
        "",
        "`python benchmarks/jacobian.py`",
        "",
    ]


def cost(content: dict[str, Any]) -> list[str]:
    names = list(content["training_step"][0]["ratio_to_plain"])
    body = [
        [
            f"D={r['features']}, batch {r['batch']}, {r['layers']}×{r['hidden_features']}",
            f"{r['milliseconds']['plain']:.1f}",
            *(f"{r['ratio_to_plain'][n]:.2f}" for n in names[1:]),
        ]
        for r in content["training_step"]
    ]
    lines = [
        "## What the states cost",
        "",
        "A training step (loss, gradient, clipping, Adam) with K = 8 states over one of the plain flow of the same layers; "
        "medians of interleaved steps. *plain again* is a second copy of the plain flow: its distance from 1 is the noise.",
        "",
        *table(["flow", "plain, ms", *names[1:]], body),
        "",
    ]
    return [*lines, place(content), "", "`python benchmarks/cost.py`", ""]


def objectives(content: dict[str, Any]) -> list[str]:
    s = content["settings"]
    body = [
        [
            r["objective"],
            mean_se(r["gap_at_start"]),
            mean_se(r["gap"]),
            mean_se(r["bridge"], 3, 100),
            mean_se(r["usage_entropy"], 3),
        ]
        for r in content["table"]
    ]
    return [
        "## Objectives",
        "",
        f"Ring of eight Gaussians, {s['rows']:,} rows, {s['epochs']} epochs without early stopping from the same start, {s['seeds']} seeds ± standard "
        f"error. True share off the islands {100 * s['true_bridge']:.3f} %; the entropy of even use of eight states is "
        f"{s['largest_usage_entropy']:.3f} nats.",
        "",
        *table(
            [
                "objective",
                "gap at the start, nats",
                "gap after training",
                "off the islands, %",
                "usage entropy, nats",
            ],
            body,
        ),
        "",
        place(content),
        "",
        "`python benchmarks/objectives.py`",
        "",
    ]


def defaults(content: dict[str, Any]) -> list[str]:
    """The estimators' defaults, old and new."""
    rows = {(r["table"], r["model"]): r for r in content["compared"]}
    body = []
    for name in dict.fromkeys(r["table"] for r in content["compared"]):
        if (name, "new") not in rows or (name, "old") not in rows:
            continue
        old, new = rows[name, "old"], rows[name, "new"]
        spread = [
            f"{number(r['test']['mean'], 2)} ± {r['test']['standard_error']:.2f}" if r["splits"] > 1
            else number(r["test"]["mean"], 2)
            for r in (old, new)
        ]  # fmt: skip
        flows = ", ".join(r["flow"] for r in content["runs"] if (r["table"], r["model"]) == (name, "new"))
        gain = new["gain"]
        spread.append(
            f"{number(gain['mean'], 2)} ± {gain['standard_error']:.2f}" if new["splits"] > 1
            else number(gain["mean"], 2)
        )  # fmt: skip
        seconds = [f"{r['seconds']:.0f}" for r in (old, new)]
        body.append([name, f"{new['splits']}", *spread, *seconds, flows])
    header = ["", "splits", "defaults of 0.1", "defaults now", "gain", "s, 0.1", "s, now", "flow chosen"]
    return [
        "## Defaults",
        "",
        "A plain flow (`FlowDensity`) with the defaults of version 0.1 (coupling, a cosine over 200 epochs) and with those "
        "of today (the flow chosen by cross-fitting, averaged weights, a rate that falls where early stopping ends). 4,000 "
        "rows are given, a tenth of them held out by the estimator; test log-likelihood in nats a row, mean and standard "
        "error over splits where there is more than one; *gain* is paired by split. Columns are treated alike. Processor seconds, choice included. Flows were compared by shorter trainings then, which "
        "on kin40k took the wrong one; the tables of numbers below have today's choice.",
        "",
        *table(header, body),
        "",
        place(content),
        "",
        "`python benchmarks/defaults.py`",
        "",
    ]


def blobs(content: dict[str, Any]) -> list[str]:
    """Separated Gaussians: is their number found, and what does the choice cost?"""
    rows = {(r["set"], r["model"]): r for r in content["table"]}
    body = []
    for name in dict.fromkeys(r["set"] for r in content["table"]):
        ours, plain, mixture = (
            rows[name, m] for m in ("NVF", "NVF, nothing chosen", "GaussianMixture by BIC")
        )
        cells = [f"{r['right']} of {r['fits']}" for r in (ours, mixture)]
        gaps = [f"{mean_se(r['gap'], 3)} ({r['largest_gap']:.3f})" for r in (ours, mixture)]
        ratio = ours["seconds"]["mean"] / plain["seconds"]["mean"]
        body.append([name, *cells, *gaps, f"{ours['seconds']['mean']:.0f}", f"{ratio:.1f}"])
    right, fits = (sum(r[key] for r in content["table"] if r["model"] == "NVF") for key in ("right", "fits"))
    return [
        "## Separated Gaussians",
        "",
        "Two and three Gaussians (1,000 rows) and five of 60 to 1 per cent (2,000 rows), eight standard deviations and more apart. "
        "How often the number of states is right, and the gap to the true density on 4,000 other rows, nats: mean ± standard error "
        f"over draws, and the largest. NVF chooses flow and states ({right} of {fits} right); the last column is its processor time over "
        "that of one plain fit of the same flow and states (flows were compared by shorter trainings then).",
        "",
        *table(
            [
                "Gaussians",
                "K right, NVF",
                "mixture by BIC",
                "gap, NVF",
                "mixture by BIC",
                "s, NVF",
                "plain fits",
            ],
            body,
        ),
        "",
        place(content),
        "",
        "`python benchmarks/blobs.py`",
        "",
    ]


def short(toy: dict[str, Any], real: dict[str, Any], shapes: dict[str, Any]) -> list[str]:
    """The tables of the README."""
    lines = islands_page.short(shapes)
    models = ("NVF", "NSF", "RealNVP", "zuko NSF", "GaussianMixture")
    seeds = {2: "two", 3: "three"}[len({r["seed"] for r in toy["runs"]})]
    body = []
    for name, title in TOY_NAMES.items():
        rows = {r["model"]: r for r in toy["table"] if r["toy"] == name}
        if "gap" in rows["NVF"]:
            body.append([title, *(number(rows[m]["gap"]["mean"], 3) for m in models)])
    lines += [
        f"Gap to the true entropy in nats (0 is perfect; {seeds} seeds, flows of equal size and training, K not given to NVF):",
        "",
    ]
    lines += [*table(["", *models], body), ""]
    body = []
    for name, title in TOY_NAMES.items():
        rows = {r["model"]: r for r in toy["table"] if r["toy"] == name}
        if "bridge" in rows["NVF"]:
            truth = f" (truth {100 * rows['NVF']['true_bridge']:.3f})"
            body.append([title + truth, *(number(100 * rows[m]["bridge"]["mean"], 3) for m in models)])
    lines += [
        "Samples off the islands (farther than 4σ from every mode), per cent:",
        "",
        *table(["", *models], body),
        "",
    ]
    return [*lines, *tables_page.short(real), "", *imputation_page.short(read("imputation"))]


def build(readme: str) -> tuple[str, str]:
    """The page, and the README with its table, from the results."""
    toy, real = read("toys"), read("tables")
    page = [
        "# Benchmarks",
        "",
        "Made by the programs in `benchmarks/` (`make bench`), which write `benchmarks/results/*.json`; this page is "
        "written from those files by `benchmarks/page.py`.",
        "",
    ]
    for name, section in (("islands", islands_page.lines), ("blobs", blobs), ("defaults", defaults)):
        if (RESULTS / f"{name}.json").exists():
            page += section(read(name))
    page += [*toys(toy), *tables_page.lines(real), *variations_page.lines(read("variations"))]
    parts = (
        ("stacking", stacking_page.lines),
        ("synthetic", synthetic_page.lines),
        ("discrete", discrete_page.lines),
        ("classify", labels),
        ("conditionals", conditionals_page.lines),
        ("imputation", imputation_page.lines),
        ("anomalies", anomalies_page.lines),
        ("jacobian", jacobian),
        ("cost", cost),
        ("objectives", objectives),
    )
    for name, section in parts:
        if (RESULTS / f"{name}.json").exists():
            page += section(read(name))
    return "\n".join(page), between(readme, short(toy, real, read("islands")), "benchmarks")


def steps(content: dict[str, Any]) -> list[str]:
    """What each step of optimisation bought, in docs/speed.md."""
    lines = [
        "**What each step bought**: milliseconds of a training step, two threads, one interleaved run.",
        "",
    ]
    for case in dict.fromkeys(r["case"] for r in content["table"]):
        rows = [r for r in content["table"] if r["case"] == case]
        floor = rows[-1]["milliseconds"]["all"]
        body = []
        for r in rows:
            m = r["milliseconds"]
            parts = [f"{m[part]:.2f}" for part in ("forward", "backward", "optimiser")]
            body.append([r["stage"], *parts, f"{m['all']:.2f}", f"{m['all'] / floor:.2f}"])
        header = [case, "forward", "backward", "clipping and Adam", "all", "over the products alone"]
        lines += [*table(header, body), ""]
    return [*lines, place(content), "", "`python benchmarks/steps.py`", ""]


def scaling(content: dict[str, Any]) -> list[str]:
    """How cost grows, in docs/speed.md."""
    loop = content["loop"][0]
    states = [
        [
            f"{r['states']}",
            f"{r['exact_over_plain']:.2f}",
            f"{r['pruned_over_plain']:.2f}",
            f"{r['evaluations_per_row']:.2f}",
            f"{r['gap_nats']:.1e}",
            f"{r['largest_gap_nats']:.1e}",
            f"{r['step_over_plain']:.2f}",
        ]
        for r in content["states"]
    ]
    found = {(r["kind"], r["steps"]): r for r in content["memory"]}
    depths = list(dict.fromkeys(r["steps"] for r in content["memory"]))
    memory = [
        [
            f"{n}",
            *(
                f"{found[k, n]['memory_mib']:.0f} MiB, {found[k, n]['step_ms']:.0f} ms"
                for k in ("keep", "recompute", "invert")
            ),
        ]
        for n in depths
    ]
    per_row = ", ".join(
        f"{1e6 * r['log_prob_ms'] / r['rows']:.0f} ns at {r['rows']:,}" for r in content["rows"]
    )
    return [
        "**How cost grows**",
        "",
        "![Cost against rows, columns, layers, states and memory against depth](images/scaling.png)",
        "",
        f"Rows: the density of one costs {per_row}.",
        "",
        "States, on models trained on K isolated modes (D = 6, 6×64; 2,000 rows that were not trained on), over a plain flow: exact over "
        "all states, pruned to those that hold 1 − 10⁻⁶ of the calibrated encoder's mass (a lower bound, whose mean and largest gap are "
        "given), and a training step.",
        "",
        *table(
            [
                "K",
                "exact",
                "pruned",
                "states per row, pruned",
                "mean gap, nats",
                "largest gap, nats",
                "training step",
            ],
            states,
        ),
        "",
        "Memory of a training step of Glow (3×32×32, one level, 64 channels, batch of 32), and its time, by the number of steps of flow: "
        "`activations` kept, recomputed, or found again by inverting.",
        "",
        *table(["steps of flow", "keep", "recompute", "invert"], memory),
        "",
        f"The trainer adds {100 * (loop['ratio'] - 1):.1f} % ({100 * (loop['low'] - 1):.1f} to {100 * (loop['high'] - 1):.1f} over nine repetitions) to "
        f"forward, backward and optimiser at the smallest size ({loop['trainer_ms']:.2f} against {loop['bare_ms']:.2f} ms a step).",
        "",
        place(content),
        "",
        "`python benchmarks/scaling.py`",
        "",
    ]


def speed(content: dict[str, Any]) -> list[str]:
    """The measured part of docs/speed.md: ratios to ours, from `modeflow bench`."""
    measures = {"step": "training step", "log_prob": "log-density", "sample": "samples"}
    lines: list[str] = []
    for case in dict.fromkeys(r["case"] for r in content["ratios"]):
        here = [r for r in content["ratios"] if r["case"] == case]
        body = []
        for name in dict.fromkeys(r["contestant"] for r in here):
            cells = []
            for measured in measures:
                r = next(r for r in here if r["contestant"] == name and r["measure"] == measured)
                mark = "" if r["resolved"] or name.startswith("modeflow") else ", unresolved"
                spread = "" if name == "modeflow" else f" ({r['low']:.2f}–{r['high']:.2f}{mark})"
                cells.append(f"{r['ratio']:.2f}{spread}, {r['ms']:.1f} ms")
            body.append([name, *cells])
        lines += [f"**{case}**", "", *table(["", *measures.values()], body), ""]
    launches = 1 + max(r["launch"] for r in content["runs"])
    lines += [
        f"Medians of {launches} launches on {content['threads']} threads, with the lowest and highest; kernels for "
        f"{content['native_kernels']}.",
        "",
        place(content),
        "",
    ]
    return lines


def short_speed(content: dict[str, Any]) -> list[str]:
    """The speed table of the README."""
    peers = [
        name
        for name in dict.fromkeys(r["contestant"] for r in content["ratios"])
        if not name.startswith("modeflow")
    ]
    names = {"step": "training step", "log_prob": "log-density", "sample": "samples"}
    body = []
    for case in dict.fromkeys(r["case"] for r in content["ratios"]):
        for measured, title in names.items():
            found = {
                r["contestant"]: r
                for r in content["ratios"]
                if r["case"] == case and r["measure"] == measured
            }
            body.append([f"{case}: {title}", *(f"{found[p]['ratio']:.1f}" for p in peers)])
    return [
        f"Times as long as modeflow takes for the same flow ({content['threads']} threads, interleaved; sizes, ranges and noise in "
        "[docs/speed.md](docs/speed.md)):",
        "",
        *table(["", *peers], body),
    ]


def documents() -> dict[Path, str]:
    """Every document that holds measured numbers, as it should read."""
    readme = ROOT / "README.md"
    page, text = build(readme.read_text(encoding="utf-8"))
    text = between(text, short_speed(read("speed")), "speed")
    speed_page, images = ROOT / "docs" / "speed.md", ROOT / "docs" / "images.md"
    large, served = ROOT / "docs" / "large.md", ROOT / "docs" / "serving.md"
    measured = [*speed(read("speed")), *steps(read("steps")), *scaling(read("scaling"))]
    measured += tree_page.tree(read("tree"))
    others = {}
    if (RESULTS / "latent_models.json").exists():
        latent = latent_models_page.lines(read("latent_models"))
        if (RESULTS / "latent_models_600.json").exists():
            latent += latent_models_page.longer(read("latent_models_600"))
        latent += latent_small_page.sections(read, lambda name: (RESULTS / f"{name}.json").exists())
        others[ROOT / "docs" / "latent_models.md"] = "\n".join(latent)
    return {
        **others,
        ROOT / "docs" / "benchmarks.md": page,
        readme: text,
        speed_page: between(speed_page.read_text(encoding="utf-8"), measured),
        large: between(
            large.read_text(encoding="utf-8"),
            [
                *streaming_page.lines(read("streaming")),
                *streaming_page.mixed(read("streaming_mixed")),
                *streaming_page.engines(read("engines")),
            ],
            "streaming",
        ),
        served: between(served.read_text(encoding="utf-8"), streaming_page.serving(read("serving")), "load"),
        images: between(images.read_text(encoding="utf-8"), image_page.lines(read("images"))),
        ROOT / "docs" / "reliability.md": "\n".join(reliability_page.page(read("reliability"))),
        **flow_pages.render(read("flows")),
    }


def main() -> None:
    pages = documents()
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    print(f"wrote {len(pages)} documents")


if __name__ == "__main__":
    main()
