"""Toys of known entropy: how close does each model come, and how much mass lies between the islands?

Models: NVF (its flow a coupling NSF) with K chosen, NVF told K, plain NSF (coupling) and RealNVP of as many
parameters as NVF told K, zuko's NSF, scikit-learn's GaussianMixture (K by BIC). Same rows, same number of
optimiser steps at most, same training (schedule, averaged weights, early stopping on the same validation
rows) of all flows. Seconds are of the processor, one thread a fit. Results are kept as they come.

Run: python benchmarks/toys.py [--seeds 3] [--jobs 2]
"""

from __future__ import annotations

import argparse
import time
import warnings
from concurrent.futures import as_completed
from typing import Any

import numpy as np
import torch

from common import ZukoNSF, earlier_runs, in_groups, n_parameters, sizes_near, summary, workers, write
from modeflow.data import Schema, toy
from modeflow.data.table import default_columns
from modeflow.densities import Preprocessed
from modeflow.estimators import NVF, FlowDensity
from modeflow.estimators.settings import Settings
from modeflow.flows import build_flow
from modeflow.metrics import bridge_mass, modes_found, true_bridge_mass
from modeflow.models import DiscreteNVF
from modeflow.runs.baselines import GaussianMixtureByBIC
from modeflow.training import Trainer, Training, seeded
from modeflow.transforms import Standardize

TOYS = {"ring": 8, "moons": 2, "grid": 25, "gaussians:k=8,d=10": 8}
ROWS, VALIDATION, TEST, SAMPLES = 20_000, 4000, 20_000, 100_000
FLOW = {"layers": 4, "hidden_features": 32}
FIT = {"max_epochs": 40, "batch_size": 512, "patience": 12}


def model_size(features: int, k: int) -> int:
    return n_parameters(DiscreteNVF(features, k, flow="nsf-coupling", flow_options=FLOW))


def fit(model: str, name: str, seed: int) -> dict[str, Any]:
    """Fit one model to one toy; return test scores and samples with what they cost."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shape = toy(name)
    train, held = shape.sample(ROWS, 3 * seed), shape.sample(VALIDATION, 3 * seed + 1)
    test = shape.sample(TEST, 1000 + seed)
    d, k = shape.dim, TOYS[name]
    began = time.process_time()
    extra: dict[str, Any] = {}
    if model == "GaussianMixture":
        mixture = GaussianMixtureByBIC(Schema(default_columns(d), ("continuous",) * d), seed).fit(train)
        seconds = time.process_time() - began
        scores = mixture.score_samples(test)
        samples = mixture.mixture_.sample(SAMPLES)[0] * mixture.scale_ + mixture.mean_
        extra = {"parameters": mixture.n_parameters, "states": mixture.n_components_}
    elif model == "zuko NSF":
        target = model_size(d, k)

        def build(width: int) -> Any:
            return ZukoNSF(d, FLOW["layers"], width, 8)

        width, size = sizes_near(target, build, range(8, 129, 4))
        x = torch.from_numpy(train)
        with seeded(seed):
            density = Preprocessed(Standardize(d).fit(x), build(width))
            settings = Settings.of(FlowDensity(**in_groups(FIT)), seed)
            Trainer(settings.training(ROWS), quiet=True).fit(density, x, torch.from_numpy(held))
            seconds = time.process_time() - began
            with torch.no_grad():
                scores = density.log_prob(torch.from_numpy(test)).double().numpy()
                samples = density.sample(SAMPLES).numpy()
        extra = {"parameters": size, "hidden": width}
    else:
        if model.startswith("NVF"):
            count: Any = k if "known" in model else "auto"
            chosen = {"flow": "nsf-coupling", "flow_options": FLOW}
            estimator: Any = NVF(count, **chosen, random_state=seed, **in_groups(FIT))
        else:
            flow = "nsf-coupling" if model == "NSF" else "realnvp"

            def plain(width: int) -> Any:
                return build_flow(flow, d, 0, {**FLOW, "hidden_features": width})

            width, _ = sizes_near(model_size(d, k), plain, range(8, 161, 4))
            options = {**FLOW, "hidden_features": width}
            estimator = FlowDensity(flow, flow_options=options, random_state=seed, **in_groups(FIT))
        estimator.fit(train, validation=held)
        seconds = time.process_time() - began
        scores = estimator.score_samples(test)
        samples, _ = estimator.sample(SAMPLES)
        extra = {"parameters": n_parameters(estimator.model_), "states": estimator.n_states_}
    result = {"model": model, "toy": name, "seed": seed, "seconds": seconds, **extra}
    result["test"] = float(scores.mean())
    result["test_se"] = float(scores.std(ddof=1) / np.sqrt(len(scores)))
    if shape.has_density:
        gap = shape.log_prob(test) - scores
        result["gap"], result["gap_se"] = float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))
    if shape.modes is not None and shape.scale is not None:
        result["bridge"] = bridge_mass(samples, shape.modes, shape.scale)
        result["true_bridge"] = true_bridge_mass(shape)
        result["modes_found"] = modes_found(samples, shape.modes, shape.scale)
        result["modes"] = len(shape.modes)
    return result


MODELS = ("NVF", "NVF, K known", "NSF", "RealNVP", "zuko NSF", "GaussianMixture")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    runs = earlier_runs("toys", settings=settings())
    done = {(r["model"], r["toy"], r["seed"]) for r in runs}
    wanted = [(m, t, s) for s in range(args.seeds) for t in TOYS for m in MODELS]
    wanted = [each for each in wanted if each not in done]
    with workers(args.jobs) as pool:
        for future in as_completed([pool.submit(fit, *each) for each in wanted]):
            run = future.result()
            runs.append(run)
            gap = f" gap {run['gap']:+.4f}" if "gap" in run else ""
            print(
                f"{run['toy']:20}{run['model']:16} seed {run['seed']} test {run['test']:.4f}{gap} "
                f"K={run.get('states', '-')} {run['seconds']:.0f} s",
                flush=True,
            )
            store(runs)


def settings() -> dict[str, Any]:
    """What the numbers depend on; the training is that of the estimators' defaults."""
    defaults = {**FlowDensity().get_params(deep=False), **Training().get_params()}
    training = {name: defaults[name] for name in ("schedule", "learning_rate", "ema")}
    return {
        "rows": ROWS,
        "validation": VALIDATION,
        "test": TEST,
        "samples": SAMPLES,
        "flow": FLOW,
        "fit": FIT,
        "training": training,
    }


def store(runs: list[dict[str, Any]]) -> None:
    """Write means over the seeds there are, and every run."""
    runs.sort(key=lambda r: (list(TOYS).index(r["toy"]), MODELS.index(r["model"]), r["seed"]))
    table = []
    for name in TOYS:
        for model in MODELS:
            rows = [r for r in runs if r["toy"] == name and r["model"] == model]
            if not rows:
                continue
            line: dict[str, Any] = {"toy": name, "model": model, "parameters": rows[0]["parameters"]}
            for key in ("test", "gap", "bridge", "modes_found", "seconds"):
                if key in rows[0]:
                    line[key] = summary([r[key] for r in rows])
            line |= {k: rows[0][k] for k in ("true_bridge", "modes") if k in rows[0]}
            line["states"] = [r.get("states") for r in rows]
            table.append(line)
    write("toys", {"settings": settings(), "table": table, "runs": runs})


if __name__ == "__main__":
    main()
