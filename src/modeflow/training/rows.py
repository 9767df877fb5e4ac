"""The rows of a training and where in them it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeflow.errors import DataError
from modeflow.training.checkpoint import fingerprint
from modeflow.training.stored import Order, StoredRows

__all__ = ["Position", "Rows"]


@dataclass
class Rows:
    """The rows of a training, on the device, or those to train on in a file; weights have mean one.

    Raises:
        DataError: no rows, or weights of another number than the rows.
    """

    train: Tensor | StoredRows
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
        rows = self._each(lambda t: t.to(device))
        if isinstance(rows.train, StoredRows):
            rows.train = rows.train.to(device)
        return rows

    def double(self) -> Rows:
        """Rows of floating-point numbers in float64."""
        return self._each(lambda t: t.double() if t.is_floating_point() else t)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Rows:
        validation, weight, validation_weight = (
            None if t is None else change(t) for t in (self.validation, self.weight, self.validation_weight)
        )
        train = self.train if isinstance(self.train, StoredRows) else change(self.train)
        return Rows(train, validation, weight, validation_weight, self.fingerprint())

    def order(self, generator: torch.Generator) -> Order | InMemory:
        """The order of an epoch, from which batches are taken."""
        if isinstance(self.train, StoredRows):
            return self.train.order(generator)
        return InMemory(self.train, generator)

    def fingerprint(self) -> str:
        """Hash of all rows and weights as they were given, computed once."""
        if not self._fingerprint:
            train, stored = (None, self.train) if isinstance(self.train, StoredRows) else (self.train, None)
            others = fingerprint(train, self.validation, self.weight, self.validation_weight)
            self._fingerprint = others if stored is None else f"{stored.fingerprint()} {others}"
        return self._fingerprint


class InMemory:
    """An epoch over rows in memory."""

    def __init__(self, rows: Tensor, generator: torch.Generator) -> None:
        self.rows = rows
        self._order = torch.randperm(len(rows), generator=generator).to(rows.device)

    def __len__(self) -> int:
        return len(self._order)

    def take(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The rows at these places of the order: their numbers ``(n,)``, and they ``(n, ...)``."""
        index = self._order[start:stop]
        return index, self.rows.index_select(0, index)


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
