"""Between a training loop and its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modeflow.errors import TrainingError
from modeflow.training.checkpoint import rng_tensors
from modeflow.training.config import FREE_ON_RESUME
from modeflow.training.history import History
from modeflow.training.rows import Position

if TYPE_CHECKING:
    from modeflow.training.loop import Loop

__all__ = ["copy_state", "restore", "take"]


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _other_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers outside the state (running counts of an epoch, say)."""
    kept = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def take(loop: Loop) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that an exact resumption needs, as tensors and plain values."""
    tensors = {f"model/{k}": v for k, v in loop.model.state_dict().items()}
    tensors |= {f"buffer/{k}": v for k, v in _other_buffers(loop.model).items()}
    tensors |= {f"best/{k}": v for k, v in loop.best.items()}
    tensors |= {f"ema/{i}": v for i, v in enumerate(loop.ema or [])}
    for i, vector in enumerate(loop.flat.vectors):
        for key, value in loop.optimizer.state.get(vector, {}).items():
            tensors[f"optimizer/{i}/{key}"] = torch.as_tensor(value)
    tensors |= rng_tensors(loop.device)
    best = loop.history.best_validation
    meta = {
        "config": loop.config.to_dict(),
        "data": loop.rows.fingerprint(),
        "position": vars(loop.at),
        # NaN is not JSON.
        "history": {**vars(loop.history), "best_validation": None if math.isnan(best) else best},
    }
    return tensors, meta


def restore(loop: Loop, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Take up where a checkpoint left off; nothing is touched if it does not fit.

    Raises:
        TrainingError: other data, settings or model than those of the checkpoint.
    """
    _check(loop, tensors, meta)
    device = loop.device
    loop.model.load_state_dict(_under("model/", tensors))
    for name, buffer in _other_buffers(loop.model).items():
        buffer.copy_(tensors[f"buffer/{name}"])
    loop.best = {k: v.to(device) for k, v in _under("best/", tensors).items()}
    if loop.ema is not None:
        loop.ema = [tensors[f"ema/{i}"].to(device) for i in range(len(loop.ema))]
    for name, value in _under("optimizer/", tensors).items():
        i, _, key = name.partition("/")
        loop.optimizer.state[loop.flat.vectors[int(i)]][key] = value.to(device)
    loop.at = Position(**meta["position"])
    history = dict(meta["history"])
    if history["best_validation"] is None:
        history["best_validation"] = math.nan
    loop.history = History(**history)
    loop.rng = {k: v for k, v in tensors.items() if k.startswith("rng/")}
    _reopen(loop)


def _check(loop: Loop, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    given = loop.config.to_dict()
    for key, value in meta["config"].items():
        if key not in FREE_ON_RESUME and given.get(key) != value:
            raise TrainingError(
                f"cannot resume: {key} was {value!r} and is now {given.get(key)!r}; give the old value, "
                "or start a new run folder"
            )
    if meta["data"] != loop.rows.fingerprint():
        raise TrainingError(
            "cannot resume: the data differs from that of the checkpoint; give the old data, or start a new "
            "run folder"
        )
    model = loop.model
    needed = {f"{part}/{k}": v for part in ("model", "best") for k, v in model.state_dict().items()}
    needed |= {f"buffer/{k}": v for k, v in _other_buffers(model).items()}
    needed |= {f"ema/{i}": v for i, v in enumerate(loop.ema or [])}
    there = {k: v for k, v in tensors.items() if not k.startswith(("optimizer/", "rng/"))}
    if needed.keys() != there.keys() or any(
        (v.shape, v.dtype) != (there[k].shape, there[k].dtype) for k, v in needed.items()
    ):
        raise TrainingError(
            "cannot resume: the checkpoint belongs to another model; give the old one, or start a new run "
            "folder"
        )


def _reopen(loop: Loop) -> None:
    """A finished run goes on where the settings now allow more; a tail that has ended is the end."""
    at, config = loop.at, loop.config
    tail = loop.tail
    more = at.epoch < config.max_epochs and (tail is None or at.step < tail.end)
    patient = config.patience is None or at.since_best < config.patience
    if (at.finished == "max_epochs" and more) or (at.finished == "patience" and more and patient):
        at.finished = ""


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
