"""Columns that no model sees: constant, dropped, and names of rows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from modeflow.data._cells import is_missing
from modeflow.data.columns.base import Column, shown
from modeflow.data.columns.cells import Cells
from modeflow.errors import ConfigError, DataError

__all__ = ["EXACT", "STRAY", "Constant", "Drop", "Identifier", "absent_in", "refusal"]

#: How it is said of a column that its numbers have some text among them, see `Column.about`.
STRAY = "numbers, and text such as"

#: Whole numbers from which on float64 has not all of them.
EXACT = 2**53
#: Columns listed in a message.
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Constant(Column):
    """One value in every row, put back into samples; None where every cell is missing.

    Arguments:
        value: it. time: whether it is a date or a time, which files have as text.
    """

    value: Any = None
    time: bool = False

    kind: ClassVar[str] = "constant"
    modelled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.time and isinstance(self.value, str):
            read = dt.date if len(self.value) == len("2024-01-31") else dt.datetime
            try:
                object.__setattr__(self, "value", read.fromisoformat(self.value))
            except ValueError as error:
                raise ConfigError(
                    f"column '{self.name}': {self.value!r} is no date, such as 2024-01-31"
                ) from error
        object.__setattr__(self, "time", isinstance(self.value, dt.date))

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        absent = absent_in(cells, self.value)
        wrong = ~absent
        number = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        if number and cells.text is not None and abs(self.value) < EXACT:
            wrong &= cells.numbers != self.value  # 2.0, 2.00 and 2 are one number
        elif self.value is not None:
            values = cells.list()
            wrong &= np.array([v is not None and not _same(v, self.value) for v in values], dtype=bool)
        return np.where(absent, np.nan, 0.0), wrong, np.zeros(len(cells))

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """The value, as often as there are numbers."""
        n = len(encoded)
        if isinstance(self.value, (bool, int, float)):
            return np.full(n, self.value)
        if isinstance(self.value, dt.date):
            unit = "us" if isinstance(self.value, dt.datetime) else "D"
            return np.full(n, np.array(self.value, dtype=f"datetime64[{unit}]"))
        if self.value is None and self.dtype and not self.dtype.lower().startswith(("str", "object", "text")):
            return np.full(n, np.nan)
        filled = np.empty(n, dtype=object)
        filled[:] = self.value
        return filled

    def _remedy(self, cells: Cells, row: int) -> str:
        return "it is one value in all rows of the fit: drop the column, or fit with rows of both"

    @property
    def spec(self) -> str:
        return f"constant({'missing' if self.value is None else shown(self.value)})"


def absent_in(cells: Cells, value: Any = None) -> np.ndarray:
    """Which cells hold nothing, or text that marks nothing and is not this value, ``(N,)``."""
    if cells.text is None:
        return cells.missing
    marks = [v is not None and is_missing(v) and v != value for v in cells.text.to_list()]
    return cells.missing | np.array(marks, dtype=bool)


def _same(cell: Any, value: Any) -> bool:
    if isinstance(cell, str) != isinstance(value, str):
        return str(cell) == str(value)
    return bool(cell == value)


@dataclass(frozen=True, kw_only=True)
class Drop(Column):
    """Left out, of samples too."""

    kind: ClassVar[str] = "drop"
    modelled: ClassVar[bool] = False

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        return np.full(len(cells), np.nan), np.zeros(len(cells), dtype=bool), None

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Nothing but missing cells."""
        return np.full(len(encoded), None, dtype=object)

    @property
    def spec(self) -> str:
        return self.kind


@dataclass(frozen=True, kw_only=True)
class Identifier(Column):
    """Names of rows: nearly every row has one of its own, or they are too many to learn. Refused."""

    kind: ClassVar[str] = "id"
    modelled: ClassVar[bool] = False

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        raise DataError(refusal([self]))

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Nothing but missing cells."""
        return np.full(len(encoded), None, dtype=object)

    @property
    def spec(self) -> str:
        return self.kind


def refusal(columns: list[Column], remedy: str = "") -> str:
    """Why columns of names are refused, in one line.

    Arguments:
        columns: those. remedy: what to do, where it is not to be said in Python.
    """
    stray = next((c for c in columns if c.about.startswith(STRAY)), None)
    if stray is not None:
        return (
            f"column '{stray.name}' holds {stray.about}: correct these cells, or {remedy or 'say its kind'}"
        )
    what = ", ".join(f"'{c.name}'" + (f" ({c.about})" if c.about else "") for c in columns[:_SHOWN])
    drops = ", ".join(f"'{c.name}': 'drop'" for c in columns[:_SHOWN])
    more = len(columns) - _SHOWN
    several = len(columns) > 1
    return (
        f"column{'s' if several else ''} {what}{f' and {more} more' if more > 0 else ''} "
        f"name{'' if several else 's'} the rows, or {'have' if several else 'has'} too many values to learn: "
        + (remedy or f"pass columns={{{drops}{', ...' if more > 0 else ''}}}, or say what else they are")
    )
