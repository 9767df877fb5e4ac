"""Small trainings that the tests share; also run as a program, so that it can be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from modeflow.densities import Preprocessed
from modeflow.latents.initialise import initialise
from modeflow.models import NVF
from modeflow.training import TrainConfig, Trainer, seeded
from modeflow.transforms import Standardize

FLOW = {"layers": 2, "hidden_features": 8, "blocks": 1, "bins": 4}


def rows(n: int = 300) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    side = torch.where(torch.rand(n, 1, generator=generator) < 0.5, 2.0, -2.0)
    return (torch.randn(n, 2, generator=generator) + side).double()


def model(n_states: int = 2, objective: str = "elbo") -> Preprocessed:
    """The stochastic objective by default: it shows whether randomness is restored."""
    x = rows()
    with seeded(1):
        inner = NVF(2, n_states, flow_options=FLOW, encoder_features=(8,), objective=objective)
        wrapped = Preprocessed(Standardize(2).fit(x), inner)
        initialise(inner, wrapped.encode(x)[0], encoder_steps=5)
    return wrapped


def config(**options: object) -> TrainConfig:
    settings = {"max_epochs": 6, "batch_size": 32, "warmup_steps": 5, "patience": None, "seed": 3}
    return TrainConfig(**{**settings, **options})  # type: ignore[arg-type]


def noise(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return batch + 0.1 * torch.randn(batch.shape, generator=generator, dtype=batch.dtype)


if __name__ == "__main__":
    folder, pace = Path(sys.argv[1]), float(sys.argv[2])

    def slow(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        time.sleep(pace)
        (folder / "alive").touch()
        return noise(batch, generator)

    net = model()
    settings = config(checkpoint_every_steps=7, ema=0.9)
    Trainer(settings, folder).fit(net, rows(), rows(100), resume=True, augment=slow)
