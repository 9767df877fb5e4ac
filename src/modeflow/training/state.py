"""What a training has learned and where it stands: all that a checkpoint holds, in one piece."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.errors import TrainingError
from modeflow.training.checkpoint import rng_tensors
from modeflow.training.config import FREE_ON_RESUME, TrainConfig
from modeflow.training.flat import FlatParameters
from modeflow.training.history import History
from modeflow.training.rows import Position, Rows
from modeflow.training.tail import Tail

__all__ = ["TrainState", "copy_state", "under"]


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclass
class TrainState:
    """The state of a training.

    Attributes:
        model: whose weights are the live ones while it trains.
        flat: its parameters in one vector each type. optimizer: over these vectors.
        ema: averages of the vectors; None where there are none.
        best: state of the model at the best validation. live: that of the last step, while `best` is in the
            model.
        at: which step, epoch and so on. history: what was logged.
        rng: states of the generators, by which a training that was paused goes on.
    """

    model: nn.Module
    flat: FlatParameters
    optimizer: torch.optim.Optimizer
    ema: list[Tensor] | None
    best: dict[str, Tensor]
    live: dict[str, Tensor] | None = None
    at: Position = field(default_factory=Position)
    history: History = field(default_factory=History)
    rng: dict[str, Tensor] | None = None

    @property
    def tail(self) -> Tail | None:
        """What a plateau brought about, once it has begun."""
        return None if self.at.tail is None else Tail(*self.at.tail)

    def keep_best(self, epoch: int, validation: float) -> None:
        """The weights in the model are the best so far."""
        self.best = copy_state(self.model)
        self.history.best_epoch, self.history.best_validation = epoch, validation

    def to_checkpoint(
        self, config: TrainConfig, rows: Rows, device: torch.device
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that an exact resumption needs, as tensors and plain values."""
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"buffer/{k}": v for k, v in _other_buffers(self.model).items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        tensors |= {f"ema/{i}": v for i, v in enumerate(self.ema or [])}
        for i, vector in enumerate(self.flat.vectors):
            for key, value in self.optimizer.state.get(vector, {}).items():
                tensors[f"optimizer/{i}/{key}"] = torch.as_tensor(value)
        tensors |= rng_tensors(device)
        best = self.history.best_validation
        meta = {
            "config": config.to_dict(),
            "data": rows.fingerprint(),
            "position": vars(self.at),
            # NaN is not JSON.
            "history": {**vars(self.history), "best_validation": None if math.isnan(best) else best},
        }
        return tensors, meta

    def restore(
        self,
        config: TrainConfig,
        rows: Rows,
        device: torch.device,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
    ) -> None:
        """Take up where a checkpoint left off; nothing is touched if it does not fit.

        Raises:
            TrainingError: other data, settings or model than those of the checkpoint.
        """
        self._check(config, rows, tensors, meta)
        self.model.load_state_dict(under("model/", tensors))
        for name, buffer in _other_buffers(self.model).items():
            buffer.copy_(tensors[f"buffer/{name}"])
        self.best = {k: v.to(device) for k, v in under("best/", tensors).items()}
        if self.ema is not None:
            self.ema = [tensors[f"ema/{i}"].to(device) for i in range(len(self.ema))]
        for name, value in under("optimizer/", tensors).items():
            i, _, key = name.partition("/")
            self.optimizer.state[self.flat.vectors[int(i)]][key] = value.to(device)
        self.at = Position(**meta["position"])
        history = dict(meta["history"])
        if history["best_validation"] is None:
            history["best_validation"] = math.nan
        self.history = History(**history)
        self.rng = {k: v for k, v in tensors.items() if k.startswith("rng/")}
        self._reopen(config)

    def _check(
        self, config: TrainConfig, rows: Rows, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
    ) -> None:
        given = config.to_dict()
        for key, value in meta["config"].items():
            if key not in FREE_ON_RESUME and given.get(key) != value:
                raise TrainingError(
                    f"cannot resume: {key} was {value!r} and is now {given.get(key)!r}; give the old value, "
                    "or start a new run folder"
                )
        if meta["data"] != rows.fingerprint():
            raise TrainingError(
                "cannot resume: the data differs from that of the checkpoint; give the old data, or start a "
                "new run folder"
            )
        model = self.model
        needed = {f"{part}/{k}": v for part in ("model", "best") for k, v in model.state_dict().items()}
        needed |= {f"buffer/{k}": v for k, v in _other_buffers(model).items()}
        needed |= {f"ema/{i}": v for i, v in enumerate(self.ema or [])}
        there = {k: v for k, v in tensors.items() if not k.startswith(("optimizer/", "rng/"))}
        if needed.keys() != there.keys() or any(
            (v.shape, v.dtype) != (there[k].shape, there[k].dtype) for k, v in needed.items()
        ):
            raise TrainingError(
                "cannot resume: the checkpoint belongs to another model; give the old one, or start a new "
                "run folder"
            )

    def _reopen(self, config: TrainConfig) -> None:
        """A finished run goes on where the settings now allow more; a tail that has ended is the end."""
        at, tail = self.at, self.tail
        more = at.epoch < config.max_epochs and (tail is None or at.step < tail.end)
        patient = config.patience is None or at.since_best < config.patience
        if (at.finished == "max_epochs" and more) or (at.finished == "patience" and more and patient):
            at.finished = ""


def _other_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers outside the state (running counts of an epoch, say)."""
    kept = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
