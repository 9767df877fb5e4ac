"""Real tables: test log-likelihood of NVF, plain flows, a Gaussian mixture and zuko's NSF.

One split per table (80/10/10 by seed 0); training rows are capped at 10,000, validation at 2,000; the test
set is whole. Same flow size, steps and early stopping for every flow; the mixture chooses K by BIC. Seconds
are of the processor, one thread a fit.

Run: python benchmarks/tables.py [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from common import RESULTS, ZukoNSF, n_parameters, write
from modeflow.data import Schema, load_dataset, split_table
from modeflow.densities import Preprocessed
from modeflow.estimators import NVF, FlowDensity
from modeflow.estimators.fitting import FitData
from modeflow.estimators.settings import as_tensor
from modeflow.experiments.baselines import GaussianMixtureByBIC
from modeflow.training import TrainConfig, Trainer, seeded
from modeflow.transforms import Standardize

# Rounded columns are scaled to whole numbers, which are then dequantised: no density on a grid of values.
TABLES: dict[str, dict[str, float]] = {
    "power-head": {"Global_active_power": 500, "Voltage": 100},
    "protein": {},
    "kin40k": {},
    "miniboone-val": {},
    "pumadyn32nm": {},
}
TRAIN, VALIDATION = 10_000, 2_000
FLOW: dict[str, Any] = {"layers": 5, "hidden_features": 64}
FIT: dict[str, Any] = {"max_epochs": 40, "batch_size": 256, "patience": 10}
MODELS = (
    "NVF coupling",
    "NVF autoregressive",
    "NSF coupling",
    "NSF autoregressive",
    "zuko NSF",
    "GaussianMixture",
)


def load(name: str) -> tuple[FitData, np.ndarray]:
    """Training and validation rows with their schema, and the test rows."""
    table = load_dataset(name).table
    split = split_table(table, seed=0)
    scale = np.array([TABLES[name].get(c, 1.0) for c in table.columns])

    def units(values: np.ndarray) -> np.ndarray:
        scaled = values * scale
        return np.where(scale != 1, np.round(scaled), scaled)

    train, validation, test = (units(part.values) for part in split)
    schema = Schema.infer(units(table.values), table.columns)
    return FitData(train[:TRAIN], validation[:VALIDATION], None, None, schema), test


def fit_zuko(data: FitData, test: np.ndarray) -> tuple[np.ndarray, int, dict[str, Any]]:
    """zuko's flow of the same depth, width and bins, by modeflow's trainer, scored as modeflow scores."""
    d = data.train.shape[1]
    noisy = as_tensor(data.schema.dequantize(data.train, np.random.default_rng(0)))
    with seeded(0):
        flow = ZukoNSF(d, FLOW["layers"], FLOW["hidden_features"], 8)
        model = Preprocessed(Standardize(d).fit(noisy), flow)
        history = Trainer(TrainConfig(**FIT)).fit(
            model, as_tensor(data.train), data.noisy_validation(1), augment=data.augment
        )

    @torch.no_grad()
    def log_prob(rows: np.ndarray) -> np.ndarray:
        return torch.cat([model.log_prob(x).double() for x in as_tensor(rows).split(4096)]).numpy()

    scores = data.schema.averaged(log_prob, test, 16)
    return scores, n_parameters(model), {"epochs": history.best_epoch}


def fit(model: str, name: str) -> dict[str, Any]:
    """Fit one model to one table and score the whole test set once."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    data, test = load(name)
    began = time.process_time()
    extra: dict[str, Any] = {}
    if model == "GaussianMixture":
        mixture = GaussianMixtureByBIC(data.schema).fit(data.train)
        scores, size = mixture.score_samples(test), mixture.n_parameters
        extra = {"states": mixture.n_components_}
    elif model == "zuko NSF":
        scores, size, extra = fit_zuko(data, test)
    else:
        kind, form = model.split()
        flow = f"nsf-{form}"
        options = {
            "flow_options": FLOW,
            "random_state": 0,
            "dequantize": data.schema.dequantize_option,
            **FIT,
        }
        import polars as pl

        columns = data.schema.columns
        estimator = NVF("auto", flow=flow, **options) if kind == "NVF" else FlowDensity(flow, **options)
        frame = pl.DataFrame(dict(zip(columns, data.train.T, strict=True)))
        held = pl.DataFrame(dict(zip(columns, data.validation.T, strict=True)))
        estimator.fit(frame, validation=held)
        scores = estimator.score_samples(pl.DataFrame(dict(zip(columns, test.T, strict=True))))
        size = n_parameters(estimator.model_)
        extra = {"states": estimator.n_states_, "epochs": estimator.training_["best_epoch"]}
        extra["selection"] = [{k: c[k] for k in ("n_states", "validation")} for c in estimator.selection_]
    return {
        "table": name,
        "model": model,
        "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(test)},
        "columns": len(data.schema.columns),
        "density": "lower bound" if data.schema.lattice_columns else "exact",
        "test": float(scores.mean()),
        "test_se": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "parameters": size,
        "seconds": time.process_time() - began,
        **extra,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--fresh", action="store_true", help="measure the tables again that have results")
    args = parser.parse_args()
    # Fits take long: what an interrupted or narrower run measured is kept and not fitted again.
    earlier = RESULTS / "tables.json"
    runs: list[dict[str, Any]] = []
    if earlier.exists():
        runs = json.loads(earlier.read_text(encoding="utf-8"))["runs"]
    if args.fresh:
        runs = [r for r in runs if r["table"] not in args.tables]
    done = {(r["model"], r["table"]) for r in runs}
    wanted = [(m, t) for t in args.tables for m in MODELS if (m, t) not in done]
    settings = {"train_cap": TRAIN, "flow": FLOW, "fit": FIT, "scaled": TABLES, "units": "nats per row"}
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(fit, *pair) for pair in wanted]):
            run = future.result()
            runs.append(run)
            order = [(m, t) for t in TABLES for m in MODELS]
            runs.sort(key=lambda r: order.index((r["model"], r["table"])))
            write("tables", {"settings": settings, "runs": runs})
            print(
                f"{run['table']:16}{run['model']:20}{run['test']:10.4f} ± {run['test_se']:.4f} "
                f"K={run.get('states', '-')} {run['seconds']:.0f} s",
                flush=True,
            )
    print(f"{len(runs)} results in {earlier}")


if __name__ == "__main__":
    main()
