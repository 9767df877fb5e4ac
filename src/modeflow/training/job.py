"""One call of `fit` within one process: restore, run with log, progress and signals, clean up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from modeflow.nets.randomness import is_ours
from modeflow.progress import showing
from modeflow.training.checkpoint import load_checkpoint
from modeflow.training.config import TrainConfig
from modeflow.training.history import History, Log
from modeflow.training.loop import Augment, Evaluate, Loop
from modeflow.training.progress import TrainingProgress
from modeflow.training.signals import stop_on_signals

__all__ = ["Job"]

_logger = logging.getLogger("modeflow.training")


@dataclass(frozen=True)
class Job:
    """What a call of `fit` asks for, beside the model and the rows."""

    config: TrainConfig
    run_dir: Path | None = None
    quiet: bool = False
    description: str = "fit"
    augment: Augment | None = None
    evaluate: Evaluate | None = None
    until_epoch: int | None = None
    resume: bool = False

    def run(self, loop: Loop, fresh: bool = True, worker: bool = False) -> History:
        """Run a loop; afterwards its model holds the best weights.

        Arguments:
            loop: to run.
            fresh: it is new, not one that was paused in memory.
            worker: this is one of several processes.

        Raises:
            TrainingError: a checkpoint that does not fit or is damaged; a loss that is not finite.
        """
        first = loop.world.first
        quiet = self.quiet or not first
        if fresh and self.resume:
            self._restore(loop, quiet)
        log = Log(self.run_dir if first else None, self.config.tensorboard and first)
        if fresh:
            log.restart(loop.state.history.epochs)
        progress = TrainingProgress(self.description, loop.last_epoch, loop.state.at.epoch, quiet)
        try:
            with showing(False), stop_on_signals(worker) as stop:  # the training has its own bar
                history = loop.run(self.until_epoch, stop, log, progress)
            # Also where the signal came after the last step: whoever would go on must not.
            history.interrupted |= stop.asked
            return history
        finally:
            progress.close()
            log.close()

    def draws_elsewhere(self, model: nn.Module) -> bool:
        """Whether code that is not modeflow's may draw random numbers, from torch's own generator."""
        called = [function for function in (self.augment, self.evaluate) if function is not None]
        homes = [getattr(function, "__module__", None) or type(function).__module__ for function in called]
        return not is_ours(model) or any(not home.startswith("modeflow.") for home in homes)

    def _restore(self, loop: Loop, quiet: bool) -> None:
        found = None if self.run_dir is None else load_checkpoint(self.run_dir)
        if found is not None:
            loop.state.restore(loop.config, loop.rows, loop.device, *found)
            return
        where = "there is no run folder" if self.run_dir is None else f"no checkpoint in '{self.run_dir}'"
        level = logging.INFO if quiet else logging.WARNING
        _logger.log(level, "nothing to resume (%s): training starts from the beginning", where)
