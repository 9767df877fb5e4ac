"""The measured parts of docs/flows.md and of the page of every flow, from results/flows.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markdown_parts import between, number, place, table
from modeflow.flows import FLOWS, RecipeInfo
from modeflow.transforms.base import weakest

DOCS = Path(__file__).parents[1] / "docs"
GAP_ALLOWED = 0.05


def score(run: dict[str, Any] | None) -> str:
    return "–" if run is None else f"{number(run['test'], 3)} ± {run['test_se']:.3f}"


def flow_page(info: RecipeInfo, runs: dict[str, Any], timing: dict[str, Any] | None) -> list[str]:
    """Cost and, for a vector flow, what was measured and the picture."""
    lines = [
        "## Cost",
        "",
        *table(
            ["name", "recipe", "event", "density", "cost of the density", "cost of a sample"],
            [
                [
                    f"`{info.key}`",
                    f"`{info.name}`",
                    info.event,
                    info.density,
                    info.cost_log_prob,
                    info.cost_sample,
                ]
            ],
        ),
        "",
    ]
    if not runs:
        return lines
    lines += ["## Measured", ""]
    if "mixture" in runs:
        r = runs["mixture"]
        reached = "" if r["gap"] < GAP_ALLOWED else " (see above for the reason)"
        lines += [
            f"- Four Gaussians on a ring: {number(r['gap'], 4)} ± {r['gap_se']:.4f} nats from the entropy{reached}."
        ]
    for name in ("power-head", "protein"):
        if name in runs:
            kind = weakest(runs[name]["density"], info.density)
            lines += [f"- `{name}`: {score(runs[name])} nats a test row ({kind})."]
    if timing is not None:
        trip = timing["round_trip"]
        lines += [
            f"- D = 10, one thread: {timing['step_ms']:.1f} ms a training step of 256 rows, "
            f"{timing['sample_1000_ms']:.0f} ms for 1,000 samples"
            + ("." if trip is None else f", float32 round trip within {trip:.0e}.")
        ]
    lines += ["", "All flows beside each other: [Flows](../flows.md).", ""]
    if "moons" in runs:
        lines += [f"![two moons, fitted by {info.name}](../images/flows/{info.key}.png)", ""]
    return lines


def overview(content: dict[str, Any]) -> list[str]:
    """The table of docs/flows.md."""
    runs = {(r["flow"], r["data"]): r for r in content["runs"]}
    timed = {t["flow"]: t for t in content["timings"]}
    body = []
    for key in FLOWS:
        mix, t = runs.get((key, "mixture")), timed.get(key)
        if mix is None:
            continue
        trip = None if t is None else t["round_trip"]
        body.append(
            [
                f"[{key}](flows/{key}.md)",
                f"{number(mix['gap'], 4)} ± {mix['gap_se']:.4f}",
                score(runs.get((key, "power-head"))),
                score(runs.get((key, "protein"))),
                "–" if t is None else f"{t['step_ms']:.1f}",
                "–" if t is None else f"{t['sample_1000_ms']:.0f}",
                "–" if trip is None else f"{trip:.0e}",
                f"{mix['parameters']:,}",
            ]
        )
    s = content["settings"]
    steps = -(-s["train_cap"] // s["fit"]["batch_size"]) * s["fit"]["max_epochs"]
    header = [
        "flow",
        "gap on four Gaussians, nats",
        "power-head",
        "protein",
        "ms a step",
        "ms for 1,000 samples",
        "round trip, float32",
        "parameters (d=2)",
    ]
    return [
        f"One budget for all: {steps:,} steps of {s['fit']['batch_size']} rows at most, learning rate 1e-3 falling to zero, the epoch best on "
        f"validation; recipes at their own default size; at most {s['train_cap']:,} training rows, whole test sets, nats a row ± standard "
        "error. *Gap*: of the test rows' mean log-density to their true one (0 is the truth). Scores of `power-head` are "
        "lower bounds for every flow (integer columns); flows whose own density is a bound or an estimate say so on their "
        "pages. Times for D = 10, one thread, a step of 256 rows.",
        "",
        *table(header, body),
        "",
        place(content),
        "",
        "`python benchmarks/flows.py`",
        "",
    ]


def render(content: dict[str, Any]) -> dict[Path, str]:
    """The text of every page that holds measured parts."""
    pages = {}
    main = DOCS / "flows.md"
    pages[main] = between(main.read_text(encoding="utf-8"), overview(content))
    timed = {t["flow"]: t for t in content["timings"]}
    for key, info in FLOWS.items():
        path = DOCS / "flows" / f"{key}.md"
        runs = {r["data"]: r for r in content["runs"] if r["flow"] == key}
        pages[path] = between(path.read_text(encoding="utf-8"), flow_page(info, runs, timed.get(key)))
    return pages
