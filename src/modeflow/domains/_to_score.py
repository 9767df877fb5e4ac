"""Rows for a fitted estimator, and those that it cannot score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Encoded", "RowsToScore"]


@dataclass(frozen=True)
class Encoded:
    """Rows that a domain has read before, in the place of a frame or an array: they are not read again.

    Attributes:
        values: as `Domain.validate` gave them, ``(N, ...)``.
    """

    values: np.ndarray


@dataclass(frozen=True)
class RowsToScore:
    """Rows for a fitted estimator.

    Attributes:
        values: the good rows, as the estimator takes them.
        rows: index in the source of each of them.
        total: rows of the source.
        bad: why each other row cannot be scored, by its index in the source.
        notes: what was guessed about the files.
        empty: index in the source of those good rows that have no cell at all: what is said of them is said
            of nothing, and they are no part of a ranking.
        first: rows of the source before these, where it is read in parts. done: share of it that ends here.
        more: bad rows beyond those that are listed.
    """

    values: Any
    rows: np.ndarray
    total: int
    bad: Mapping[int, str]
    notes: tuple[str, ...] = ()
    empty: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    first: int = 0
    done: float = 1.0
    more: int = 0

    @property
    def whole(self) -> bool:
        """Whether these are all rows of the source."""
        return self.first == 0 and self.done >= 1.0

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) of the good rows among all rows of the source (total, ...); NaN elsewhere."""
        full = np.full((self.total, *np.shape(values)[1:]), np.nan)
        full[self.rows] = values
        return full

    def bad_text(self, what: str = "score", most: int = 5) -> str | None:
        """One line that counts and names the rows without a score (state, ...); None where there is none."""
        if not self.bad:
            return None
        count = len(self.bad) + self.more
        verb = "have" if count > 1 else "has"
        return f"{count} of {self.total} rows {verb} no {what} (NaN): {self._reasons(most)}"

    def left_out_text(self, most: int = 5) -> str | None:
        """The same, where a result has the other rows alone."""
        if not self.bad:
            return None
        count = len(self.bad) + self.more
        verb = "are" if count > 1 else "is"
        return f"{count} of {self.total} rows {verb} left out: {self._reasons(most)}"

    def _reasons(self, most: int) -> str:
        listed = "; ".join(f"row {row + 1}: {why}" for row, why in list(self.bad.items())[:most])
        left = len(self.bad) + self.more - most
        return listed + (f"; and {left} more" if left > 0 else "")
