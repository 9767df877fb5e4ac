"""The distribution of one column in every row, as levels with their probabilities or as draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modeflow.transforms.base import Exactness

__all__ = ["Prediction"]


@dataclass(frozen=True)
class Prediction:
    """The distribution of one column in every row, given the other cells of the row.

    Attributes:
        name: of the column. levels: its values, where they are few; else None.
        probabilities: of the levels, ``(N, L)``; None for numbers.
        draws: of numbers, ``(N, draws)``, in the units of the data; None for levels.
        kind: whether they are those of the model exactly, or an ``"estimate"``.
    """

    name: str
    levels: tuple[Any, ...] | None
    probabilities: np.ndarray | None
    draws: np.ndarray | None
    kind: Exactness = "exact"

    def mode(self) -> np.ndarray:
        """The likeliest level of every row; of numbers the median."""
        if self.probabilities is not None and self.levels is not None:
            return np.array(self.levels, dtype=object)[self.probabilities.argmax(1)]
        assert self.draws is not None
        return np.asarray(np.median(self.draws, axis=1))
