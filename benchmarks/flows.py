"""Every vector flow on the same data with one budget: likelihood, speed, accuracy of the inverse.

Data: 4 Gaussians on a ring, 4 sigma apart and so of known entropy; the tables power-head and protein
(80/10/10 by seed 0, training rows capped at 10,000, the test set whole). Every flow has the recipe's own
size and the same number of steps, batch, learning rate and selection by validation likelihood; the
picture on two moons is of the same budget. Timings are taken alone, after all fits, one thread, on rows
like protein's; a step is loss, gradient, clipping and Adam.

Run: python benchmarks/flows.py [--jobs 2] [--flows NAME ...]
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from concurrent.futures import as_completed
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from common import RESULTS, in_groups, n_parameters, workers, write
from modeflow.data import Schema, Table, load_dataset, split_table, toy
from modeflow.densities import Density, Flow
from modeflow.domains import TableDomain
from modeflow.errors import ModeflowError
from modeflow.estimators import FlowDensity
from modeflow.flows import FLOWS, build_flow
from modeflow.training import seeded

MIXTURE = "ring:k=4,sigma=0.35"
SCALES = {"power-head": {"Global_active_power": 500, "Voltage": 100}, "protein": {}}
DATA = ("mixture", *SCALES, "moons")
ROWS, VALIDATION, TEST = 10_000, 2_000, 20_000
FIT: dict[str, Any] = {"max_epochs": 60, "batch_size": 256, "patience": None}
PICTURES = Path(__file__).parents[1] / "docs" / "images" / "flows"
VECTOR = [key for key, info in FLOWS.items() if info.event in ("vector", "both")]


def load(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Schema]:
    """Training, validation and test rows, and the kinds of the columns."""
    if name in SCALES:
        table = load_dataset(name).table
        scale = np.array([SCALES[name].get(c, 1.0) for c in table.columns])
        values = table.values * scale
        # Rounded columns become whole numbers, which are dequantised.
        table = type(table)(np.where(scale != 1, np.round(values), values), table.columns)
        split = split_table(table, seed=0)
        schema = Schema.infer(table.values, table.columns)
        return split.train.values[:ROWS], split.validation.values[:VALIDATION], split.test.values, schema
    kind = toy(MIXTURE if name == "mixture" else "moons")
    parts = [kind.sample(n, seed) for seed, n in enumerate((ROWS, VALIDATION, TEST), 100)]
    return parts[0], parts[1], parts[2], Schema.infer(parts[0], ("x", "y"))


def fit(key: str, name: str) -> dict[str, Any]:
    """Fit one flow to one data set and score the whole test set once."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    train, validation, test, schema = load(name)

    def rows(values: np.ndarray) -> Any:
        return TableDomain.rows(Table(values, schema.columns))

    estimator = FlowDensity(key, random_state=0, dequantize=schema.dequantize_option, **in_groups(FIT))
    began = time.process_time()
    estimator.fit(rows(train), validation=rows(validation))
    seconds = time.process_time() - began
    scores = estimator.score_samples(rows(test))
    row = {
        "flow": key,
        "data": name,
        "density": estimator.density_kind_,
        "test": float(scores.mean()),
        "test_se": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "rows": {"train": len(train), "validation": len(validation), "test": len(test)},
        "parameters": n_parameters(estimator.model_),
        "seconds": seconds,
        "best_epoch": estimator.training_["best_epoch"],
    }
    if name == "mixture":
        # The gap on these very rows: E[log p_true - log p], with the error of that difference.
        gap = toy(MIXTURE).log_prob(test) - scores
        row |= {"gap": float(gap.mean()), "gap_se": float(gap.std(ddof=1) / math.sqrt(len(gap)))}
    if name == "moons":
        picture(estimator, test[:1500], PICTURES / f"{key}.png")
    return row


def picture(estimator: FlowDensity, data: np.ndarray, path: Path) -> None:
    """Two moons: the model's density beside its samples, with rows of the data."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    low, high = data.min(0) - 0.6, data.max(0) + 0.6
    axes = [np.linspace(a, b, 160) for a, b in zip(low, high, strict=True)]
    x, y = np.meshgrid(*axes)
    grid = Table(np.column_stack([x.ravel(), y.ravel()]), estimator.schema_.columns)
    density = np.exp(estimator.score_samples(TableDomain.rows(grid)))
    samples = np.asarray(estimator.sample(1500, random_state=1)[0])
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.1), layout="constrained")
    left.pcolormesh(x, y, density.reshape(x.shape), cmap="magma", shading="auto", rasterized=True)
    left.set_title("density", fontsize=10)
    right.scatter(*data.T, s=2, c="#bbbbbb", label="data", linewidths=0)
    right.scatter(*samples.T, s=2, c="#0072b2", label="samples", linewidths=0)
    right.set_title("samples (blue) on data (grey)", fontsize=10)
    for ax in (left, right):
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])
        ax.set_aspect("equal")
        ax.tick_params(labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def timings(key: str, features: int = 10, rows: int = 256) -> dict[str, Any]:
    """Milliseconds of a training step and of 1,000 samples; the float32 error of a round trip."""
    torch.set_num_threads(1)
    with seeded(0):
        flow = build_flow(key, features)
        x = torch.randn(rows, features)
        optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3, fused=True)
        steps, draws = [], []
        for step in range(12):
            began = time.perf_counter()
            optimiser.zero_grad()
            flow.objective(x, step=step).value.backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimiser.step()
            steps.append(time.perf_counter() - began)
        flow.eval()
        for _ in range(3):
            began = time.perf_counter()
            flow.sample(1000)
            draws.append(time.perf_counter() - began)
        return {
            "flow": key,
            "step_ms": 1e3 * median(steps[2:]),
            "sample_1000_ms": 1e3 * median(draws),
            "round_trip": round_trip(flow, torch.randn(1000, features)),
        }


@torch.no_grad()
def round_trip(flow: Density, x: torch.Tensor) -> float | None:
    """Largest error of inverse(forward(x)) in float32, where the flow is a bijection."""
    if not isinstance(flow, Flow):
        return None
    try:
        u, _ = flow.transform(x)
        return float((flow.transform.inverse(u)[0] - x).abs().max())
    except (ModeflowError, NotImplementedError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--flows", nargs="+", default=VECTOR, choices=VECTOR)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    parser.add_argument("--no-timings", action="store_true")
    args = parser.parse_args()
    earlier = RESULTS / "flows.json"
    content: dict[str, Any] = {"runs": [], "timings": []}
    if earlier.exists():
        content = json.loads(earlier.read_text(encoding="utf-8"))
    wanted = [(k, d) for d in args.data for k in args.flows]
    runs = {(r["flow"], r["data"]): r for r in content["runs"]}
    runs = {pair: r for pair, r in runs.items() if not (args.fresh and pair in wanted)}
    timed = {t["flow"]: t for t in content["timings"]}

    def save() -> None:
        order = [(k, d) for k in VECTOR for d in DATA]
        write(
            "flows",
            {
                "settings": {"fit": FIT, "mixture": MIXTURE, "train_cap": ROWS, "scaled": SCALES},
                "runs": [runs[pair] for pair in order if pair in runs],
                "timings": [timed[k] for k in VECTOR if k in timed],
            },
        )

    with workers(args.jobs) as pool:
        futures = {pool.submit(fit, *pair): pair for pair in wanted if pair not in runs}
        for future in as_completed(futures):
            key, name = futures[future]
            try:
                run = future.result()
            except ModeflowError as error:
                print(f"{name:12}{key:20} failed: {error}", flush=True)
                continue
            runs[key, name] = run
            save()
            gap = f" gap {run['gap']:.4f}" if "gap" in run else ""
            print(
                f"{name:12}{key:20}{run['test']:10.4f} ± {run['test_se']:.4f}{gap} {run['seconds']:.0f} s",
                flush=True,
            )
    if not args.no_timings:
        for key in args.flows:
            timed[key] = timings(key)
            print(timed[key], flush=True)
    save()


if __name__ == "__main__":
    main()
