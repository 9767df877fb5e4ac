"""The second part of `modeflow demo`: the islands as a mixed table, with their names and missing cells."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.cli.commands._output import likelihood_text, say, set_device

if TYPE_CHECKING:
    import polars as pl

    from modeflow.data.toy_named import NamedShapes
    from modeflow.report import LikelihoodRow

__all__ = ["FILES", "run"]

FILES = (
    "mixed.csv",
    "mixed-test.csv",
    "mixed-filled.csv",
    "mixed-samples.csv",
    "mixed.png",
    "mixed-report.html",
    "mixed-run",
)
_ROWS, _TEST, _HOLES, _SAMPLES = 2500, 1200, 0.3, 2500
#: Leaves alone, of which every conditional is exact.
_SETTINGS: dict[str, Any] = {
    "validation": 0.1, "max_epochs": 60, "training": {"patience": 8}, "latent_options": {"proposal": False}
}  # fmt: skip


def run(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Fit a tree of states, fill the holes of the test rows, draw and report; the numbers, and lines of
    them."""
    from modeflow.data.columns.files import write_frame
    from modeflow.data.toy_named import NamedShapes
    from modeflow.report import gather, write_report
    from modeflow.runs import RunConfig, fit_run

    quiet, seed = args.quiet or args.json, 0 if args.seed is None else args.seed
    toy = NamedShapes()
    whole = toy.sample(_ROWS + _TEST, seed)
    rows = toy.with_holes(whole, _HOLES, seed)
    train, test, truth = rows[:_ROWS], rows[_ROWS:], whole[_ROWS:]
    write_frame(folder / "mixed.csv", train)
    write_frame(folder / "mixed-test.csv", test)

    say(args, "5/6  the same islands as a mixed table: a tree of states fitted to words, numbers and holes")
    settings = {"data": str(folder / "mixed.csv"), "test": str(folder / "mixed-test.csv"), "seed": seed}
    if args.device is not None:
        settings["device"] = args.device
    fitted = fit_run(RunConfig.build({**settings, **_SETTINGS}), folder / "mixed-run", quiet=quiet)
    estimator: Any = fitted.estimator
    set_device(args, estimator)

    say(args, "6/6  filling its holes, picture and report")
    filled = estimator.impute(test, random_state=seed)[0]
    likeliest = estimator.impute(test, how="mean", random_state=seed)[0]
    samples = estimator.sample(_SAMPLES, random_state=seed)[0]
    write_frame(folder / "mixed-filled.csv", filled)
    write_frame(folder / "mixed-samples.csv", samples)
    _picture(folder / "mixed.png", toy, train, samples, filled.filter(~_complete(test)))
    data: Any = gather(fitted, quiet=quiet)
    data.likelihoods.append(_true(toy.log_prob(test), estimator.score_samples(test)))
    write_report(data, folder / "mixed-report.html")

    found = {
        "rows": {"train": train.height, "test": test.height},
        "log_likelihood": data.summary()["likelihoods"],
        "filled": _judged(toy, train, test, truth, likeliest),
        "seconds": fitted.result["seconds"],
    }
    return found, _lines(found, fitted.result["latent"]["words"], folder)


def _true(true: np.ndarray, scores: np.ndarray) -> LikelihoodRow:
    from modeflow.report import LikelihoodRow

    apart = scores - true
    return LikelihoodRow(
        "true density",
        float(true.mean()),
        n=len(true),
        note="the same test rows, their holes integrated out, under the density they were drawn from",
        role="known",
        difference=float(apart.mean()),
        difference_standard_error=float(apart.std(ddof=1) / len(apart) ** 0.5),
    )


def _judged(
    toy: NamedShapes, train: pl.DataFrame, test: pl.DataFrame, truth: pl.DataFrame, filled: pl.DataFrame
) -> dict[str, dict[str, Any]]:
    """How good the filled cells are, those that the column alone would say, and those of the true density."""
    means, likeliest = toy.means(test), np.array(toy.names)[toy.name_probs(test).argmax(1)]
    best = {"x": means[:, 0], "y": means[:, 1], "shape": likeliest}
    found = {}
    for name in test.columns:
        holes = test[name].is_null().to_numpy()
        right = truth[name].to_numpy()[holes]
        words = name == "shape"
        alone: Any = train[name].drop_nulls().mode().sort()[0] if words else train[name].mean()
        ways = {
            "model": filled[name].to_numpy()[holes],
            "column": np.full(len(right), alone),
            "truth": best[name][holes],
        }
        score = _share if words else _error
        found[name] = {"cells": len(right), **{way: score(cells, right) for way, cells in ways.items()}}
    return found


def _share(cells: np.ndarray, right: np.ndarray) -> float:
    return float((cells == right).mean())


def _error(cells: np.ndarray, right: np.ndarray) -> float:
    return float(np.sqrt(((cells.astype(np.float64) - right) ** 2).mean()))


def _lines(found: dict[str, Any], latent: str, folder: Path) -> list[str]:
    rows = found["log_likelihood"]
    lines = ["", f"{'as a mixed table':24}log-likelihood of test rows, 30 % of which lack a cell"]
    lines += [f"{'NVF' if row is rows[0] else row['name']:24}{likelihood_text(row)}" for row in rows]
    lines += ["", f"{'cells filled':24}{'NVF':>8}{'column alone':>16}{'true density':>16}"]
    for name, score in found["filled"].items():
        ways = [score[way] for way in ("model", "column", "truth")]
        words = name == "shape"
        cells = f"{score['cells']} of {name}, {'right' if words else 'RMSE'}"
        texts = [f"{100 * way:.1f} %" if words else f"{way:.2f}" for way in ways]
        lines.append(f"{cells:24}{texts[0]:>8}{texts[1]:>16}{texts[2]:>16}")
    return [
        *lines,
        "",
        f"{folder}/mixed-report.html the report of {latent}",
        f"{folder}/mixed.png         data, samples, and holes as they were filled",
        f"{folder}/mixed-filled.csv  the test rows, their holes filled",
        f"{folder}/mixed-run         the fitted tree, for `modeflow impute | sample --given | score`",
    ]


def _picture(
    path: Path, toy: NamedShapes, data: pl.DataFrame, samples: pl.DataFrame, filled: pl.DataFrame
) -> None:
    """Complete rows, as many samples, and rows with a filled cell, in the colour of their name."""
    from modeflow.report import plot_named, save_picture

    whole = data.drop_nulls()
    shown = {"Complete data": whole, "Samples": samples[: whole.height], "A cell filled": filled}
    panels = {
        title: (frame.select("x", "y").to_numpy(), frame["shape"].to_list()) for title, frame in shown.items()
    }
    save_picture(plot_named(panels, toy.names, ("x", "y")), path)


def _complete(frame: pl.DataFrame) -> pl.Series:
    import polars as pl

    return frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series()
