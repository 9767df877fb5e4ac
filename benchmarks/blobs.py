"""Plainly separated Gaussians: is their number found, and what does the choice cost?

Two and three Gaussians (1,000 rows) and five of 60 to 1 per cent (2,000 rows), eight standard deviations and
more apart. NVF with everything chosen; a plain fit of the flow it chose, with the number of states given;
scikit-learn's GaussianMixture with its number by BIC. Agreement (adjusted Rand index) and the gap to the true
density on 4,000 other rows. Seconds are of the processor, one thread a fit. Results are kept as they come.

Run: python benchmarks/blobs.py [--seeds 9]
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.mixture import GaussianMixture

from common import earlier_runs, summary, write
from modeflow.estimators import NVF
from modeflow.metrics import adjusted_rand

TEST = 4000
#: Rows, and the means and shares of the Gaussians, all of unit variance.
SETS: dict[str, tuple[int, list[list[float]], list[float]]] = {
    "two": (1000, [[-5, -5], [5, 5]], [0.5, 0.5]),
    "three": (1000, [[-5, -5], [5, 5], [5, -5]], [0.4, 0.4, 0.2]),
    "five": (2000, [[0, 0], [8, 0], [0, 8], [8, 8], [16, 16]], [0.6, 0.25, 0.1, 0.04, 0.01]),
}
MODELS = ("NVF", "NVF, nothing chosen", "GaussianMixture by BIC")


def fit(name: str, seed: int) -> list[dict[str, Any]]:
    """All models on one draw; the second is told what the first has chosen."""
    torch.set_num_threads(1)
    rows, modes, shares = SETS[name]
    rng = np.random.default_rng(seed)
    means = np.array(modes, dtype=float)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        which = rng.choice(len(shares), n, p=shares)
        return means[which] + rng.normal(size=(n, 2)), which

    x, _ = draw(rows)
    test, label = draw(TEST)
    density = sum(w * np.exp(norm.logpdf(test - m).sum(1)) for w, m in zip(shares, means, strict=True))
    truth = float(np.log(density).mean())
    found = []
    chosen: dict[str, Any] = {}
    for model in MODELS:
        began = time.process_time()
        if model == "NVF":
            fitted: Any = NVF(random_state=seed).fit(x)
            chosen = {
                "n_states": fitted.n_states_,
                "flow": fitted.flow_,
                "flow_options": fitted.flow_options_,
            }
        elif chosen and model != MODELS[2]:
            fitted = NVF(**chosen, random_state=seed).fit(x)
        else:
            trials = [GaussianMixture(k, n_init=2, random_state=seed).fit(x) for k in range(1, 8)]
            fitted = min(trials, key=lambda mixture: mixture.bic(x))
        seconds = time.process_time() - began
        found.append(
            {
                "set": name,
                "seed": seed,
                "model": model,
                "states": int(getattr(fitted, "n_states_", 0) or fitted.n_components),
                "agreement": adjusted_rand(fitted.predict(test), label),
                "gap": truth - float(fitted.score_samples(test).mean()),
                "seconds": seconds,
            }
        )
    return found


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per set and model: how often the number was right, and means over the seeds."""
    rows = []
    for name in SETS:
        for model in MODELS:
            mine = [r for r in runs if (r["set"], r["model"]) == (name, model)]
            if mine:
                line: dict[str, Any] = {
                    key: summary([r[key] for r in mine]) for key in ("agreement", "gap", "seconds")
                }
                right = sum(r["states"] == len(SETS[name][1]) for r in mine)
                worst = max(r["gap"] for r in mine)
                rows.append(
                    {
                        "set": name,
                        "model": model,
                        "fits": len(mine),
                        "right": right,
                        **line,
                        "largest_gap": worst,
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=9)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    runs = earlier_runs("blobs", test_rows=TEST)
    for seed in range(args.seeds):
        for name in SETS:
            if any((r["set"], r["seed"]) == (name, seed) for r in runs):
                continue
            runs += fit(name, seed)
            write("blobs", {"test_rows": TEST, "table": compared(runs), "runs": runs})
            for r in runs[-len(MODELS) :]:
                print(
                    f"{name:8}{seed}  {r['model']:24}K {r['states']:2}  agreement {r['agreement']:.3f}  "
                    f"gap {r['gap']:6.3f}  {r['seconds']:5.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
