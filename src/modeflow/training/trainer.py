"""The one trainer: from a model and rows to the best weights."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from modeflow.densities import Density
from modeflow.errors import ConfigError, TrainingError
from modeflow.training.config import TrainConfig
from modeflow.training.devices import SINGLE, FabricWorld, World, resolve_device
from modeflow.training.history import History
from modeflow.training.job import Job
from modeflow.training.joined import group, joined_world
from modeflow.training.loop import Augment, Evaluate, Loop
from modeflow.training.rows import Rows
from modeflow.training.seeding import seeded
from modeflow.training.signals import signals_held
from modeflow.training.stored import StoredRows
from modeflow.training.surroundings import shielded

__all__ = ["Trainer"]


class Trainer:
    """Fits a density to rows by its objective.

    Rows stay in memory, on the device, or in a file (`StoredRows`). Validation is scored after every
    epoch and the best weights are kept, those before the first step included. With a run folder there is
    a log (`metrics.jsonl`) and a checkpoint from which `fit(..., resume=True)` goes on bit by bit as if
    nothing had happened.

    Ctrl-C and SIGTERM end the training after the current step, with a checkpoint and the best weights so far
    in the model; the signal is then given back, so that `fit` raises KeyboardInterrupt (for SIGTERM: does
    what the caller's handler, or the default, does). What was learned is in `history`.

    A trainer remembers its last training: called again with the same model and rows, `fit` goes on where
    it was paused or interrupted, and returns at once where it had finished.

    Arguments:
        config: settings.
        run_dir: folder for log and checkpoints; None for none.
        quiet: no progress: no bar on a terminal, no lines elsewhere.
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
        #: What the last call of `fit` returned, or would have returned but for a signal.
        self.history: History | None = None
        self._loop: Loop | None = None
        # With several processes the loop lives elsewhere: then a folder, and what was trained in it.
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._paused: tuple[Density, str] | None = None

    def fit(
        self,
        model: Density,
        train: Tensor | StoredRows,
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
            model: trained in place (with ``precision="64-true"`` it becomes float64).
            train: shape ``(N, *event)``, or rows in a file.
            validation: ``(M, *event)``; None keeps the last weights.
            weight, validation_weight: of the rows, mean one.
            resume: go on from the checkpoint of the run folder, if there is one.
            augment: called with a batch and a generator (on the CPU, seeded by the step), returns the batch
                to train on (dequantisation).
            evaluate: log-density per row for validation; `model.log_prob` by default.
            until_epoch: pause there. Calling `fit` again with the same model goes on exactly.

        Raises:
            TrainingError: a loss that is not finite, a checkpoint that does not fit or is damaged, or other
                rows than those of a training that was paused.
            ConfigError: a device that is not there.
            DataError: no rows, or weights that do not fit them.
            KeyboardInterrupt: after Ctrl-C, when all is stored.
        """
        job = Job(
            self.config,
            self.run_dir,
            self.quiet,
            self.description,
            augment,
            evaluate,
            until_epoch,
            resume,
        )
        with signals_held(), shielded(grad=True):
            self.history = self._fit(model, train, validation, weight, validation_weight, job)
        return self.history

    def _fit(
        self,
        model: Density,
        train: Tensor | StoredRows,
        validation: Tensor | None,
        weight: Tensor | None,
        validation_weight: Tensor | None,
        job: Job,
    ) -> History:
        rows = Rows(train, validation, weight, validation_weight).outside_inference()
        device = resolve_device(self.config.device, model, self.config.batch_size)
        if self.config.precision == "64-true":
            model.double()
            rows = rows.double()
        together = group()
        if self.config.devices > 1 and together is not None:
            raise ConfigError("torchrun has started the processes: leave out devices")
        if self.config.devices > 1:
            return self._fit_in_processes(model, rows, job)
        world: World
        if together is not None:
            world, device = joined_world(device, self.config.precision)
        else:
            world = self._world(device)
        loop = self._remembered(model, rows)
        fresh = loop is None
        self._loop = None  # until this call has succeeded: after an error there is nothing to go on with
        home = model.device
        try:
            with seeded(self.config.seed, foreign=job.draws_elsewhere(model)):
                model.to(device)
                if loop is None:
                    loop = Loop(
                        model, rows.to(device), self.config, self.run_dir, job.augment, job.evaluate, world
                    )
                loop.augment, loop.evaluate = job.augment, job.evaluate
                history = job.run(loop, fresh)
            self._loop = loop
            return history
        finally:
            model.to(home)

    def _remembered(self, model: Density, rows: Rows) -> Loop | None:
        """The loop to go on with; None to begin anew."""
        loop = self._loop
        if loop is None or loop.model is not model:
            return None
        if loop.rows.fingerprint() == rows.fingerprint():
            return loop
        if not loop.state.at.finished:
            raise TrainingError(
                "this trainer paused the model on other rows: give the same rows, or use a new Trainer"
            )
        return None

    def _world(self, device: torch.device) -> World:
        if self.config.precision != "bf16-mixed":
            return SINGLE  # for 64-true, the model itself is float64
        from lightning_fabric import Fabric

        return FabricWorld(Fabric(accelerator=device.type, devices=1, precision="bf16-mixed"))

    def _fit_in_processes(self, model: Density, rows: Rows, job: Job) -> History:
        from modeflow.training.processes import fit_in_processes

        this = (model, rows.fingerprint())
        again = self._paused is not None and self._paused[0] is model and self._paused[1] == this[1]
        self._paused = None
        if not again or self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="modeflow-")
        folder = job.run_dir or Path(self._scratch.name)
        home = model.device
        model.cpu()
        try:
            history = fit_in_processes(model, rows, replace(job, run_dir=folder, resume=job.resume or again))
        finally:
            model.to(home)
        self._paused = this
        return history
