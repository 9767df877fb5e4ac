"""`modeflow demo images`: NVF on the embedded digits, beside its flow without a latent, and a VAE."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.cli.commands._output import emit, say

__all__ = ["FILES", "run"]

FILES = (
    "report.html",
    "samples.png",
    "samples.npy",
    "test_scores.csv",
    "numbers.json",
    "run",
    "glow",
    "glow-pixels",
    "vae",
)
_DATA = "images/digits"
_FIT: dict[str, Any] = {"max_epochs": 40, "learning_rate": 2e-3, "training": {"patience": 10}}
_FLOW = {"levels": 2, "steps": 4, "hidden_channels": 32}
_NVF: dict[str, Any] = {
    "model": "nvf",
    "flow_options": _FLOW,
    "latent_options": {
        "n_codes": 16,
        "encoder_channels": 32,
        "prior_options": {"width": 32, "layers": 2, "heads": 4},
    },
    "likelihood_options": {"decoder_channels": 32},
}
_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "glow": ("the same flow without a latent", {"model": "glow", "flow_options": _FLOW}),
    "glow-pixels": (
        "the same, behind the same first layer",
        {
            "model": "glow",
            "flow_options": _FLOW,
            "likelihood_options": {"entry": "pixels", "decoder_channels": 32},
        },
    ),
    "vae": (
        "VAE",
        {
            "model": "vae",
            "latent_options": {"features": 8, "encoder_channels": 32},
            "likelihood_options": {"decoder_channels": 32},
        },
    ),
}
_SAMPLES = 64


def run(args: argparse.Namespace, folder: Path) -> int:
    """Fit, score, sample, compare and report; everything goes into one folder."""
    from modeflow.data import write_table
    from modeflow.report import gather, write_report
    from modeflow.runs import RunConfig, fit_run

    quiet = args.quiet or args.json
    common: dict[str, Any] = {"data": _DATA, "seed": 0 if args.seed is None else args.seed, **_FIT}
    if args.device is not None:
        common["device"] = args.device
    say(args, "1/4  fitting NVF with a map of codes to 1,437 images of handwritten digits")
    fitted = fit_run(RunConfig.build({**common, **_NVF}), folder / "run", quiet=quiet)
    estimator = fitted.estimator

    say(args, "2/4  scoring the test images and drawing new ones")
    domain, (_, split) = estimator.domain_, fitted.data()
    columns = domain.scores(estimator.score_samples(split.test), None, estimator.density_kind_)
    write_table(
        folder / "test_scores.csv",
        np.column_stack([np.arange(1, len(split.test) + 1), *columns.values()]),
        ("image", *columns),
        integer_columns=("image",),
    )
    samples, _ = estimator.sample(_SAMPLES, random_state=common["seed"])
    domain.write(str(folder / "samples.png"), samples, None)

    say(args, "3/4  the same images under the same flow without a latent, and a VAE")
    rows = {"NVF with a map of codes": fitted.result["bits_per_dim"]["test"]}
    for name, (words, settings) in _OTHERS.items():
        other = fit_run(RunConfig.build({**common, **settings}), folder / name, quiet=quiet)
        rows[words] = other.result["bits_per_dim"]["test"]

    say(args, "4/4  report")
    data: Any = gather(fitted, announce=lambda line: say(args, f"     {line}"))
    data.others = {name: row for name, row in rows.items() if row is not rows["NVF with a map of codes"]}
    write_report(data, folder / "report.html")
    result = {"folder": str(folder), "bits_per_dim": rows, "seconds": fitted.result["seconds"]}
    (folder / "numbers.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    width = max(map(len, rows))
    lines = ["", f"{'':{width}}  test images"]
    lines += [f"{name:{width}}  {domain.likelihood(row)}" for name, row in rows.items()]
    lines += [
        "",
        f"{folder}/report.html      the report: open it in a browser",
        f"{folder}/samples.png      {_SAMPLES} new digits (samples.npy: the array)",
        f"{folder}/test_scores.csv  bits per dimension of every test image",
        f"{folder}/run              the fitted model, for `modeflow score | sample | assign | report`",
    ]
    emit(args, result, lines)
    return 0
