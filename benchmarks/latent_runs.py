"""What benchmarks of latent-variable models share: a training of so many seconds, and what is kept of it."""

from __future__ import annotations

import copy
import json
import platform
import signal
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common import earlier_runs, n_parameters, write
from latent_contestants import Contestant
from latent_measures import of_samples, of_z, scored, validated, wrong_pixels
from modeflow.latents import LatentModel
from modeflow.training import History, TrainConfig, Trainer

__all__ = [
    "SEED",
    "TRAINING",
    "Budget",
    "Data",
    "Results",
    "attempt",
    "curve",
    "measured",
    "named",
    "trained",
]

#: Of all fits. Weights are averaged over some 500 steps, which stands in for a rate that falls.
TRAINING: Mapping[str, Any] = {
    "batch_size": 256, "learning_rate": 1e-3, "schedule": "constant", "ema": 0.998, "gradient_clip": 100.0,
    "patience": 40,
}  # fmt: skip
#: Of what is drawn of data, and of what is a fixed part of what.
SEED = 20221122


@dataclass(frozen=True)
class Data:
    """Rows of numbers, or of pixels."""

    train: Tensor
    validation: Tensor
    test: Tensor

    def shaped(self, *shape: int) -> Data:
        """The same in another shape."""
        return Data(*(part.view(len(part), *shape) for part in (self.train, self.validation, self.test)))


@dataclass(frozen=True)
class Budget:
    """Of one training.

    Arguments:
        seconds: by the clock, or, `of_processor`, such as this process has had a processor.
        epochs: at the most. draws: of z, of the bound that is kept.
    """

    seconds: float
    epochs: int
    draws: int
    of_processor: bool = False


def trained(
    model: LatentModel,
    contestant: Contestant,
    data: Data,
    config: TrainConfig,
    seconds: float,
    of_processor: bool = False,
) -> History:
    """Train until it ends by itself or its time is up; the model then holds the best weights.

    Arguments:
        seconds: by the clock, or, `of_processor`, such as this process has had a processor.
    """
    kind, timer = (
        (signal.SIGPROF, signal.ITIMER_PROF) if of_processor else (signal.SIGALRM, signal.ITIMER_REAL)
    )
    trainer, rung = Trainer(config, None, True), threading.Event()

    def up(*_: object) -> None:
        rung.set()
        signal.raise_signal(signal.SIGINT)  # the trainer ends after the step under way

    # A program that was started in the background ignores Ctrl-C.
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(kind, up)
    signal.setitimer(timer, seconds)
    try:
        trainer.fit(model, data.train, data.validation[: contestant.held], evaluate=validated)
    except KeyboardInterrupt:
        if not rung.is_set():
            raise
    finally:
        signal.setitimer(timer, 0)
        signal.signal(kind, before)
        signal.signal(signal.SIGINT, interrupts)
    assert trainer.history is not None
    return trainer.history


def curve(history: History) -> list[list[float]]:
    """Epoch, mean loss of the training rows, and validation, at powers of two, the best and the last."""
    rows = [row for row in history.epochs if "train_loss" in row]
    ends = history.best_epoch, len(rows)
    picked = [r for r in rows if r["epoch"] & (r["epoch"] - 1) == 0 or r["epoch"] in ends]
    return [
        [r["epoch"], round(r["train_loss"], 2), round(r.get("validation", float("nan")), 2)] for r in picked
    ]


def named(device: torch.device) -> str:
    """A device for people."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def measured(
    contestant: Contestant,
    data: Data,
    seed: int,
    budget: Budget,
    training: Mapping[str, Any] = TRAINING,
    device: str = "cpu",
    constant: float = 0.0,
) -> dict[str, Any]:
    """Fit a contestant, and what is measured of it.

    Arguments:
        contestant, data, seed: what is fitted, and to what. budget: of the training.
        training: settings of the trainer. device: where it is trained, unless it is of the host, and scored.
        constant: what is added to a log-density, of a map of the data.
    """
    torch.manual_seed(seed)
    model = contestant.build()
    began = time.monotonic()
    if contestant.starts:
        model.start(data.train, seed, 500)
    started = time.monotonic() - began
    # What is imported or compiled where it is first used is no training: VLAE's takes seconds.
    used = copy.deepcopy(model).train()
    used.objective(data.train[:8], None, 0).value.backward()
    torch.manual_seed(seed)
    where = "cpu" if contestant.host else device
    config = TrainConfig(max_epochs=budget.epochs, device=where, seed=seed, **training)
    before = time.process_time()
    history = trained(model, contestant, data, config, budget.seconds, budget.of_processor)
    worked = time.process_time() - before
    began = time.monotonic()
    place = torch.device(device)
    model.to(place)
    test, held = data.test.to(place), data.validation.to(place)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.finish(data.train.to(place), held, prune=False)
        found = {
            **scored(model, test, budget.draws, constant),
            **of_z(model, test, contestant.group == "pinwheel"),
        }
        if contestant.group in ("bernoulli", "gaussian"):
            found["wrong_pixels"] = wrong_pixels(model, test)
        if contestant.group == "bernoulli":
            found["frechet"] = of_samples(model, test)
    epochs = sum("train_loss" in r for r in history.epochs)
    return {
        "trained_on": named(torch.device(where)),
        "parameters": n_parameters(model),
        "epochs": epochs,
        **{key: history.summary()[key] for key in ("best_epoch", "steps", "stopped")},
        "seconds": round(history.seconds, 1),
        "processor_seconds": round(worked, 1),
        "start_seconds": round(started, 1),
        "validation": history.best_validation,
        "curve": curve(history),
        **found,
        "seconds_an_epoch": round((worked if budget.of_processor else history.seconds) / max(epochs, 1), 3),
        "scoring_seconds": round(time.monotonic() - began, 1),
    }


def attempt(name: str, seed: int, fit: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a fit found, or why it did not: one that fails is named, and tried again another time."""
    try:
        return {"model": name, "seed": seed, **fit()}
    except Exception as error:
        traceback.print_exc()
        return {"model": name, "seed": seed, "error": f"{type(error).__name__}: {error}"[:400]}


class Results:
    """What was measured, kept after every fit.

    Arguments:
        name: of the file. settings: under which all of it is measured. order: of the models.
    """

    def __init__(self, name: str, settings: Mapping[str, Any], order: Sequence[str]) -> None:
        self.name, self.settings, self.order = name, dict(settings), list(order)
        self.runs = earlier_runs(name, settings=self.settings)

    def has(self, name: str, seed: int) -> bool:
        """Whether a fit has a result; one that failed is tried again."""
        return any((r["model"], r["seed"]) == (name, seed) and "error" not in r for r in self.runs)

    def add(self, run: dict[str, Any]) -> None:
        """Keep a result in the place of an earlier one, and say it."""
        key = run["model"], run["seed"]
        self.runs = [r for r in self.runs if (r["model"], r["seed"]) != key] + [run]
        self.runs.sort(key=lambda r: (self.order.index(r["model"]), r["seed"]))
        write(self.name, {"settings": self.settings, "runs": self.runs})
        print(json.dumps({k: v for k, v in run.items() if k not in ("curve", "groups")}), flush=True)
