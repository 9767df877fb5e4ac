"""Small trainings that the tests share; also run as a program, whose children are killed at given moments."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from modeflow.densities import Preprocessed
from modeflow.models import DiscreteNVF
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
        inner = DiscreteNVF(2, n_states, flow_options=FLOW, encoder_features=(8,), objective=objective)
        wrapped = Preprocessed(Standardize(2).fit(x), inner)
        inner.start(wrapped.encode(x)[0], 0, 5)
    return wrapped


def config(**options: object) -> TrainConfig:
    settings = {"max_epochs": 6, "batch_size": 32, "warmup_steps": 5, "patience": None, "seed": 3}
    return TrainConfig(**{**settings, **options})  # type: ignore[arg-type]


def noise(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(batch.shape, generator=generator, dtype=batch.dtype)
    return batch + 0.1 * drawn.to(batch.device)


def killable(folder: Path, told: int) -> None:
    """Train (or go on), telling of each step and of each checkpoint about to be put in place."""

    def slow(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        os.write(told, b"s")
        time.sleep(0.002)
        return noise(batch, generator)

    def replace(source: Path, target: Path, put: object = os.replace) -> None:
        os.write(told, b"c")
        time.sleep(0.01)
        put(source, target)  # type: ignore[operator]

    os.replace = replace  # type: ignore[assignment]
    settings = config(checkpoint_every_steps=7, ema=0.9)
    Trainer(settings, folder).fit(model(), rows(), rows(100), resume=True, augment=slow)


def main(folder: Path, moments: list[str]) -> None:
    """Per moment, "s3" say, a child of which the third "s" is the last it lives to tell; "" lives on.

    Children are forked: they start at once, having nothing to import. Prints how each ended.
    """
    torch.set_num_threads(1)
    model()  # imports what it needs, once for all
    ends = []
    for moment in moments:
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                killable(folder, tell)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        os.close(tell)
        left = int(moment[1:]) if moment else -1
        while left and (word := os.read(told, 1)):
            left -= word.decode() == moment[:1]
        if moment:
            os.kill(child, signal.SIGKILL)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os.close(told)
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
