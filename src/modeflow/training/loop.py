"""The training loop of one process: everything between two checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeflow.densities import Density, Loss
from modeflow.errors import ConfigError, TrainingError
from modeflow.nets.randomness import reseed
from modeflow.training import checkpoint as store
from modeflow.training.batches import Batches, Prepared
from modeflow.training.config import TrainConfig
from modeflow.training.devices import SINGLE, World
from modeflow.training.diagnose import Attempt, Watch, explain_non_finite
from modeflow.training.flat import FlatParameters, decaying, learning_rates
from modeflow.training.history import History, Log
from modeflow.training.progress import TrainingProgress
from modeflow.training.rows import Rows
from modeflow.training.seeding import mixed_seed
from modeflow.training.state import TrainState, copy_state
from modeflow.training.steps import Steps
from modeflow.training.tail import Tail
from modeflow.transforms import set_activations

__all__ = ["Augment", "Evaluate", "Loop"]

#: Called with a batch and a generator (on the CPU), returns the batch to train on.
Augment = Callable[[Tensor, torch.Generator], Tensor]
#: Called with the model and validation rows, returns a log-density (or a bound) per row.
Evaluate = Callable[[Density, Tensor], Tensor]

#: Validation rows scored at once.
_CHUNK = 8192


class Loop:
    """Trains a model on rows; can pause, save and resume exactly.

    The model holds the live weights while training and the best ones (of validation; without validation
    rows the last ones) after `run` returns. Epoch 0, the model as it was given, is a candidate for best.

    Raises:
        ConfigError: a model without parameters to train.
    """

    def __init__(
        self,
        model: Density,
        rows: Rows,
        config: TrainConfig,
        run_dir: Path | None = None,
        augment: Augment | None = None,
        evaluate: Evaluate | None = None,
        world: World = SINGLE,
    ) -> None:
        self.model, self.rows, self.config = model, rows, config
        self.run_dir, self.world = run_dir, world
        self.augment, self.evaluate = augment, evaluate
        self.device = rows.train.device
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError(f"{type(model).__name__} has no parameters to train")
        if any(p.is_inference() for p in self.parameters):
            raise ConfigError(
                "the model was made under torch.inference_mode, whose tensors cannot be trained: make it "
                "outside"
            )
        if config.activations != "keep":
            set_activations(model, config.activations)
        falling = decaying(model, self.parameters) if config.weight_decay else None
        flat = FlatParameters(self.parameters, learning_rates(model, self.parameters), falling)
        averages = [v.detach().clone() for v in flat.vectors] if config.ema else None
        optimizer = flat.adam(config.learning_rate)
        self.state = TrainState(model, flat, optimizer, averages, copy_state(model))
        self.steps = Steps(flat, optimizer, config.gradient_clip, config.weight_decay or 0.0)
        self.watch = Watch(self.state.optimizer, self.device)
        self.batches = math.ceil(len(rows.train) / config.batch_size)
        self._last_save = self._began = time.monotonic()
        self._rate = config.learning_rate
        self._generator = torch.Generator()

    # -- running --------------------------------------------------------------------------------

    def run(
        self,
        until_epoch: int | None,
        stop: Callable[[], bool],
        log: Log,
        progress: TrainingProgress,
    ) -> History:
        """Train until the end, `until_epoch`, or a signal; then hold the best weights.

        To be called within `seeded`: the generators belong to the loop meanwhile.
        """
        try:
            if not self.state.at.finished:
                self.state.flat.attach()
                self._run(until_epoch, stop, log, progress)
        finally:  # also where an error or a second Ctrl-C ends it
            self.model.load_state_dict(self.state.best)
            self.state.flat.detach()
            self.model.eval()
        # A copy: the loop goes on with its own if it is continued.
        return replace(self.state.history, epochs=[dict(row) for row in self.state.history.epochs])

    def _run(
        self, until_epoch: int | None, stop: Callable[[], bool], log: Log, progress: TrainingProgress
    ) -> None:
        if self.state.live is not None:
            self.model.load_state_dict(self.state.live)
            self.state.live = None
        self.world.align(self.model)
        if self.state.rng is None or self.world.rank > 0:  # a checkpoint holds the state of the first process
            seeds = (self.state.at.step,) if self.state.at.step else ()
            reseed(mixed_seed(self.config.seed, self.world.rank, *seeds))
        else:
            store.set_rng(self.state.rng, self.device)
        self._began = time.monotonic() - self.state.at.seconds
        self.state.history.interrupted = False
        if not self.state.history.epochs:
            self._finish_epoch(log, progress)
            # From here on there is a checkpoint, and it is not that of an earlier run in this folder.
            self.save()
        last = self.config.max_epochs if until_epoch is None else min(until_epoch, self.config.max_epochs)
        while not self.state.at.finished and self.state.at.epoch < last:
            if self._epoch(stop, progress):
                self.state.history.interrupted = True
                break
            self._finish_epoch(log, progress)
            self._save_if_time()
        if not self.state.at.finished and self.state.at.epoch >= self.config.max_epochs:
            self.state.at.finished = "max_epochs"
        self.state.at.seconds = time.monotonic() - self._began
        self.state.rng = store.rng_tensors(self.device)
        self.state.history.stopped = (
            "interrupted" if self.state.history.interrupted else self.state.at.finished or "until_epoch"
        )
        self.state.history.seconds, self.state.history.steps = self.state.at.seconds, self.state.at.step
        self.save()
        self.state.live = copy_state(self.model)

    def _epoch(self, stop: Callable[[], bool], progress: TrainingProgress) -> bool:
        """Train on the rest of an epoch; True if a signal cut it short."""
        config, at = self.config, self.state.at
        order = self.rows.order(torch.Generator().manual_seed(mixed_seed(config.seed, 1, at.epoch)))
        # Noise is added to the rows, and they are shared out, batch by batch.
        ahead = self.augment is None and self.world.size == 1
        batches = Batches(order, config.batch_size, self.model.prepare if ahead else None)
        total_steps = self.total_steps
        # On another device the sums stay there: looking at a number would wait for it.
        near = self.device.type == "cpu"
        sums: dict[str, Any] = {
            k: v if near else torch.tensor(v, dtype=torch.float64, device=self.device)
            for k, v in at.sums.items()
        }
        every = config.checkpoint_every_steps
        self.model.train()
        interrupted = False
        while at.batch < self.batches:
            # Asking the other processes costs a message, so they are asked only where there is a look anyway.
            if (self.world.size == 1 or self.watch.due(at.step)) and self.world.agree(stop()):
                interrupted = True
                break
            index, prepared = batches.take(at.batch)
            self._rate = config.learning_rate_at(at.step, total_steps, self.state.tail)
            loss = self._step(index, prepared)
            share = len(index) / len(order)
            for name, value in (("train_loss", loss.value), *loss.terms.items()):
                number = float(value) if near else value.detach().double()
                sums[name] = sums.get(name, 0.0) + share * number
            at.batch += 1
            at.step += 1
            due = every is not None and at.step % every == 0
            if due or self.watch.due(at.step):
                self._look()
                # The sums are on the device: fetched only where they are stored.
                if due or self._time_to_save():
                    at.sums = {k: float(v) for k, v in sums.items()}
                    self.save()
            if at.batch % 20 == 0:
                progress.update(at.epoch + at.batch / self.batches)
        self._look()
        at.sums = {k: float(v) for k, v in sums.items()}
        if not interrupted:
            at.batch = 0
            at.epoch += 1
        return interrupted

    def _loss(self, index: Tensor, step: int, prepared: Prepared | None = None) -> tuple[Loss, float]:
        """The loss of this process's share of a batch, and how large the share is."""
        rows = self.rows
        if prepared is None:
            prepared = (rows.train.index_select(0, index),)
        if self.augment is not None:
            # All rows in every process: the noise of a row does not depend on how many there are.
            self._generator.manual_seed(mixed_seed(self.config.seed, 2, step))
            prepared = (self.augment(prepared[0], self._generator),)
        prepared = tuple(map(self.world.share, prepared))
        weight = None if rows.weight is None else rows.weight.index_select(0, self.world.share(index))
        with self.world.autocast():
            loss = self.model.objective_of(prepared, weight, step)
        return loss, len(prepared[0]) / len(index)

    def _step(self, index: Tensor, prepared: Prepared) -> Loss:
        attempt = Attempt(self.state.at.epoch + 1, self.state.at.step, index, store.rng_tensors(self.device))
        loss, share = self._loss(index, self.state.at.step, prepared)
        self.state.flat.zero_grad()
        loss = self.world.backward(loss, self.state.flat.gradients, share)
        norm = self.steps.norm()
        bad = self.watch.see(attempt, norm, loss.value)
        if bad is not None:
            self._fail(bad)
        # Over fewer steps at first: else the average would long stay where training began.
        kept = min(self.config.ema or 0.0, (1 + self.state.at.step) / (10 + self.state.at.step))
        self.steps.take(norm, self._rate, self.state.ema, kept)
        return loss

    def _look(self) -> None:
        bad = self.watch.look()
        if bad is not None:
            self._fail(bad)

    def _fail(self, bad: Attempt) -> None:
        """Say what is wrong with a step; every process says the same."""
        cause, certain = explain_non_finite(self.model, lambda: self._loss(bad.index, bad.step)[0], bad.rng)
        cause = self.world.first_said(cause if certain else None) or cause
        rows = self.rows.train.index_select(0, bad.index)
        remedy = "lower learning_rate, or look for extreme values in the data"
        if rows.is_floating_point() and not bool(torch.isfinite(rows).all()):
            faulty = bad.index[~torch.isfinite(rows.reshape(len(rows), -1)).all(1)]
            remedy = f"training row {int(faulty.min())} (counted from 0) is itself not finite: clean the data"
        raise TrainingError(
            f"training stopped at epoch {bad.epoch}, step {bad.step + 1}: {cause}; {remedy} "
            "(the best weights so far are kept)"
        )

    # -- the end of an epoch ----------------------------------------------------------------------

    def _finish_epoch(self, log: Log, progress: TrainingProgress) -> None:
        """Log the epoch; where due, evaluate, keep the best weights, and decide whether to stop."""
        at, config = self.state.at, self.config
        row: dict[str, Any] = {"epoch": at.epoch, "step": at.step, **at.sums}
        at.sums = {}
        extra = getattr(self.model, "epoch_metrics", None)
        if extra is not None and at.epoch > 0:
            row |= extra()  # with several processes, of the share of the first
        self.world.align(self.model)
        tail = self.state.tail
        last = at.epoch >= config.max_epochs or (tail is not None and at.step >= tail.end)
        due = at.epoch % config.evaluate_every == 0 or last
        with _Swapped(self.state.flat.vectors, self.state.ema):
            if self.rows.validation is None:
                self.state.keep_best(at.epoch, math.nan)
            elif due:
                row["validation"] = current = self._validation()
                if at.epoch == 0 or current > self.state.history.best_validation:
                    self.state.keep_best(at.epoch, current)
                    at.since_best = 0
                else:
                    at.since_best += 1
        if self.rows.validation is not None and due:
            progress.update(at.epoch, row["validation"], self.state.history.best_validation)
        else:
            progress.update(at.epoch)
        row["learning_rate"] = config.learning_rate_at(max(at.step - 1, 0), self.total_steps, tail)
        if tail is not None and at.step >= tail.end:
            at.finished = "patience"
        elif config.patience is not None and at.since_best >= config.patience:
            self._lose_patience(progress)
        row["seconds"] = round(time.monotonic() - self._began, 3)
        self.state.history.epochs.append(row)
        if self.world.first:
            log.add(row)

    @property
    def total_steps(self) -> int:
        """The budget."""
        return self.config.max_epochs * self.batches

    @property
    def last_epoch(self) -> int:
        """With which training ends, as far as is known."""
        tail = self.state.tail
        return self.config.max_epochs if tail is None else math.ceil(tail.end / self.batches)

    def _lose_patience(self, progress: TrainingProgress) -> None:
        """Validation has stopped improving: training ends, at once or after a tail from the best weights."""
        at = self.state.at
        if self.config.schedule != "plateau" or at.tail is not None:
            at.finished = "patience"
        elif at.step < Tail.of_budget(self.total_steps).start:  # else the tail of the budget is under way
            tail = Tail.after(at.step, self.batches, self.total_steps)
            at.tail, at.since_best = (tail.start, tail.length), 0
            progress.expect(self.last_epoch)
            self.model.load_state_dict(self.state.best)
            if self.state.ema is not None:
                self.state.ema = [v.detach().clone() for v in self.state.flat.vectors]

    def _validation(self) -> float:
        """Weighted mean log-density of the validation rows, in full precision."""
        rows = self.rows
        assert rows.validation is not None
        score = self.evaluate or (lambda density, x: density.log_prob(x))
        self.model.eval()
        with torch.no_grad():
            values = torch.cat([score(self.model, x) for x in rows.validation.split(_CHUNK)]).double()
        if rows.validation_weight is not None:
            values = values * rows.validation_weight.double()
        mean = float(values.mean())
        return mean if not math.isnan(mean) else -math.inf

    # -- checkpoints ------------------------------------------------------------------------------

    def _time_to_save(self) -> bool:
        return time.monotonic() - self._last_save >= self.config.checkpoint_every_seconds

    def _save_if_time(self) -> None:
        if self._time_to_save():
            self.save()

    def save(self) -> None:
        """Write a checkpoint, where there is a run folder."""
        self._last_save = time.monotonic()
        self.state.at.seconds = self._last_save - self._began
        if self.run_dir is not None and self.world.first:
            content = self.state.to_checkpoint(self.config, self.rows, self.device)
            store.save_checkpoint(self.run_dir, *content)


class _Swapped:
    """The averaged weights in place of the live ones, for the time of a `with` block."""

    def __init__(self, parameters: list[Any], ema: list[Tensor] | None) -> None:
        self.parameters, self.ema = parameters, ema

    def _swap(self) -> None:
        if self.ema is not None:
            for parameter, average in zip(self.parameters, self.ema, strict=True):
                live = parameter.detach().clone()
                parameter.data.copy_(average)
                average.copy_(live)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()
