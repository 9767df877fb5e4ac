"""The estimators' defaults, old and new: test log-likelihood of a plain flow on real tables, three splits.

4,000 rows of a table are given to the estimator, which holds a tenth of them out by itself (tables with fewer
rows: as many as a tenth of the table for the test leaves); the test rows are a tenth of the table, at most
3,000. Rounded columns are scaled to whole numbers, which are then dequantised. The defaults were chosen by
other rows than the test rows, of the first split; the flow is chosen anew in every fit, by its own rows. Both
have the same treatment of columns (today's). Seconds are of the processor, one thread a fit.

The result of every fit is kept as it comes, and fits that have a result are not made again.

Run: python benchmarks/defaults.py [--tables bike ...]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from common import earlier_runs, in_groups, summary, write
from modeflow.data import Schema, load_dataset
from modeflow.data.table import default_columns
from modeflow.estimators import NVF, FlowDensity
from modeflow.estimators.settings import FLOW_CHOICES, FLOW_DEFAULTS
from modeflow.runs.baselines import GaussianMixtureByBIC
from modeflow.training import Training

#: Rounded columns are scaled to whole numbers.
SCALED: dict[str, dict[str, float]] = {"power-head": {"Global_active_power": 500, "Voltage": 100}}
TABLES = (
    "kin40k", "protein", "pumadyn32nm", "power-head", "elevators", "bike", "keggdirected", "miniboone-val",
)  # fmt: skip
#: Rows from scikit-learn, few: the defaults must not overfit them.
SMALL = ("iris", "wine")
SPLITS = (0, 1, 2)
TRAIN, TEST = 4_000, 3_000
OLD: dict[str, Any] = {
    "flow": "nsf-coupling",
    "flow_options": {"tail_bound": 3.0, "layers": 6, "mixing": "lu"},
    "max_epochs": 200,
    "schedule": "cosine",
    "learning_rate": 1e-3,
    "ema": None,
    "patience": 30,
}
MODELS = ("old", "new")
SMALL_MODELS = ("NVF(1)", "mixture")


def load(name: str, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and test rows."""
    if name in SMALL:
        from sklearn.datasets import load_iris, load_wine

        values = {"iris": load_iris, "wine": load_wine}[name]().data
        test = len(values) // 4
    else:
        table = load_dataset(name).table
        scale = np.array([SCALED.get(name, {}).get(c, 1.0) for c in table.columns])
        values = np.where(scale != 1, np.round(table.values * scale), table.values)
        test = len(values) // 10
    order = np.random.default_rng(split).permutation(len(values))
    held, rest = order[:test], order[test:]
    train, other = values[rest[:TRAIN]], values[held[:TEST]]
    varies = train.min(0) < train.max(0)  # keggdirected has a column that hardly ever does
    return train[:, varies], other[:, varies]


def fit(table: str, split: int, model: str) -> dict[str, Any]:
    """Fit one model to one split and score its test rows."""
    torch.set_num_threads(1)
    train, test = load(table, split)
    began = time.process_time()
    extra: dict[str, Any] = {}
    if model == "mixture":
        mixture = GaussianMixtureByBIC(Schema.infer(train, default_columns(train.shape[1])), seed=split).fit(
            train
        )
        scores = mixture.score_samples(test)
        extra = {"states": mixture.n_components_}
    else:
        options = in_groups({"old": OLD, "new": {}, "NVF(1)": {}}[model])
        kind: Any = NVF if model == "NVF(1)" else FlowDensity
        given = {"n_states": 1} if model == "NVF(1)" else {}
        estimator = kind(**given, **options, random_state=split).fit(train)
        if estimator.training_["interrupted"]:  # no result: it would be kept
            raise KeyboardInterrupt
        scores = estimator.score_samples(test)
        extra = {k: estimator.training_[k] for k in ("best_epoch", "steps", "stopped")}
        extra["validation"] = estimator.validation_["value"]
        extra["flow"] = next((c["flow"] for c in estimator.selection_ if c["chosen"]), estimator.flow_)
    return {
        "table": table,
        "split": split,
        "model": model,
        "rows": {"fit": len(train), "test": len(test)},
        "columns": train.shape[1],
        "test": float(scores.mean()),
        "test_se": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "test_median": float(np.median(scores)),
        "seconds": time.process_time() - began,
        **extra,
    }


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per table and model mean and standard error over the splits, and of the gain on the old defaults."""
    found = {(r["table"], r["model"], r["split"]): r for r in runs}
    rows = []
    for table in (*TABLES, *SMALL):
        for model in (*MODELS, *SMALL_MODELS):
            mine = [found[table, model, s] for s in SPLITS if (table, model, s) in found]
            if not mine:
                continue
            gains = [
                r["test"] - found[table, "old", r["split"]]["test"]
                for r in mine
                if (table, "old", r["split"]) in found
            ]
            rows.append(
                {
                    "table": table,
                    "model": model,
                    "splits": len(mine),
                    "test": summary([r["test"] for r in mine]),
                    "gain": summary(gains) if gains and model != "old" else None,
                    "seconds": float(np.mean([r["seconds"] for r in mine])),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", default=[*SMALL, *TABLES], choices=[*SMALL, *TABLES])
    parser.add_argument("--splits", nargs="+", type=int, default=list(SPLITS), choices=SPLITS)
    parser.add_argument("--fresh", action="store_true", help="measure again what has results")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    settings = {
        "fit_rows": TRAIN,
        "test_rows": TEST,
        "old": OLD,
        "new": {
            **_defaults(),
            "flow_options": FLOW_DEFAULTS,
            "flows": {name: asdict(r) for name, r in FLOW_CHOICES.items()},
        },
        "units": "nats per row",
    }
    runs = earlier_runs("defaults", settings=settings)
    for split in args.splits:
        for table in args.tables:
            for model in (*MODELS, *(SMALL_MODELS if table in SMALL else ())):
                same = [r for r in runs if (r["table"], r["split"], r["model"]) == (table, split, model)]
                if same and not args.fresh:
                    continue
                run = fit(table, split, model)
                runs = [r for r in runs if r not in same] + [run]
                write("defaults", {"settings": settings, "compared": compared(runs), "runs": runs})
                print(
                    f"{table:14}{split}  {model:18}{run['test']:10.3f} ± {run['test_se']:.3f} "
                    f"{run['seconds']:6.0f} s  {run.get('steps', '')}",
                    flush=True,
                )
    for row in compared(runs):
        gain = row["gain"] or {"mean": 0.0, "standard_error": 0.0}
        test = row["test"]
        print(
            f"{row['table']:14}{row['model']:18}{test['mean']:10.3f} ± {test['standard_error']:.3f}"
            f"  gain {gain['mean']:7.3f} ± {gain['standard_error']:.3f}  {row['seconds']:5.0f} s"
        )


def _defaults() -> dict[str, Any]:
    names = ("flow", "max_epochs", "batch_size", "schedule", "learning_rate", "ema", "patience")
    params = {**FlowDensity().get_params(deep=False), **Training().get_params()}
    return {name: params[name] for name in names}


if __name__ == "__main__":
    main()
