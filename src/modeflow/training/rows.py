"""The rows of a training and where in them it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeflow.errors import DataError
from modeflow.training.checkpoint import fingerprint

__all__ = ["Position", "Rows"]


@dataclass
class Rows:
    """The rows of a training, on the device; weights have mean one.

    Raises:
        DataError: no rows, or weights of another number than the rows.
    """

    train: Tensor
    validation: Tensor | None = None
    weight: Tensor | None = None
    validation_weight: Tensor | None = None
    _fingerprint: str = ""

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise DataError("there are no rows to train on")
        if self.validation is not None and len(self.validation) == 0:
            raise DataError("there are no validation rows: pass some, or None")
        pairs = (
            ("weight", self.weight, self.train),
            ("validation_weight", self.validation_weight, self.validation),
        )
        for name, weight, rows in pairs:
            if weight is not None and rows is not None and tuple(weight.shape) != (len(rows),):
                raise DataError(
                    f"{name} must have one number a row, shape ({len(rows)},), received {tuple(weight.shape)}"
                )

    def outside_inference(self) -> Rows:
        """Tensors made under `torch.inference_mode` copied, for those cannot be part of a gradient."""
        return self._each(lambda t: t.clone() if t.is_inference() else t)

    def to(self, device: torch.device) -> Rows:
        """All tensors on a device."""
        return self._each(lambda t: t.to(device))

    def double(self) -> Rows:
        """Rows of floating-point numbers in float64."""
        return self._each(lambda t: t.double() if t.is_floating_point() else t)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        validation, weight, validation_weight = (
            None if t is None else change(t) for t in (self.validation, self.weight, self.validation_weight)
        )
        return Rows(change(self.train), validation, weight, validation_weight, self.fingerprint())

    def fingerprint(self) -> str:
        """Hash of all rows and weights as they were given, computed once."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(self.train, self.validation, self.weight, self.validation_weight)
        return self._fingerprint


@dataclass
class Position:
    """Where the training stands; all of it goes into a checkpoint.

    Attributes:
        since_best: evaluations since the best one, or since the tail began.
        tail: first step and number of steps of the decay that a plateau brought about, once it has begun.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    since_best: int = 0
    seconds: float = 0.0
    finished: str = ""
    sums: dict[str, float] = field(default_factory=dict)
    tail: Sequence[int] | None = None
