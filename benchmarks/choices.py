"""What `latent="auto"` chooses from on mixed tables: what each candidate buys, and what it costs.

The rows of a table (the training rows, where it has a published split; 4,500 at the most) are cut into two
halves; a candidate is trained on each as `NVF` trains its candidates (`modeflow.estimators.selection`) and
scores the other. Given are the mean log-density of these rows, nats, its paired difference to the first
candidate with a standard error, and seconds of the processor (one thread) for both halves together. No test
row is read. Holes: cells taken out at random, a tenth of all.

Candidates: a flow over a tree of K states a column ("flow over tree", with missing cells and a proposal),
that tree alone ("tree"), and K flat states ("flat"; one state is a chain of masked networks and a flow).

Results are kept as they come; a table that has them all is not measured again.

Run: python benchmarks/choices.py [--tables shoppers magic] [--fresh]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import torch

from common import data_file, earlier_runs, write
from mixed_tables import TABLES as PUBLISHED
from mixed_tables import load as load_published
from modeflow import NVF
from modeflow.estimators.fitting import Fit, FitData
from modeflow.estimators.settings import Settings

ROWS = 4_500
#: Share of cells that are taken out of the tables named so.
HOLES = 0.1
TABLES = (
    "car", "credit_g", "abalone", "magic", "shoppers", "abalone, holes", "shoppers, holes"
)  # fmt: skip
#: Length of a training, in short ones: that of the last comparison.
LENGTH = 3
COMPLETE = ("flow over tree 64", "flat 1", "flow over tree 32", "flow over tree 128")
HOLED = ("tree 64", "flow over tree 64")
_RECIPES = {"flow over tree": "nsf-autoregressive over a tree", "tree": "tree"}
_HOLED_RECIPES = {"flow over tree": "nsf-autoregressive over a tree, with a proposal", "tree": "tree"}


def read(name: str) -> pd.DataFrame:
    """The rows of a table to compare by; those of a published split are its training rows.

    Raises:
        DataError: there is no such file.
    """
    table, _, holes = name.partition(", ")
    if table in PUBLISHED:
        frame = load_published(table).train.to_pandas()
    else:
        file = data_file(f"mixed/{table}.csv.gz")
        frame = pl.read_csv(file, infer_schema_length=None, null_values=["NA", "", "?"]).to_pandas()
    rng = np.random.default_rng(0)
    frame = frame.iloc[rng.permutation(len(frame))[:ROWS]].reset_index(drop=True)
    if holes:
        frame = frame.mask(pd.DataFrame(rng.random(frame.shape) < HOLES, columns=frame.columns))
    return frame


def scored(frame: pd.DataFrame, name: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Log-densities of all rows by a candidate that was trained on the other half, and what it cost."""
    what, _, k = name.rpartition(" ")
    holed = bool(frame.isna().any(axis=None))
    if what == "flat":
        model, states = NVF(latent="discrete", n_states=int(k), random_state=0), int(k)
        recipe = "flat states"
    else:
        model, states = NVF(latent="tree", latent_options={"states": int(k)}, random_state=0), 1
        recipe = (_HOLED_RECIPES if holed else _RECIPES)[what]
    settings = Settings.of(model, 0)
    domain, values = model._kind(frame).learn(model, frame)
    order = np.random.default_rng(1).permutation(len(values))
    halves, found = (order[::2], order[1::2]), np.full(len(values), np.nan)
    began, steps = time.process_time(), 0
    for half, other in (halves, halves[::-1]):
        stop = max(1, round(0.15 * len(half)))
        data = FitData(values[half[stop:]], values[half[:stop]], None, None, domain)
        short = settings.candidate(recipe, len(data.train), LENGTH, int(k))
        fit = Fit(short, data, states, start_steps=500)
        history = fit.run()
        fit.settle()
        found[other] = fit.log_prob(values[other])
        steps += history.steps
    return found, {"seconds": time.process_time() - began, "steps": steps}


def compared(
    name: str, frame: pd.DataFrame, candidate: str, first: np.ndarray | None
) -> tuple[dict[str, Any], np.ndarray]:
    """A candidate beside the scores of the first, and its own scores."""
    scores, cost = scored(frame, candidate)
    difference = np.zeros(len(scores)) if first is None else scores - first
    root = math.sqrt(len(scores))
    found = {
        "table": name,
        "candidate": candidate,
        "rows": len(scores),
        "columns": frame.shape[1],
        "mean": float(scores.mean()),
        "mean_se": float(scores.std(ddof=1) / root),
        "difference": float(difference.mean()),
        "difference_se": float(difference.std(ddof=1) / root),
        **cost,
    }
    return found, scores


def shown(run: dict[str, Any]) -> str:
    """A result on one line."""
    return (
        f"{run['table']:18}{run['candidate']:20}{run['rows']:6} × {run['columns']:<3}{run['mean']:10.3f}"
        f"{run['difference']:+9.3f} ± {run['difference_se']:.3f}{run['seconds']:6.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", default=list(TABLES))
    parser.add_argument("--fresh", action="store_true", help="measure again what has results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings = {"rows": ROWS, "holes": HOLES, "length": LENGTH, "units": "nats per row"}
    runs = earlier_runs("choices", settings=settings)
    for table in args.tables:
        candidates = HOLED if table.endswith("holes") else COMPLETE
        if not args.fresh and set(candidates) <= {r["candidate"] for r in runs if r["table"] == table}:
            continue
        frame, first = read(table), None
        for candidate in candidates:
            run, scores = compared(table, frame, candidate, first)
            first = scores if first is None else first
            runs = [r for r in runs if (r["table"], r["candidate"]) != (table, candidate)] + [run]
            write("choices", {"settings": settings, "runs": runs})
            print(shown(run), flush=True)


if __name__ == "__main__":
    main()
