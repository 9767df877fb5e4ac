"""Real tables: test log-likelihood of NVF, a plain flow, a Gaussian mixture and zuko's NSF, three splits.

Splits are 80/10/10 by seed; training rows are capped at 4,000, validation at 1,000; the test set is whole and
scored once. NVF and the plain flow have their defaults: the flow, and of NVF the number of states, is chosen
by cross-fitting on the training and validation rows. zuko's flow is given the same: the maps of columns, the
training (schedule, averaged weights, early stopping), and the choice of two sizes by validation rows. The
mixture chooses K by BIC. Seconds are of the processor, one thread a fit, choices included.

Run: python benchmarks/tables.py [--jobs 2]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from common import RESULTS, ZukoNSF, earlier_runs, n_parameters, summary, write
from modeflow.data import Schema, load_dataset, split_table
from modeflow.densities import Preprocessed
from modeflow.domains import TableDomain
from modeflow.estimators import NVF, FlowDensity
from modeflow.estimators.fitting import FitData
from modeflow.estimators.settings import Settings
from modeflow.runs.baselines import GaussianMixtureByBIC
from modeflow.training import Trainer, seeded

# Rounded columns are scaled to whole numbers, which are then dequantised: no density on a grid of values.
TABLES: dict[str, dict[str, float]] = {
    "power-head": {"Global_active_power": 500, "Voltage": 100},
    "protein": {},
    "kin40k": {},
    "miniboone-val": {},
    "pumadyn32nm": {},
}
TRAIN, VALIDATION = 4_000, 1_000
SPLITS = (0, 1, 2)
#: Depth and width of zuko's flow: its own default, and deeper.
ZUKO = ((3, 64), (5, 64))
MODELS = ("NVF", "plain flow", "zuko NSF", "GaussianMixture")


def load(name: str, seed: int) -> tuple[FitData, Schema, np.ndarray]:
    """Training and validation rows, the schema, and the test rows."""
    table = load_dataset(name).table
    split = split_table(table, seed=seed)
    scale = np.array([TABLES[name].get(c, 1.0) for c in table.columns])

    def units(values: np.ndarray) -> np.ndarray:
        scaled = values * scale
        return np.where(scale != 1, np.round(scaled), scaled)

    train, validation, test = (units(part.values) for part in split)
    schema = Schema.infer(units(table.values), table.columns)
    return FitData(train[:TRAIN], validation[:VALIDATION], None, None, TableDomain(schema)), schema, test


def fit_zuko(data: FitData, test: np.ndarray, seed: int) -> tuple[np.ndarray, int, dict[str, Any]]:
    """zuko's flow behind modeflow's maps of columns and by its trainer, scored as modeflow scores."""
    settings, domain = Settings.of(FlowDensity(), seed), data.domain
    best: tuple[float, Any, dict[str, Any]] = (-math.inf, None, {})
    for layers, hidden in ZUKO:
        with seeded(seed):
            columns = domain.preprocessing()
            domain.fit_preprocessing(columns, data.rows, None, settings.bare)
            model = Preprocessed(columns, ZukoNSF(data.train.shape[1], layers, hidden, 8), draws=1)
        history = Trainer(settings.training(len(data.train)), quiet=True).fit(model, data.rows, data.held)
        if history.best_validation > best[0]:
            best = history.best_validation, model, {"layers": layers, "hidden": hidden}
    _, model, extra = best
    model = model.double().eval()
    model.draws = 16
    with torch.no_grad():
        scores = torch.cat([model.log_prob(x) for x in domain.to_tensor(test).split(4096)])
    return scores.numpy(), n_parameters(model), extra


def fit(model: str, name: str, split: int) -> dict[str, Any]:
    """Fit one model to one table and score the whole test set once."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data, schema, test = load(name, split)
    began = time.process_time()
    extra: dict[str, Any] = {}
    if model == "GaussianMixture":
        mixture = GaussianMixtureByBIC(schema, seed=split).fit(data.train)
        scores, size = mixture.score_samples(test), mixture.n_parameters
        extra = {"states": mixture.n_components_}
    elif model == "zuko NSF":
        scores, size, extra = fit_zuko(data, test, split)
    else:
        options = {"random_state": split, "dequantize": schema.dequantize_option}
        import polars as pl

        columns = schema.columns
        kind: Any = NVF if model == "NVF" else FlowDensity
        frame = pl.DataFrame(dict(zip(columns, data.train.T, strict=True)))
        held = pl.DataFrame(dict(zip(columns, data.validation.T, strict=True)))
        estimator = kind(**options).fit(frame, validation=held)
        scores = estimator.score_samples(pl.DataFrame(dict(zip(columns, test.T, strict=True))))
        size = n_parameters(estimator.model_)
        flow = next((c["flow"] for c in estimator.selection_ if c["chosen"]), estimator.flow_)
        extra = {"states": estimator.n_states_, "flow": flow, "epochs": estimator.training_["best_epoch"]}
    return {
        "table": name,
        "split": split,
        "model": model,
        "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(test)},
        "columns": len(schema.columns),
        "density": "lower bound" if schema.lattice_columns else "exact",
        "test": float(scores.mean()),
        "test_se": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "parameters": size,
        "seconds": time.process_time() - began,
        **extra,
    }


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per table and model, mean and standard error over the splits; of one split, over its test rows."""
    rows = []
    for name in TABLES:
        for model in MODELS:
            mine = [r for r in runs if (r["table"], r["model"]) == (name, model)]
            if mine:
                line = {key: summary([r[key] for r in mine]) for key in ("test", "seconds")}
                if len(mine) == 1:
                    line["test"]["standard_error"] = mine[0]["test_se"]
                shared = {k: mine[0][k] for k in ("columns", "density")}
                states = [r.get("states") for r in mine]
                rows.append({"table": name, "model": model, **shared, **line, "states": states})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--fresh", action="store_true", help="measure the tables again that have results")
    args = parser.parse_args()
    # Fits take long: what an interrupted or narrower run measured is kept and not fitted again.
    settings = {"train_cap": TRAIN, "zuko": ZUKO, "scaled": TABLES, "units": "nats per row"}
    runs = earlier_runs("tables", settings=settings)
    if args.fresh:
        runs = [r for r in runs if r["table"] not in args.tables]
    done = {(r["model"], r["table"], r["split"]) for r in runs}
    order = [(m, t, s) for s in SPLITS for t in TABLES for m in MODELS]
    wanted = [each for each in order if each not in done and each[1] in args.tables]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(fit, *each) for each in wanted]):
            run = future.result()
            runs.append(run)
            runs.sort(key=lambda r: order.index((r["model"], r["table"], r["split"])))
            write("tables", {"settings": settings, "table": compared(runs), "runs": runs})
            print(
                f"{run['table']:16}{run['split']}  {run['model']:18}{run['test']:10.4f} "
                f"± {run['test_se']:.4f} K={run.get('states', '-')} {run['seconds']:.0f} s",
                flush=True,
            )
    print(f"{len(runs)} results in {RESULTS / 'tables.json'}")


if __name__ == "__main__":
    main()
