"""Islands that are no ellipses: are they found, kept, and counted?

NVF with flow and number of states chosen, and scikit-learn's GaussianMixture told the true number, and with
its number by BIC, on the same 1,500 rows. Agreement with the islands (adjusted Rand index) and likelihood on
4,000 other rows. Seconds are of the processor, one thread a fit. Results are kept as they come.

Run: python benchmarks/islands.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.mixture import GaussianMixture

from common import earlier_runs, summary, write
from modeflow.data import toy
from modeflow.estimators import NVF
from modeflow.metrics import adjusted_rand

ROWS, TEST = 1500, 4000

Draw = tuple[np.ndarray, np.ndarray]


def spirals(n: int, seed: int) -> Draw:
    """Two arms, from a quarter of a turn and a half on."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.25, 1, n) * 3 * np.pi
    arm = rng.integers(0, 2, n)
    sign = np.where(arm == 0, 1, -1)
    return np.c_[np.cos(t) * t * sign, np.sin(t) * t * sign] / 3 + 0.1 * rng.normal(size=(n, 2)), arm


def dimensions(n: int, seed: int) -> Draw:
    """A circle, a ball and a square in three dimensions."""
    rng = np.random.default_rng(seed)
    which, angle = rng.integers(0, 3, n), rng.uniform(0, 2 * np.pi, n)
    circle = 2 * np.c_[np.cos(angle), np.sin(angle), 0 * angle]
    ball = 0.5 * rng.normal(size=(n, 3)) + [6, 0, 0]
    square = np.c_[rng.uniform(-1, 1, (n, 2)), np.full(n, 5.0)]
    return np.stack([circle, ball, square])[which, np.arange(n)] + 0.03 * rng.normal(size=(n, 3)), which


SETS: dict[str, tuple[int, Callable[[int, int], Draw]]] = {
    "two circles": (2, lambda n, s: make_circles(n, noise=0.05, factor=0.5, random_state=s)),
    "two moons": (2, lambda n, s: make_moons(n, noise=0.06, random_state=s)),
    "two spirals": (2, spirals),
    "three rings": (3, toy("rings:k=3").sample_with_labels),
    "circle, ball and square": (3, dimensions),
    "six shapes": (6, toy("shapes").sample_with_labels),
    "seven blobs": (7, lambda n, s: make_blobs(n, centers=7, center_box=(-10, 10), random_state=s)),
}


MODELS = ("NVF", "GaussianMixture", "GaussianMixture by BIC")
#: Components that BIC chooses from.
_MOST = 30


def fit(name: str, seed: int, model: str) -> dict[str, Any]:
    """One model on one draw."""
    torch.set_num_threads(1)
    count, draw = SETS[name]
    x, label = draw(ROWS + TEST, seed)  # of one call: the blobs' centres are drawn with it
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:ROWS], order[ROWS:]
    began = time.process_time()

    def mixture(k: int) -> GaussianMixture:
        return GaussianMixture(k, n_init=3, random_state=seed).fit(x[train])

    if model == "NVF":
        fitted: Any = NVF(random_state=seed).fit(x[train])
        states = fitted.n_states_
    else:
        known = model == "GaussianMixture"
        trials = [mixture(k) for k in ([count] if known else range(1, _MOST + 1))]
        fitted = min(trials, key=lambda each: each.bic(x[train]))
        states = fitted.n_components
    return {
        "set": name,
        "islands": count,
        "seed": seed,
        "model": model,
        "states": int(states),
        "agreement": adjusted_rand(fitted.predict(x[test]), label[test]),
        "test": float(fitted.score_samples(x[test]).mean()),
        "seconds": time.process_time() - began,
    }


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per set and model, means over the seeds, and the numbers of states."""
    rows = []
    for name in SETS:
        for model in MODELS:
            mine = sorted(
                (r for r in runs if (r["set"], r["model"]) == (name, model)), key=lambda r: r["seed"]
            )
            if mine:
                line: dict[str, Any] = {
                    key: summary([r[key] for r in mine]) for key in ("agreement", "test", "seconds")
                }
                states = [r["states"] for r in mine]
                rows.append({"set": name, "islands": SETS[name][0], "model": model, "states": states, **line})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = earlier_runs("islands", rows=ROWS, test_rows=TEST)
    for seed in range(args.seeds):
        for name in SETS:
            for model in MODELS:
                if any((r["set"], r["seed"], r["model"]) == (name, seed, model) for r in runs):
                    continue
                runs.append(run := fit(name, seed, model))
                write("islands", {"rows": ROWS, "test_rows": TEST, "table": compared(runs), "runs": runs})
                print(
                    f"{name:26}{seed}  {model:24}K {run['states']:2}  agreement {run['agreement']:.3f}  "
                    f"{run['test']:8.3f} nats  {run['seconds']:5.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
