"""What each objective does to a model that starts at the right mixture: ring of eight Gaussians.

Every fit starts at the same Gaussian mixture of the islands and trains without early stopping, so that the
objective alone decides where it ends. Run: python benchmarks/objectives.py
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from common import summary, write
from modeflow.data import toy
from modeflow.estimators import NVF
from modeflow.latents import OBJECTIVES
from modeflow.metrics import bridge_mass, true_bridge_mass
from modeflow.training import TrainConfig, Trainer
from modeflow.training.seeding import seeded

ROWS, EPOCHS, SEEDS = 20_000, 10, 3
FLOW = {"layers": 4, "hidden_features": 32}


def main() -> None:
    warnings.simplefilter("ignore")
    shape = toy("ring")
    runs: list[dict[str, Any]] = []
    for objective in OBJECTIVES:
        for seed in range(SEEDS):
            train, test = shape.sample(ROWS, seed), shape.sample(20_000, 1000 + seed)
            # One epoch at a vanishing rate gives the start; the trainer then trains on without validation.
            start = NVF(
                8,
                flow="nsf-coupling",
                latent_options={"objective": objective},
                flow_options=FLOW,
                max_epochs=1,
                learning_rate=1e-12,
                random_state=seed,
            )
            start.fit(train)
            model = start.model_
            before = float((shape.log_prob(test) - start.score_samples(test)).mean())
            with seeded(seed):
                config = TrainConfig(max_epochs=EPOCHS, batch_size=512, patience=None, seed=seed)
                history = Trainer(config).fit(model, torch.from_numpy(train))
                with torch.no_grad():
                    gap = shape.log_prob(test) - model.log_prob(torch.from_numpy(test)).double().numpy()
                    samples = model.sample(100_000).numpy()
            run = {
                "objective": objective,
                "seed": seed,
                "gap_at_start": before,
                "gap": float(gap.mean()),
                "bridge": bridge_mass(samples, shape.modes, shape.scale or 1.0),  # type: ignore[arg-type]
                "usage_entropy": history.epochs[-1]["usage_entropy"],
            }
            runs.append(run)
            print({k: round(v, 5) if isinstance(v, float) else v for k, v in run.items()}, flush=True)
    table = []
    for objective in OBJECTIVES:
        rows = [r for r in runs if r["objective"] == objective]
        keys = ("gap_at_start", "gap", "bridge", "usage_entropy")
        table.append({"objective": objective, **{k: summary([r[k] for r in rows]) for k in keys}})
    settings = {
        "rows": ROWS,
        "epochs": EPOCHS,
        "flow": FLOW,
        "seeds": SEEDS,
        "true_bridge": true_bridge_mass(shape),
        "largest_usage_entropy": float(np.log(8)),
    }
    print(f"wrote {write('objectives', {'settings': settings, 'table': table, 'runs': runs})}")


if __name__ == "__main__":
    main()
