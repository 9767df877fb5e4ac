"""What each objective of a continuous latent makes of a VAE: two moons, one budget, two seeds.

The bound that is reported is the same for all (IWAE by 500 draws); so is the decoder, and the number of
epochs. Run: python benchmarks/bounds.py; what has a result is not fitted again.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import torch

from common import earlier_runs, write
from modeflow.data import toy
from modeflow.estimators import NVF

ROWS, TEST, EPOCHS, SEEDS, DRAWS = 4_000, 1_000, 40, 2, 500
OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {},
    "elbo, 8 draws": {"train_draws": 8},
    "elbo, stl": {"gradient": "stl"},
    "iwae": {"objective": "iwae"},
    "iwae, dreg": {"objective": "iwae", "gradient": "dreg"},
    "renyi 0.5, dreg": {"objective": "renyi", "alpha": 0.5, "gradient": "dreg"},
    "cubo 2": {"objective": "cubo"},
    "wake": {"objective": "wake"},
    "wake, dreg": {"objective": "wake", "gradient": "dreg"},
    "wake-sleep": {"objective": "wake-sleep"},
    "wake-sleep, asleep": {"objective": "wake-sleep", "sleep_share": 1.0},
}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    shape = toy("moons")
    settings = {"rows": ROWS, "test": TEST, "epochs": EPOCHS, "draws": DRAWS}
    runs = earlier_runs("bounds", **settings)
    for name, options in OBJECTIVES.items():
        for seed in range(SEEDS):
            if any((run["objective"], run["seed"]) == (name, seed) for run in runs):
                continue
            train, test = shape.sample(ROWS, seed), shape.sample(TEST, 1000 + seed)
            model = NVF(
                latent="continuous",
                likelihood="gaussian",
                latent_options={"features": 2, "draws": DRAWS, **options},
                max_epochs=EPOCHS,
                random_state=seed,
                training={"patience": None},
            )
            began = time.process_time()
            model.fit(train)
            seconds = time.process_time() - began
            scores, gaps = model.score_samples(test), model.gaps(test[:200])
            run = {
                "objective": name,
                "seed": seed,
                "test": float(scores.mean()),
                "test_se": float(scores.std(ddof=1) / math.sqrt(TEST)),
                "gaps": gaps.to_dict(),
                "seconds": seconds,
            }
            print(run, flush=True)
            runs.append(run)
            write("bounds", {**settings, "runs": runs})


if __name__ == "__main__":
    main()
