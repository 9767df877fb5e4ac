"""The training loop of one process: everything between two checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeflow.densities import Density, Loss
from modeflow.errors import TrainingError
from modeflow.training import checkpoint as store
from modeflow.training.config import FREE_ON_RESUME, TrainConfig
from modeflow.training.devices import SINGLE, World
from modeflow.training.diagnose import explain_non_finite
from modeflow.training.history import History, Log
from modeflow.training.progress import TrainingProgress
from modeflow.training.seeding import mixed_seed

__all__ = ["Loop", "Rows"]

Augment = Callable[[Tensor, torch.Generator], Tensor]
Evaluate = Callable[[Density, Tensor], Tensor]

#: Validation rows scored at once.
_CHUNK = 8192
#: On a GPU a look at the loss stalls the queue, so it is taken this often.
_CUDA_CHECK_EVERY = 20


@dataclass
class Rows:
    """The rows of a training, on the device; weights have mean one."""

    train: Tensor
    validation: Tensor | None = None
    weight: Tensor | None = None
    validation_weight: Tensor | None = None

    def to(self, device: torch.device) -> Rows:
        """All tensors on a device."""
        parts = (self.train, self.validation, self.weight, self.validation_weight)
        return Rows(*(None if t is None else t.to(device) for t in parts))  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        """Hash of all rows and weights."""
        return store.fingerprint(self.train, self.validation, self.weight, self.validation_weight)


@dataclass
class Position:
    """Where the training stands; all of it goes into a checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    since_best: int = 0
    seconds: float = 0.0
    finished: str = ""
    sums: dict[str, float] = field(default_factory=dict)


class Loop:
    """Trains a model on rows; can pause, save and resume exactly.

    The model holds the live weights while training and the best ones (of validation; without validation
    rows the last ones) after `run` returns. Epoch 0, the model as it was given, is a candidate for best.
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
        self.run_dir, self.augment, self.world = run_dir, augment, world
        self.evaluate = evaluate or (lambda density, x: density.log_prob(x))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = self._optimizer()
        self.batches = math.ceil(len(rows.train) / config.batch_size)
        self.at = Position()
        self.history = History()
        self.best: dict[str, Tensor] = self._copy_state()
        self.live: dict[str, Tensor] | None = None
        self.ema = [p.detach().clone() for p in self.parameters] if config.ema else None
        self.rng: dict[str, Tensor] | None = None
        self._last_save = time.monotonic()
        self._generator = torch.Generator()
        self._device = rows.train.device

    def _optimizer(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.config.optimizer == "adamw" else torch.optim.Adam
        return kind(
            self.parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )

    # -- running --------------------------------------------------------------------------------

    def run(
        self,
        until_epoch: int | None,
        stop: Callable[[], bool],
        log: Log,
        progress: TrainingProgress,
    ) -> History:
        """Train until the end, `until_epoch`, or a signal; then hold the best weights.

        Torch's global generators belong to the loop meanwhile (see `seeded`).
        """
        if self.live is not None:
            self.model.load_state_dict(self.live)
            self.live = None
        if self.rng is None:
            torch.manual_seed(mixed_seed(self.config.seed, self.world.rank))
        else:
            store.set_rng(self.rng)
        began = time.monotonic() - self.at.seconds
        self.history.interrupted = False
        if not self.history.epochs:
            self._finish_epoch(began, log, progress)
        last = self.config.max_epochs if until_epoch is None else min(until_epoch, self.config.max_epochs)
        try:
            while not self.at.finished and self.at.epoch < last:
                if self._epoch(stop, progress):
                    self.history.interrupted = True
                    break
                self._finish_epoch(began, log, progress)
                self.at.seconds = time.monotonic() - began
                due = self.config.checkpoint_every_seconds
                if self.run_dir is not None and time.monotonic() - self._last_save >= due:
                    self.save()
        except TrainingError:
            self.model.load_state_dict(self.best)
            self.model.eval()
            raise
        if not self.at.finished and self.at.epoch >= self.config.max_epochs:
            self.at.finished = "max_epochs"
        self.at.seconds = time.monotonic() - began
        self.rng = store.rng_tensors()
        stopped = "interrupted" if self.history.interrupted else self.at.finished or "until_epoch"
        self.history.stopped = stopped
        self.history.seconds, self.history.steps = self.at.seconds, self.at.step
        if self.run_dir is not None:
            self.save()
        self.live = self._copy_state()
        self.model.load_state_dict(self.best)
        self.model.eval()
        return self.history

    def _epoch(self, stop: Callable[[], bool], progress: TrainingProgress) -> bool:
        """Train on the rest of an epoch; True if a signal cut it short."""
        config, at = self.config, self.at
        self._generator.manual_seed(mixed_seed(config.seed, 1, at.epoch))
        order = torch.randperm(len(self.rows.train), generator=self._generator).to(self._device)
        total_steps = config.max_epochs * self.batches
        sums = {k: torch.tensor(v, dtype=torch.float64, device=self._device) for k, v in at.sums.items()}
        self.model.train()
        interrupted = False
        while at.batch < self.batches:
            if self.world.agree(stop()):
                interrupted = True
                break
            index = order[at.batch * config.batch_size : (at.batch + 1) * config.batch_size]
            rate = config.learning_rate_at(at.step, total_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self._step(index)
            share = len(index) / len(order)
            for name, value in (("train_loss", loss.value.detach()), *loss.terms.items()):
                sums[name] = sums.get(name, 0.0) + share * value.double()
            at.batch += 1
            at.step += 1
            every = config.checkpoint_every_steps
            if self.run_dir is not None and every and at.step % every == 0:
                at.sums = {k: float(v) for k, v in sums.items()}
                self.save()
            if at.batch % 20 == 0:
                progress.update(at.epoch + at.batch / self.batches)
        at.sums = {k: float(v) for k, v in sums.items()}
        if not interrupted:
            at.batch = 0
            at.epoch += 1
        return interrupted

    def _step(self, index: Tensor) -> Loss:
        rows, step = self.rows, self.at.step
        mine = self.world.share(index)
        x = rows.train.index_select(0, mine)
        weight = None if rows.weight is None else rows.weight.index_select(0, mine)
        if self.augment is not None:
            self._generator.manual_seed(mixed_seed(self.config.seed, 2, step, self.world.rank))
            x = self.augment(x, self._generator)
        before = store.rng_tensors() if self._look(step) else None

        def compute() -> Loss:
            with self.world.autocast():
                return self.model.objective(x, weight, step)

        loss = compute()
        self.optimizer.zero_grad()
        self.world.scale(loss.value, len(mine), len(index)).backward()
        self.world.sum_gradients(self.parameters)
        limit = self.config.gradient_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)
        if before is not None and not math.isfinite(float(norm) + float(loss.value.detach())):
            where = f"epoch {self.at.epoch + 1}, step {step + 1}"
            self.optimizer.zero_grad()
            raise TrainingError(explain_non_finite(self.model, compute, before, where))
        self.optimizer.step()
        if self.ema is not None and self.config.ema is not None:
            torch._foreach_lerp_(self.ema, [p.data for p in self.parameters], 1 - self.config.ema)
        return loss

    def _look(self, step: int) -> bool:
        return self._device.type == "cpu" or step % _CUDA_CHECK_EVERY == 0

    # -- the end of an epoch ----------------------------------------------------------------------

    def _finish_epoch(self, began: float, log: Log, progress: TrainingProgress) -> None:
        """Log the epoch; where due, evaluate, keep the best weights, and decide whether to stop."""
        at, config = self.at, self.config
        row: dict[str, Any] = {"epoch": at.epoch, "step": at.step, **at.sums}
        at.sums = {}
        extra = getattr(self.model, "epoch_metrics", None)
        if extra is not None and at.epoch > 0:
            row |= extra()
        due = at.epoch % config.evaluate_every == 0 or at.epoch >= config.max_epochs
        with self._averaged():
            if self.rows.validation is None:
                self._keep_best(at.epoch, math.nan)
            elif due:
                row["validation"] = current = self._validation()
                if at.epoch == 0 or current > self.history.best_validation:
                    self._keep_best(at.epoch, current)
                    at.since_best = 0
                else:
                    at.since_best += 1
                progress.update(at.epoch, current, self.history.best_validation)
        if config.patience is not None and at.since_best >= config.patience:
            at.finished = "patience"
        total = config.max_epochs * self.batches
        row["learning_rate"] = config.learning_rate_at(max(at.step - 1, 0), total)
        row["seconds"] = round(time.monotonic() - began, 3)
        self.history.epochs.append(row)
        if self.world.first:
            log.add(row)

    def _keep_best(self, epoch: int, validation: float) -> None:
        self.best = self._copy_state()
        self.history.best_epoch, self.history.best_validation = epoch, validation

    def _validation(self) -> float:
        """Weighted mean log-density of the validation rows, in full precision."""
        rows = self.rows
        assert rows.validation is not None
        self.model.eval()
        with torch.no_grad():
            values = torch.cat([self.evaluate(self.model, x) for x in rows.validation.split(_CHUNK)]).double()
        if rows.validation_weight is not None:
            values = values * rows.validation_weight.double()
        mean = float(values.mean())
        return mean if not math.isnan(mean) else -math.inf

    def _averaged(self) -> _Swapped:
        return _Swapped(self.parameters, self.ema)

    def _copy_state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _other_buffers(self) -> dict[str, Tensor]:
        """Buffers outside the state (running counts of an epoch, say)."""
        kept = self.model.state_dict()
        return {name: buffer for name, buffer in self.model.named_buffers() if name not in kept}

    # -- checkpoints ------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of the run folder."""
        self._last_save = time.monotonic()
        if self.run_dir is None or not self.world.first:
            return
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"buffer/{k}": v for k, v in self._other_buffers().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        tensors |= {f"ema/{i}": v for i, v in enumerate(self.ema or [])}
        for i, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{i}/{key}"] = torch.as_tensor(value)
        tensors |= store.rng_tensors()
        meta = {
            "config": self.config.to_dict(),
            "data": self.rows.fingerprint(),
            "position": vars(self.at),
            "history": _without_nan(vars(self.history)),
        }
        store.save_checkpoint(self.run_dir, tensors, meta)

    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take up where a checkpoint left off.

        Raises:
            TrainingError: other data, settings or model than those of the checkpoint.
        """
        given = self.config.to_dict()
        for key, value in meta["config"].items():
            if key not in FREE_ON_RESUME and given.get(key) != value:
                raise TrainingError(
                    f"cannot resume: {key} was {value!r} and is now {given.get(key)!r}; give the old value, "
                    "or start a new run folder"
                )
        if meta["data"] != self.rows.fingerprint():
            raise TrainingError("cannot resume: the data differs from that of the checkpoint")
        try:
            live = _under("model/", tensors)
            self.model.load_state_dict(live)
            for name, buffer in self._other_buffers().items():
                buffer.copy_(tensors[f"buffer/{name}"])
            self.best = {k: v.to(self._device) for k, v in _under("best/", tensors).items()}
            if self.ema is not None:
                averages = _under("ema/", tensors)
                self.ema = [averages[str(i)].to(self._device) for i in range(len(self.ema))]
        except (RuntimeError, KeyError) as error:
            raise TrainingError("cannot resume: the checkpoint belongs to another model") from error
        for name, value in _under("optimizer/", tensors).items():
            i, _, key = name.partition("/")
            parameter = self.parameters[int(i)]
            where = parameter.device if key == "step" else self._device
            self.optimizer.state[parameter][key] = value.to(where)
        self.at = Position(**meta["position"])
        self.history = History(**_with_nan(meta["history"]))
        self.rng = {k: v for k, v in tensors.items() if k.startswith("rng/")}
        if self.at.finished == "max_epochs" and self.at.epoch < self.config.max_epochs:
            self.at.finished = ""


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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _without_nan(history: Mapping[str, Any]) -> dict[str, Any]:
    best = history["best_validation"]
    return {**history, "best_validation": None if math.isnan(best) else best}


def _with_nan(history: Mapping[str, Any]) -> dict[str, Any]:
    best = history["best_validation"]
    return {**history, "best_validation": math.nan if best is None else best}
