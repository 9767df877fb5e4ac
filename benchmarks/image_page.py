"""The measured part of docs/images.md, from results/images.json."""

from __future__ import annotations

from typing import Any

from markdown_parts import place, table

NAMES = {
    "nvf": "NVF, map of codes",
    "nvf-discrete": "NVF, 32 states",
    "glow": "the same Glow, no latent",
    "glow-pixels": "the same Glow behind the same first layer, no latent",
    "vq-vae": "VQ-VAE",
    "vae": "VAE",
}
#: Bits per dimension as published, and where.
PUBLISHED = {
    "images/mnist": (
        ("Residual Flow", "0.97", "Chen et al. 2019, arXiv:1906.02735"),
        ("FFJORD", "0.99", "Grathwohl et al. 2019, arXiv:1810.01367"),
        ("Glow", "1.05", "as reported there, beside FFJORD"),
        ("RealNVP", "1.06", "as reported there, beside FFJORD"),
    )
}
SETS = {"images/fashion-mnist": "Fashion-MNIST", "images/mnist": "MNIST"}


def published(name: str) -> list[str]:
    """What others have published for a set, and how it differs from what stands above it."""
    if name not in PUBLISHED:
        return []
    return [
        "As published (copied from the papers, not measured here), 8 bits:",
        "",
        *table(["", "bits/dim", "where"], [list(row) for row in PUBLISHED[name]]),
        "",
        "Protocols differ. The same: the published test set at its own size, bounds by uniform dequantisation. Other than "
        "here: multi-scale networks of the papers' own sizes, trained on GPUs for as long as they improve, where the models "
        "above had minutes on two cores. The rows are no ranking of architectures, in either direction.",
        "",
    ]


def lines(content: dict[str, Any]) -> list[str]:
    """Tables and pictures of every set."""
    found: list[str] = []
    for name, title in SETS.items():
        if name not in content["sets"]:
            continue
        known = content["sets"][name]
        models = {key: known["models"][key] for key in NAMES if key in known["models"]}
        train, validation, test = known["rows"]
        minutes = [m["processor_seconds"] / 2 / 60 for m in models.values()]
        best = min(m["test"]["value"] for m in models.values())
        body, samples = [], []
        for key, m in models.items():
            t, s = m["test"], m["samples"]
            value = f"{t['value']:.3f} ± {t['standard_error']:.3f}"
            body.append(
                [
                    NAMES[key],
                    f"**{value}**" if t["value"] == best else value,
                    f"{t['code_length']:.3f}" if t["code_length"] else "–",
                    f"{m['likelihood_parameters']:,}",
                    f"{m['parameters']:,}",
                    f"{m['steps']:,}",
                    f"{m['processor_seconds']:,.0f}",
                ]
            )
            memory, cover = s["memorisation"], s["precision_recall"]
            back = m.get("reconstruction_rmse")
            samples.append(
                [
                    NAMES[key],
                    f"{s['frechet']:.1f}",
                    f"{cover['precision']:.2f}",
                    f"{cover['recall']:.2f}",
                    f"{memory['generated']:.3f}",
                    f"{100 * memory['closer']:.1f} %",
                    "–" if back is None else f"{back:.3f}",
                ]
            )
        first = next(iter(models.values()))["samples"]
        found += [
            f"### {title}, 1 × 28 × 28, 8 bits",
            "",
            f"{train:,} training and {validation:,} validation images, the whole published test set of {test:,}. Bits per "
            "dimension are upper bounds (one draw of uniform dequantisation for the flows, sixteen of z for the VAE), "
            "what z costs included; ± is the standard error over test images. Every model was trained once, for "
            f"{min(minutes):.0f} to {max(minutes):.0f} minutes on two cores. How many epochs each has was set beforehand "
            "from the cost of a step, so that all take the same time; the machine was not equally fast in all runs, hence "
            "the differences in seconds (of the processor, both cores together).",
            "",
            *table(
                ["", "bits/dim", "of it z", "parameters of p(x\\|z)", "of all", "steps", "seconds"],
                body,
            ),
            "",
            *published(name),
            f"Samples: {first['n']:,} from the density, beside as many test images. *Fréchet*: in the features "
            f"`{first['features']}` of a small classifier that comes with the package; **not FID**, comparable with "
            f"itself alone (training images against test images: {first['frechet_test']:.1f}). *Nearest*: median distance "
            f"to the nearest training image (test images: {first['memorisation']['test']:.3f}); *closer*: samples nearer "
            "than 99 % of the test images are (chance: 1 %). *From z*: root-mean-square error of z alone. Distances are "
            "shares of the range.",
            "",
            *table(["", "Fréchet", "precision", "recall", "nearest", "closer", "from z"], samples),
            "",
        ]
        short = name.removeprefix("images/")
        for key in models:
            found += [f"![samples of {NAMES[key]}](images/samples/{short}-{key}.png)"]
        found += [
            "",
            f"*From left to right: {', '.join(NAMES[k] for k in models)}; samples at temperature 1.*",
            "",
        ]
    commands = " and ".join(
        f"`python benchmarks/images.py {name}`" for name in SETS if name in content["sets"]
    )
    return [*found, place(content), "", commands, ""]
