"""The one trainer: from a model and rows to the best weights."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from modeflow.densities import Density
from modeflow.errors import DataError
from modeflow.training.checkpoint import load_checkpoint
from modeflow.training.config import TrainConfig
from modeflow.training.devices import SINGLE, FabricWorld, World, resolve_device
from modeflow.training.history import History, Log
from modeflow.training.loop import Augment, Evaluate, Loop, Rows
from modeflow.training.progress import TrainingProgress
from modeflow.training.seeding import seeded

__all__ = ["Trainer"]


class Trainer:
    """Fits a density to rows by its objective.

    Rows stay in memory, on the device; a batch is an index into them. Validation is scored after every
    epoch and the best weights are kept, those before the first step included. With a run folder there is
    a log (`metrics.jsonl`) and a checkpoint from which `fit(..., resume=True)` goes on bit by bit as if
    nothing had happened. Ctrl-C and SIGTERM end the training after the current step, with the best
    weights so far.

    Arguments:
        config: settings.
        run_dir: folder for log and checkpoints; None for none.
        quiet: no progress bar (there is none anyway where stderr is not a terminal).
        description: what the progress bar says.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_dir: Path | str | None = None,
        quiet: bool = False,
        description: str = "fit",
    ) -> None:
        self.config = config
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.quiet = quiet
        self.description = description
        self._loop: Loop | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def fit(
        self,
        model: Density,
        train: Tensor,
        validation: Tensor | None = None,
        weight: Tensor | None = None,
        validation_weight: Tensor | None = None,
        *,
        resume: bool = False,
        augment: Augment | None = None,
        evaluate: Evaluate | None = None,
        until_epoch: int | None = None,
    ) -> History:
        """Train; afterwards the model is in evaluation mode and holds the best weights.

        Arguments:
            model: trained in place.
            train: shape ``(N, *event)``. validation: ``(M, *event)``; None keeps the last weights.
            weight, validation_weight: of the rows, mean one.
            resume: go on from the checkpoint of the run folder, if there is one.
            augment: called with a batch and a generator, returns the batch to train on (dequantisation).
            evaluate: log-density per row for validation; `model.log_prob` by default.
            until_epoch: pause there. Calling `fit` again with the same model goes on exactly.

        Raises:
            TrainingError: a loss that is not finite, or a checkpoint that does not fit or is damaged.
            ConfigError: a device that is not there.
            DataError: no rows.
        """
        if len(train) == 0 or (validation is not None and len(validation) == 0):
            raise DataError("there are no rows to train on" if len(train) == 0 else "no validation rows")
        rows = Rows(train, validation, weight, validation_weight)
        device = resolve_device(self.config.device)
        if self.config.devices > 1:
            return self._fit_in_processes(model, rows, augment, evaluate, resume, until_epoch)
        fresh = self._loop is None or self._loop.model is not model
        home = model.device
        with seeded(self.config.seed):
            if fresh:
                model.to(device)
                self._loop = Loop(
                    model, rows.to(device), self.config, self.run_dir, augment, evaluate, self._world(device)
                )
            loop = self._loop
            assert loop is not None
            model.to(device)
            try:
                return _drive(loop, self, resume and fresh, fresh, until_epoch)
            finally:
                model.to(home)

    def _world(self, device: torch.device) -> World:
        if self.config.precision == "32-true":
            return SINGLE
        from lightning_fabric import Fabric

        if self.config.precision == "64-true":
            return SINGLE  # the model itself is float64
        return FabricWorld(Fabric(accelerator=device.type, devices=1, precision="bf16-mixed"))

    def _fit_in_processes(
        self,
        model: Density,
        rows: Rows,
        augment: Augment | None,
        evaluate: Evaluate | None,
        resume: bool,
        until_epoch: int | None,
    ) -> History:
        """Each process runs the loop on its share of every batch; a checkpoint carries over a pause."""
        from lightning_fabric import Fabric

        device = resolve_device(self.config.device)
        strategy = self.config.strategy
        if strategy == "auto":
            strategy = "ddp_spawn"
        again = self._scratch is not None
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="modeflow-")
        folder = self.run_dir or Path(self._scratch.name)
        precision: Any = self.config.precision if self.config.precision != "64-true" else "32-true"
        fabric = Fabric(
            accelerator=device.type, devices=self.config.devices, strategy=strategy, precision=precision
        )
        quiet = Trainer(self.config, folder, self.quiet, self.description)
        run: Any = _in_process
        history = fabric.launch(run, model, rows, quiet, augment, evaluate, resume or again, until_epoch)
        found = load_checkpoint(folder)  # plain tensors do not outlive the process that owns them
        assert found is not None
        model.load_state_dict({k[5:]: v for k, v in found[0].items() if k.startswith("best/")})
        model.eval()
        return History(**history)


def _in_process(
    fabric: Any,
    model: Density,
    rows: Rows,
    trainer: Trainer,
    augment: Augment | None,
    evaluate: Evaluate | None,
    resume: bool,
    until_epoch: int | None,
) -> dict[str, Any]:
    """What every process of a distributed training runs; returns the history."""
    threads = max(1, torch.get_num_threads() // fabric.world_size)
    if fabric.device.type == "cpu":
        torch.set_num_threads(threads)
    world = FabricWorld(fabric)
    model.to(fabric.device)
    with seeded(trainer.config.seed):
        loop = Loop(model, rows.to(fabric.device), trainer.config, trainer.run_dir, augment, evaluate, world)
        history = _drive(loop, trainer, resume, True, until_epoch)
    return vars(history)


def _drive(loop: Loop, trainer: Trainer, resume: bool, fresh: bool, until_epoch: int | None) -> History:
    """Restore, run under signal handlers with log and progress, and clean up."""
    if resume and trainer.run_dir is not None:
        found = load_checkpoint(trainer.run_dir)
        if found is not None:
            loop.restore(*found)
    log = Log(trainer.run_dir if loop.world.first else None, trainer.config.tensorboard and loop.world.first)
    if fresh and loop.world.first:
        log.restart(loop.history.epochs)
    quiet = trainer.quiet or not loop.world.first
    progress = TrainingProgress(trainer.description, trainer.config.max_epochs, loop.at.epoch, quiet)
    try:
        with _signals() as stop:
            return loop.run(until_epoch, stop, log, progress)
    finally:
        progress.close()
        log.close()


class _Stop:
    """Becomes true at the first signal; the second interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {s: signal.signal(s, stop.handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
