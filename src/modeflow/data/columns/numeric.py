"""Kinds of columns that are numbers with a density: real, positive, bounded, circular.

Single values that hold far more rows than their neighbourhood (zeros of rain, a cap) are atoms: they have a
probability beside the density of the others, and need not lie within its bounds.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modeflow.data.columns.base import Column, Feature
from modeflow.data.columns.cells import Cells
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.spans import largest_span
from modeflow.data.spread import LARGEST, single_slack
from modeflow.errors import ConfigError, DataError

__all__ = ["Bounded", "Circular", "Numeric", "Positive", "Real", "as_type", "numbers_of"]

#: How far a value may lie from an atom or a bound by rounding alone, as a share of it.
_ROUNDING = 1e-6


def numbers_of(cells: Cells, name: str) -> np.ndarray:
    """The numbers of a column, NaN where missing.

    Raises:
        DataError: for text, times, and numbers that are infinite or nearly so; names column, row and value.
    """
    if cells.kind == "time":
        raise DataError(f"column '{name}' holds times, not numbers; say 'datetime', or drop it")
    bad = cells.bad
    if cells.objects is not None:
        bad = np.array([v is not None and not isinstance(v, (int, float)) for v in cells.objects], dtype=bool)
    if bad is not None and bad.any():
        row = int(np.argmax(bad))
        share = f" ({int(bad.sum())} of {len(bad)} cells are text)" if len(bad) > 1 else ""
        raise DataError(
            f"column '{name}', data row {row + 1} holds {str(cells.value(row))[:40]!r}, no number{share}; "
            "correct it, or say 'categorical' or 'drop'"
        )
    numbers = cells.numbers
    if cells.objects is not None:
        numbers = np.array([math.nan if v is None else float(v) for v in cells.objects])
    infinite = np.isinf(numbers)
    if infinite.any():
        row = int(np.argmax(infinite))
        raise DataError(
            f"column '{name}', data row {row + 1} is infinite; put a number there, or leave the cell empty"
        )
    huge = np.abs(numbers) > LARGEST
    if huge.any():
        row = int(np.argmax(huge))
        others = f" (and {int(huge.sum()) - 1} more rows)" if huge.sum() > 1 else ""
        raise DataError(
            f"column '{name}', data row {row + 1} holds {numbers[row]:g}{others}, beyond {LARGEST:g}: give "
            "the column in a larger unit, or leave the cell empty"
        )
    return numbers


def as_type(values: np.ndarray, dtype: str) -> np.ndarray:
    """Floats as numbers of a type, within its range; whole numbers stay floats where one is NaN."""
    kind = portable(dtype)
    if kind.startswith(("int", "uint")):
        info = np.iinfo(kind)
        # The largest double below 2^63 is the largest that fits.
        high = float(info.max) if info.max < 2**53 else np.nextafter(float(info.max), 0)
        whole = np.clip(np.round(values), float(info.min), high)
        return whole if np.isnan(whole).any() else whole.astype(kind)
    return values.astype(np.float32) if kind == "float32" else values


def _largest(dtype: str) -> float:
    """The largest number that a type holds, and a column may have."""
    if (span := largest_span(dtype)) is not None:
        return span
    if found := re.fullmatch(r"[Dd]ecimal(?:128)?\((?:precision=)?(\d+), (?:scale=)?(\d+)\)", dtype):
        return 10.0 ** (int(found[1]) - int(found[2])) * (1 - 2.0**-50)
    return float(np.finfo(np.float32).max) if portable(dtype) == "float32" else LARGEST


@dataclass(frozen=True, kw_only=True)
class Numeric(Column):
    """A column of numbers.

    Arguments:
        atoms: single values with a probability beside the others.
        decimals: digits after the point that cells have; None for all.
        single: whether cells have only the digits of single precision, though their type has more.
    """

    atoms: tuple[float, ...] = ()
    decimals: int | None = None
    single: bool = False

    def __post_init__(self) -> None:
        atoms = self.atoms if isinstance(self.atoms, (tuple, list)) else (self.atoms,)
        for key, value in (
            ("atoms", atoms),
            ("decimals", (self.decimals,) if self.decimals is not None else ()),
        ):
            if any(
                isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in value
            ):
                raise ConfigError(f"column '{self.name}': {key} must be numbers, received {value}")
        object.__setattr__(self, "atoms", tuple(sorted(float(a) for a in atoms)))
        self._check_numbers(*self._bounds())

    def _bounds(self) -> tuple[str, ...]:
        return ()

    def _check_numbers(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"column '{self.name}': {name} must be a number, received {value!r}")
            object.__setattr__(self, name, float(value))

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        numbers = numbers_of(cells, self.name)
        known = ~np.isnan(numbers)
        atom, values = self._atom(numbers), self._into(numbers)
        wrong = known & ~atom & ~self._possible(values)
        near = None
        if wrong.any():
            near = self._nearest(np.where(known, values, 0.0))
        for value in self.atoms:  # to the digit, which a model tells it by
            values = np.where(atom & self._is_atom(numbers, value), value, values)
        return values, wrong, near

    @property
    def has_density(self) -> bool:
        return True

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        x = np.asarray(encoded, dtype=np.float64)
        absent = np.isnan(x)
        largest = _largest(self.dtype)
        x = np.clip(np.where(absent, 0.0, x), -largest, largest)
        values = self._nearest(x)
        for atom in self.atoms:
            values = np.where(self._is_atom(x, atom), atom, values)
        if self.single:
            values = values.astype(np.float32).astype(np.float64)
        return as_type(np.where(absent, math.nan, values), self.dtype)

    def middle(self, draws: np.ndarray) -> np.ndarray:
        """The mean."""
        return np.asarray(draws.mean(0))

    def _atom(self, numbers: np.ndarray) -> np.ndarray:
        found = np.zeros(len(numbers), dtype=bool)
        for atom in self.atoms:
            found |= self._is_atom(numbers, atom)
        return found

    @staticmethod
    def _is_atom(x: np.ndarray, atom: float) -> np.ndarray:
        return np.asarray(np.abs(x - atom) <= 4 * single_slack(np.array(atom)))

    def _into(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers as they are modelled."""
        return numbers

    @abstractmethod
    def _possible(self, numbers: np.ndarray) -> np.ndarray:
        """Which values the column can have beside its atoms (NaN: anything)."""

    @abstractmethod
    def _nearest(self, x: np.ndarray) -> np.ndarray:
        """The nearest such values of finite numbers."""

    def _rounded(self, x: np.ndarray) -> np.ndarray:
        if self.decimals is not None:
            with np.errstate(over="ignore"):
                x = np.where(np.abs(x) < 2.0**53 / 10.0**self.decimals, np.round(x, self.decimals), x)
        return x.astype(np.float32).astype(np.float64) if self._is_single else x

    @property
    def _is_single(self) -> bool:
        return self.single or portable(self.dtype) == "float32"

    def _within(self, x: np.ndarray, low: float, high: float, closed: bool = True) -> np.ndarray:
        """Rounded, and brought within bounds; the lower one is left out if not `closed`."""
        first, last = self._ends(low, high, closed)
        return np.clip(self._rounded(x), first, last)

    def _ends(self, low: float, high: float, closed: bool) -> tuple[float, float]:
        """The least and the greatest value within bounds that the column's decimals and type allow."""
        single = self._is_single
        if self.decimals is not None:
            unit = 10.0**-self.decimals
            first = round(math.ceil(low / unit - _ROUNDING) * unit, self.decimals) if low > -math.inf else low
            last = (
                round(math.floor(high / unit + _ROUNDING) * unit, self.decimals) if high < math.inf else high
            )
            if not closed and first <= low:
                first = round(first + unit, self.decimals)
        else:
            first, last = low, high
            if not closed:
                # Zero's next neighbours are no normal numbers.
                tiny = float(np.finfo(np.float32 if single else np.float64).tiny)
                first = max(float(np.nextafter(np.float32(low) if single else low, math.inf)), low + tiny)
        if single:
            first = _single(first, math.inf) if low > -math.inf else first
            last = _single(last, -math.inf) if high < math.inf else last
        return first, last

    def feature(self) -> Feature:
        return Feature(self.name, self.kind, atoms=self.atoms, missing=self.missing)

    def _text(self, *parts: str) -> str:
        said = [p for p in parts if p]
        said += [f"atom {a:g}" for a in self.atoms]
        return f"{self.kind}({', '.join(said)})" if said else self.kind


def _single(value: float, towards: float) -> float:
    """The nearest number of single precision that does not lie beyond."""
    near = np.float32(value)
    if (towards > 0 and near < value) or (towards < 0 and near > value):
        near = np.nextafter(near, np.float32(towards))
    return float(near)


@dataclass(frozen=True, kw_only=True)
class Real(Numeric):
    """Any number."""

    kind: ClassVar[str] = "real"

    def _possible(self, numbers: np.ndarray) -> np.ndarray:
        return np.ones(len(numbers), dtype=bool)

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        return self._rounded(x)

    @property
    def spec(self) -> str:
        return self._text()


@dataclass(frozen=True, kw_only=True)
class Positive(Numeric):
    """Numbers above a bound, `low`, which is itself left out unless `closed`."""

    low: float = 0.0
    closed: bool = False

    kind: ClassVar[str] = "positive"

    def _bounds(self) -> tuple[str, ...]:
        return ("low",)

    def _possible(self, numbers: np.ndarray) -> np.ndarray:
        below = numbers < self.low - _ROUNDING * abs(self.low)
        return ~(below | ((numbers == self.low) & (not self.closed)))

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        values = self._within(x, self.low, math.inf, self.closed)
        # An atom at the bound is nearer than what lies just above it.
        return np.where(x <= self.low, self.low, values) if self.low in self.atoms else values

    def feature(self) -> Feature:
        return Feature(self.name, self.kind, atoms=self.atoms, low=self.low, missing=self.missing)

    @property
    def spec(self) -> str:
        return self._text(f"{self.low:g}" if self.low else "", "closed" if self.closed else "")


@dataclass(frozen=True, kw_only=True)
class Bounded(Numeric):
    """Numbers between bounds, which are among them; one of the two may be None, for none."""

    low: float | None = None
    high: float | None = None

    kind: ClassVar[str] = "bounded"

    def _bounds(self) -> tuple[str, ...]:
        return ("low", "high")

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self._interval()
        if low == -math.inf and high == math.inf:
            raise ConfigError(
                f"column '{self.name}' of kind 'bounded' needs low, high, or both: bounded(0, 1)"
            )
        if not low < high:
            raise ConfigError(f"column '{self.name}': low={low:g} must lie below high={high:g}")

    def _interval(self) -> tuple[float, float]:
        low = -math.inf if self.low is None else self.low
        return low, math.inf if self.high is None else self.high

    def _possible(self, numbers: np.ndarray) -> np.ndarray:
        low, high = self._interval()
        room = _ROUNDING * (
            high - low if math.isfinite(high - low) else abs(high if low == -math.inf else low)
        )
        return ~((numbers < low - room) | (numbers > high + room))

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        return self._within(x, *self._interval())

    def feature(self) -> Feature:
        low, high = self._interval()
        return Feature(self.name, self.kind, atoms=self.atoms, low=low, high=high, missing=self.missing)

    @property
    def spec(self) -> str:
        low, high = ("" if b is None else f"{b:g}" for b in (self.low, self.high))
        return self._text(f"{low}..{high}")


@dataclass(frozen=True, kw_only=True)
class Circular(Numeric):
    """Numbers on a closed line: angles, hours of the day.

    Cells lie in ``[origin, origin + period)``; others are wrapped. With a step they are
    ``origin + n * step``, such as the months 1 to 12 (period 12, origin 1, step 1).

    Arguments:
        period: the length of the line.
        origin: where it starts.
        step: distance of neighbours, a whole part of the period; 0 for a density.
    """

    period: float
    origin: float = 0.0
    step: float = 0.0

    kind: ClassVar[str] = "circular"

    def _bounds(self) -> tuple[str, ...]:
        return ("period", "origin", "step")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.period > 0:
            raise ConfigError(f"column '{self.name}': period={self.period:g} must be above 0")
        steps = self.period / self.step if self.step else 2.0
        if self.step < 0 or steps < 2 or abs(steps - round(steps)) > 1e-6:
            raise ConfigError(
                f"column '{self.name}': step={self.step:g} must be a whole part of the period {self.period:g}"
            )

    def _into(self, numbers: np.ndarray) -> np.ndarray:
        """Wrapped; what lies within a turn keeps all its digits."""
        outside = ~((numbers >= self.origin) & (numbers < self.origin + self.period)) & ~np.isnan(numbers)
        if not outside.any():
            return numbers
        wrapped = self.origin + np.mod(numbers - self.origin, self.period)
        # A tiny step below the origin is rounded to the end of the line, which is its start.
        wrapped = np.where(wrapped >= self.origin + self.period, self.origin, wrapped)
        return np.where(outside, wrapped, numbers)

    def middle(self, draws: np.ndarray) -> np.ndarray:
        """The direction of the mean of the points on the circle."""
        turn = 2 * math.pi / self.period
        mean = np.exp(1j * turn * (draws - self.origin)).mean(0)
        return self._into(self.origin + np.angle(mean) / turn)

    def _possible(self, numbers: np.ndarray) -> np.ndarray:
        if not self.step:
            return np.ones(len(numbers), dtype=bool)
        n = (numbers - self.origin) / self.step
        return ~(np.abs(n - np.round(n)) > 1e-3)

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        x = self._into(x)
        if self.step:
            n = np.mod(np.floor((x - self.origin) / self.step + 0.5), round(self.period / self.step))
            return self._rounded(self.origin + n * self.step)
        x = self._rounded(x)
        first = self._ends(self.origin, math.inf, closed=True)[0]
        return np.where((x >= self.origin + self.period) | (x < self.origin), first, x)

    def feature(self) -> Feature:
        return Feature(
            self.name, self.kind, circular=True, period=self.period, origin=self.origin, atoms=self.atoms,
            step=self.step, offset=self.origin, low=self.origin, high=self.origin + self.period,
            missing=self.missing,
        )  # fmt: skip

    @property
    def spec(self) -> str:
        origin = f"origin {self.origin:g}" if self.origin else ""
        return self._text(f"{self.period:g}", origin, f"step {self.step:g}" if self.step else "")
