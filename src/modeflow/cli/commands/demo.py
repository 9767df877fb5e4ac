"""`modeflow demo`: the main job from data to report, on embedded data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.cli.commands import _demo_images, _demo_mixed
from modeflow.cli.commands._output import emit, likelihood_text, say, set_device
from modeflow.errors import DataError

_DATA = "shapes"
_SETTINGS: dict[str, Any] = {
    "rows": 5000,
    "max_epochs": 60,
    "batch_size": 128,
    "training": {"patience": 10},
    "flow": "nsf-autoregressive",
    "flow_options": {"layers": 3, "mixing": "reverse"},
    "max_states": 16,
}
_SAMPLES = 20_000
_FILES = (
    "report.html",
    "density.png",
    "samples.csv",
    "test_scores.csv",
    "numbers.json",
    "run",
    *_demo_mixed.FILES,
)


def run(args: argparse.Namespace) -> int:
    """Fit, score, sample, compare, draw and report; everything goes into one folder."""
    from modeflow.data import check_writable, write_table
    from modeflow.report import gather, write_report
    from modeflow.runs import RunConfig, fit_run

    images = args.what == "images"
    folder = Path(args.out or ("modeflow-demo-images" if images else "modeflow-demo"))
    previous = _previous(folder, _demo_images.FILES if images else _FILES)
    check_writable(folder / "report.html" if folder.is_dir() else folder)
    for file in previous:
        file.unlink()
    if images:
        folder.mkdir(parents=True, exist_ok=True)
        return _demo_images.run(args, folder)
    seed = 0 if args.seed is None else args.seed
    settings = {**_SETTINGS, "data": _DATA, "seed": seed}
    if args.device is not None:
        settings["device"] = args.device
    say(
        args,
        "1/6  fitting NVF to 5,000 rows on six islands of different shapes; the number of states is chosen",
    )
    config = RunConfig.build(settings)
    fitted = fit_run(config, folder / "run", quiet=args.quiet or args.json)
    set_device(args, fitted.estimator)

    say(args, "2/6  scoring the test rows and drawing new ones")
    _, split = fitted.data()
    estimator, rows = fitted.estimator, fitted.config.domain.rows(split.test)
    scores = estimator.score_samples(rows)
    states = estimator.predict(rows)
    write_table(
        folder / "test_scores.csv",
        np.column_stack([split.test.values, scores, states]),
        (*split.test.columns, "log_density_exact_nats", "state"),
        integer_columns=("state",),
    )
    drawn, sample_states = estimator.sample(_SAMPLES, random_state=seed)
    samples = np.asarray(drawn)
    write_table(
        folder / "samples.csv",
        np.column_stack([samples, sample_states]),
        (*split.test.columns, "state"),
        integer_columns=("state",),
    )

    say(args, "3/6  the same rows under a Gaussian mixture and a plain flow")
    data = gather(fitted, announce=lambda line: say(args, f"     {line}"), quiet=args.quiet or args.json)
    say(args, "4/6  picture and report")
    _picture(folder / "density.png", data, split.train.values, fitted.result["n_states"])
    write_report(data, folder / "report.html")

    mixed, mixed_lines = _demo_mixed.run(args, folder)
    compared = data.summary()["log_likelihood"]
    result = {
        "folder": str(folder),
        "log_likelihood": compared,
        **{k: fitted.result[k] for k in ("n_states", "truth", "seconds")},
        "mixed": mixed,
    }
    (folder / "numbers.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    truth = fitted.result["truth"]
    lines = ["", f"{'':24}test log-likelihood"]
    lines += [f"{row['name']:24}{likelihood_text(row)}" for row in compared]
    lines += [
        "",
        f"states chosen           {fitted.result['n_states']} "
        f"(the truth has {truth['modes']} islands; samples reach {truth['modes_found']})",
        f"agreement with the islands (adjusted Rand index) {truth['agreement']:.3f}",
        f"samples off the islands {100 * truth['bridge_mass']:.3f} % "
        f"(truth {100 * truth['true_bridge_mass']:.3f} %)",
        "",
        f"{folder}/report.html      the report: open it in a browser",
        f"{folder}/density.png      data, density and samples",
        f"{folder}/samples.csv      {_SAMPLES:,} new rows",
        f"{folder}/test_scores.csv  log-density and state of every test row",
        f"{folder}/run              the fitted model, for `modeflow score | sample | assign`",
        *mixed_lines,
    ]
    emit(args, result, lines)
    return 0


def _picture(path: Path, data: Any, train: np.ndarray, n_states: int) -> None:
    """Data, density and samples, and the density of a Gaussian mixture with as many components."""
    from sklearn.mixture import GaussianMixture

    from modeflow.report import DensityGrid, plot_density, save_picture

    mixture = GaussianMixture(n_states, n_init=3, random_state=0).fit(train)
    rival = f"GaussianMixture({n_states})", DensityGrid.around(mixture.score_samples, train, 240)
    states = data.data_states, data.sample_states
    figure = plot_density(data.data, data.samples, data.density, *states, data.columns, rival)
    save_picture(figure, path)


def _previous(folder: Path, ours: tuple[str, ...]) -> list[Path]:
    """Files of an earlier demo, which this one replaces; refuses a folder that holds anything else."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise DataError(f"'{folder}' is a file: -o names a folder")
    foreign = [p.name for p in folder.iterdir() if p.name not in ours]
    if foreign:
        raise DataError(f"'{folder}' holds other things ({foreign[0]}): give the demo a folder of its own")
    return [p for p in folder.rglob("*") if p.is_file()]
