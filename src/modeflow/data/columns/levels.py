"""Kinds of columns with levels: categorical, ordinal, boolean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from modeflow.data._cells import is_missing
from modeflow.data.columns.base import Column, Feature
from modeflow.data.columns.cells import Cells
from modeflow.data.spread import single_slack
from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["Boolean", "Categorical", "Levels", "Ordinal", "in_order"]

#: Levels shown in a message.
_SHOWN = 6


def in_order(levels: Any) -> tuple[Any, ...]:
    """Levels sorted: numbers before text."""
    return tuple(sorted(levels, key=lambda v: (isinstance(v, str), v)))


@dataclass(frozen=True, kw_only=True)
class Levels(Column):
    """A column with a few values, encoded as 0 to L - 1.

    Arguments:
        levels: the values, in the order of their codes: text, numbers or booleans.
    """

    levels: tuple[Any, ...]

    ordered: ClassVar[bool] = False

    def __post_init__(self) -> None:
        levels = self.levels
        if isinstance(levels, (str, bytes)) or not isinstance(levels, tuple) or not levels:
            raise ConfigError(f"column '{self.name}': levels must be a list of values, received {levels!r}")
        wrong = [v for v in levels if not isinstance(v, (str, int, float)) or v != v]
        if wrong:
            raise ConfigError(f"column '{self.name}': levels are text, numbers or booleans, not {wrong[0]!r}")
        if len(set(levels)) != len(levels):
            twice = next(v for v in levels if levels.count(v) > 1)
            raise ConfigError(f"column '{self.name}': level {twice!r} is given twice")

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if cells.kind == "time":
            raise DataError(f"column '{self.name}' holds times, not levels; say 'datetime', or drop it")
        texts = [isinstance(v, str) for v in self.levels]
        if cells.text is not None and all(texts):
            codes = _codes_of_text(cells.text, self.levels)
        elif not any(texts) and cells.objects is None and (cells.text is None or not self._words(cells)):
            codes = _codes_of_numbers(cells.numbers, self.levels)
        else:
            codes = self._codes_of_objects(cells)
        absent = cells.missing
        unknown = np.isnan(codes) & ~absent
        if unknown.any() and cells.text is not None:
            for row in np.flatnonzero(unknown):
                unknown[row] = not is_missing(cells.text[int(row)])
        return codes, unknown, None

    @staticmethod
    def _words(cells: Cells) -> bool:
        return cells.text is not None and cells.bad is not None and bool(cells.bad.any())

    def _codes_of_objects(self, cells: Cells) -> np.ndarray:
        table: dict[Any, int] = {}
        for code, level in enumerate(self.levels):
            table[level] = code
            # A file says 2 or "2", True or "true", as its other cells have it.
            table.setdefault(str(level), code)
            if isinstance(level, bool):
                table.setdefault(str(level).lower(), code)
                table.setdefault(str(level).upper(), code)
        values = cells.list()
        return np.array([math.nan if v is None else _lookup(table, v) for v in values])

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        x = np.asarray(encoded, dtype=np.float64)
        absent = np.isnan(x)
        codes = np.clip(np.where(absent, 0.0, np.floor(x + 0.5)), 0, len(self.levels) - 1).astype(np.int64)
        types = {type(v) for v in self.levels}
        if len(types) == 1 and types <= {int, float, bool} and not absent.any():
            return np.array(self.levels)[codes]
        if types <= {int, float}:
            return np.where(absent, math.nan, np.array(self.levels, dtype=np.float64)[codes])
        values = np.empty(len(self.levels) + 1, dtype=object)
        values[:-1] = self.levels
        return values[np.where(absent, len(self.levels), codes)]

    def feature(self) -> Feature:
        return Feature(self.name, self.kind, len(self.levels), ordered=self.ordered, missing=self.missing)

    def _remedy(self, cells: Cells, row: int) -> str:
        value = cells.value(row)
        hint = nearest(str(value), map(str, self.levels)).lstrip("; ") if isinstance(value, str) else ""
        return f"{hint + ' ' if hint else ''}correct the cell, or add its value to the levels"

    @property
    def spec(self) -> str:
        joined = (" < " if self.ordered else ", ").join(str(v) for v in self.levels[:_SHOWN])
        more = len(self.levels) - _SHOWN
        return f"{self.kind}({joined}{f' and {more} more' if more > 0 else ''})"


def _lookup(table: dict[Any, int], value: Any) -> float:
    found = table.get(value)
    if found is None and not isinstance(value, str):
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        found = table.get(str(number))
    return math.nan if found is None else float(found)


def _codes_of_text(text: pl.Series, levels: tuple[str, ...]) -> np.ndarray:
    codes = text.cast(pl.Enum(list(levels)), strict=False).to_physical().cast(pl.Float64)
    return np.array(codes.fill_null(math.nan).to_numpy(), dtype=np.float64)


def _codes_of_numbers(numbers: np.ndarray, levels: tuple[Any, ...]) -> np.ndarray:
    values = np.array([float(v) for v in levels])
    order = np.argsort(values)
    ranked = values[order]
    at = np.clip(np.searchsorted(ranked, numbers), 0, len(levels) - 1)
    before = np.maximum(at - 1, 0)
    with np.errstate(invalid="ignore"):
        at = np.where(np.abs(ranked[before] - numbers) < np.abs(ranked[at] - numbers), before, at)
        same = np.abs(ranked[at] - numbers) <= 4 * single_slack(ranked[at])
    return np.where(same, order[at].astype(np.float64), math.nan)


@dataclass(frozen=True, kw_only=True)
class Categorical(Levels):
    """Levels without an order."""

    kind: ClassVar[str] = "categorical"


@dataclass(frozen=True, kw_only=True)
class Ordinal(Levels):
    """Levels in their order, words (low, mid, high) or a few numbers on no lattice."""

    kind: ClassVar[str] = "ordinal"
    ordered: ClassVar[bool] = True

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        codes, unknown, _ = super()._read(cells)
        numeric = all(isinstance(v, (int, float)) for v in self.levels)
        if not (numeric and unknown.any()):
            return codes, unknown, None
        values = np.array([float(v) for v in self.levels])
        distance = np.abs(values - np.where(np.isnan(cells.numbers), values[0], cells.numbers)[:, None])
        return codes, unknown, distance.argmin(1).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Boolean(Levels):
    """False and true."""

    levels: tuple[Any, ...] = (False, True)

    kind: ClassVar[str] = "boolean"

    def __post_init__(self) -> None:
        if self.levels != (False, True):
            raise ConfigError(
                f"column '{self.name}': a boolean has the levels false and true; say 'categorical' for others"
            )

    def _codes_of_objects(self, cells: Cells) -> np.ndarray:
        if cells.text is None:
            return super()._codes_of_objects(cells)
        lower = cells.text.str.strip_chars().str.to_lowercase()
        return _codes_of_text(lower, ("false", "true"))

    @property
    def spec(self) -> str:
        return self.kind
