"""Islands that are no ellipses: are they found, kept, and counted?

NVF with flow and number of states chosen, and scikit-learn's GaussianMixture told the true
number, on the same 1,500 rows. Agreement with the islands (adjusted Rand index) and likelihood on 4,000 other
rows. Seconds are of the processor, one thread a fit. Results are kept as they come.

Run: python benchmarks/islands.py [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.mixture import GaussianMixture

from common import RESULTS, summary, write
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


def fit(name: str, seed: int) -> list[dict[str, Any]]:
    """Both models on one draw."""
    torch.set_num_threads(1)
    count, draw = SETS[name]
    x, label = draw(ROWS + TEST, seed)  # of one call: the blobs' centres are drawn with it
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:ROWS], order[ROWS:]
    found = []
    for model in ("NVF", "GaussianMixture"):
        began = time.process_time()
        known = {"NVF": {}, "GaussianMixture": {"n_components": count, "n_init": 3}}[model]
        kind: Any = NVF if model == "NVF" else GaussianMixture
        fitted = kind(**known, random_state=seed).fit(x[train])
        states = fitted.predict(x[test])
        found.append(
            {
                "set": name,
                "islands": count,
                "seed": seed,
                "model": model,
                "states": int(fitted.n_states_ if model == "NVF" else count),
                "agreement": adjusted_rand(states, label[test]),
                "test": float(fitted.score_samples(x[test]).mean()),
                "seconds": time.process_time() - began,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    file = RESULTS / "islands.json"
    runs: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["runs"] if file.exists() else []
    for seed in range(args.seeds):
        for name in SETS:
            if any(r["set"] == name and r["seed"] == seed for r in runs):
                continue
            runs += fit(name, seed)
            table = []
            for each in SETS:
                for model in ("NVF", "GaussianMixture"):
                    mine = [r for r in runs if r["set"] == each and r["model"] == model]
                    if mine:
                        keys = ("agreement", "test", "seconds")
                        line = {key: summary([r[key] for r in mine]) for key in keys}
                        states = [r["states"] for r in mine]
                        table.append(
                            {"set": each, "islands": SETS[each][0], "model": model, "states": states, **line}
                        )
            write("islands", {"rows": ROWS, "test_rows": TEST, "table": table, "runs": runs})
            for r in runs[-2:]:
                print(
                    f"{name:26}{seed}  {r['model']:16}K {r['states']:2}  agreement {r['agreement']:.3f}  "
                    f"{r['test']:8.3f} nats  {r['seconds']:5.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
