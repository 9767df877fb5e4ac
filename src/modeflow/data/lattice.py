"""Lattices: columns whose values are multiples of a step, and how that is seen in the data.

A value of a lattice is ``v_n = offset + n * step`` with a whole number n. Counts have step 1, salaries
perhaps 1000, prices 0.01. Such a column has probabilities, not a density, see `modeflow.data.schema`.

A column is taken for a lattice

- if all values are whole numbers (the step is their greatest common divisor); or
- if all have few decimals (the greatest common divisor of the digits), or differ by multiples of one step,
  *and* the values repeat: more than half of the rows share theirs with another row, or one value fills more
  than a fifth of them. Decimals that hardly repeat are measurements which happen to be rounded: the step is
  too fine for these rows to show, and a density describes them.

A step counts only where the numbers could have been finer: beyond four units in the last place of a double.
Above 2^53 every double is whole, and that says nothing of the column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modeflow.data.spread import mean_and_spread
from modeflow.errors import ConfigError

__all__ = ["Lattice", "find_lattice", "lattice_of_step", "repeats", "short_decimals"]

#: Decimals looked for; more than twelve digits are nobody's rounding.
_DECIMALS = 12
#: A step finer than this share of the standard deviation is lost in the float32 of training.
_FINEST = 1e-6
#: How far from the lattice, in steps, a value may lie by rounding alone; and where they are no decimals.
_TOLERANCE, _LOOSE = 1e-3, 0.1
#: Least share of the distinct values that a lattice up to rounding tells apart.
_TOLD_APART = 0.1
#: Rows at the edge of the range that speak for a bound, and their least share of the next level's.
_PILE, _PILE_SHARE = 5, 0.1


@dataclass(frozen=True)
class Lattice:
    """The values ``offset + n * step`` of one column, n whole.

    Arguments:
        step: distance of neighbours, in the units of the data.
        offset: the value of n = 0.
        decimals: digits after the point, by which values are rounded to what a text would say; None where
            the values are no short decimals.
        low, high: the range of n that samples keep to; None for none.
        piled: whether rows pile up at low and at high, as at a bound (0 and 1, a cap) and not in a tail.

    Raises:
        ConfigError: a step that is not positive, or an empty range.
    """

    step: float = 1.0
    offset: float = 0.0
    decimals: int | None = 0
    low: int | None = None
    high: int | None = None
    piled: tuple[bool, bool] = (False, False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.step) and self.step > 0 and math.isfinite(self.offset)):
            raise ConfigError(f"a lattice needs a positive step, received {self.step} from {self.offset}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ConfigError(f"a lattice needs two values or more, received {self.low} to {self.high}")

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return self.decimals == 0

    def number(self, values: np.ndarray) -> np.ndarray:
        """n of the nearest value of the lattice (as float64)."""
        return np.asarray(np.floor((values - self.offset) / self.step + 0.5))

    def value(self, n: np.ndarray) -> np.ndarray:
        """The values of n, correctly rounded where they are decimals."""
        values = self.offset + n * self.step
        if self.decimals is None:
            return np.asarray(values)
        power = 10.0**self.decimals
        return np.asarray(np.round(values * power) / power)

    def misses(self, values: np.ndarray) -> np.ndarray:
        """Which values lie between those of the lattice."""
        n = (values - self.offset) / self.step
        rounding = 4 * np.spacing(np.abs(values)) / self.step
        return np.asarray(
            np.abs(n - np.round(n))
            > np.maximum(_TOLERANCE if self.decimals is not None else _LOOSE, rounding)
        )

    def edges(self) -> tuple[float, float]:
        """Where the outer cells end, at the sides where rows pile up; infinite elsewhere."""
        low, high = -math.inf, math.inf
        if self.low is not None and self.piled[0]:
            low = self.offset + (self.low - 0.5) * self.step
        if self.high is not None and self.piled[1]:
            high = self.offset + (self.high + 0.5) * self.step
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "piled": list(self.piled)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lattice:
        """What `to_dict` wrote."""
        try:
            return cls(**{**data, "piled": tuple(bool(p) for p in data["piled"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(f"a lattice cannot be read: {error}") from error


def find_lattice(column: np.ndarray, evidence: bool = True) -> Lattice | None:
    """The lattice of a column's values; None for a continuous one.

    Arguments:
        column: finite values, shape (N,).
        evidence: ask that decimals repeat, see above.
    """
    levels, counts = np.unique(column, return_counts=True)
    if len(levels) < 2:
        return None
    found = _decimal(levels)
    if found is None or not found.whole:
        if evidence and not repeats(counts):
            return None
        # Decimals that fill few of their steps may be rounded multiples of a larger one (centred integers).
        if found is None or len(levels) < 0.2 * (levels[-1] - levels[0]) / found.step:
            found = _regular(levels, 0.0 if found is None else found.step) or found
        if found is None or (evidence and found.step < _FINEST * mean_and_spread(column)[1]):
            return None
    if found.step < 4 * np.spacing(np.abs(levels).max()):
        return None
    return _with_range(found, levels, counts)


def lattice_of_step(column: np.ndarray, step: float) -> Lattice:
    """The lattice of a given step through the lowest value of the column (through 0 if that fits)."""
    levels, counts = np.unique(column, return_counts=True)
    decimals = next((d for d in range(_DECIMALS + 1) if _is_decimal(np.array([step]), d)), None)
    offset = float(levels[0] - math.floor(levels[0] / step + _TOLERANCE) * step)
    if abs(offset) < _TOLERANCE * step:
        offset = 0.0
    if decimals is not None:
        more = next((d for d in range(decimals, _DECIMALS + 1) if _is_decimal(levels[:1], d)), None)
        decimals = more
        offset = offset if more is None else round(offset, more)
    return _with_range(Lattice(float(step), offset, decimals), levels, counts)


def short_decimals(column: np.ndarray) -> int | None:
    """Digits after the point that all values of a (continuous) column keep to; None where there is no end."""
    levels = np.unique(column)
    found = _decimal(levels) if len(levels) > 1 else None
    if found is None or found.decimals is None or found.step < _FINEST * mean_and_spread(column)[1]:
        return None
    return found.decimals


def repeats(counts: np.ndarray) -> bool:
    """Whether more than half of the rows share their value, or one value fills more than a fifth of them."""
    rows = counts.sum()
    return bool(counts[counts > 1].sum() > 0.5 * rows or counts.max() > 0.2 * rows)


def _with_range(lattice: Lattice, levels: np.ndarray, counts: np.ndarray) -> Lattice:
    """Set the range of samples.

    A side where rows pile up (or either, with two levels) is a bound. A tail that thins out is left open, but
    for values that never were negative, which samples shall not be either.
    """
    two = len(levels) == 2
    piled = [
        two or bool(edge >= _PILE and edge >= _PILE_SHARE * following)
        for edge, following in ((counts[0], counts[1]), (counts[-1], counts[-2]))
    ]
    first, last = (int(n) for n in lattice.number(levels[[0, -1]]))
    zero = math.ceil(-lattice.offset / lattice.step - _TOLERANCE)
    low = first if piled[0] else zero if levels[0] >= 0 else None
    high = last if piled[1] else None
    return Lattice(lattice.step, lattice.offset, lattice.decimals, low, high, (piled[0], piled[1]))


def _is_decimal(levels: np.ndarray, digits: int) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.round(levels * 10.0**digits)
    if not np.abs(scaled).max() < 2**53:
        return False
    short = scaled / 10.0**digits
    if np.array_equal(short, levels):
        return True
    with np.errstate(over="ignore"):
        single = levels.astype(np.float32)
    # A table that was stored in single precision: its decimals are right to seven digits.
    return bool(np.array_equal(single, levels) and np.array_equal(short.astype(np.float32), single))


def _decimal(levels: np.ndarray) -> Lattice | None:
    """Sorted distinct values that are all short decimals: their greatest common step."""
    few = levels[:: max(1, len(levels) // 50)]
    for digits in range(_DECIMALS + 1):
        if _is_decimal(few, digits) and _is_decimal(levels, digits):
            power = 10**digits
            scaled = np.round(levels * float(power)).astype(np.int64)
            step = int(np.gcd.reduce(np.diff(scaled)))
            return Lattice(step / power, int(scaled[0]) % step / power, digits)
    return None


def _regular(levels: np.ndarray, rounding: float) -> Lattice | None:
    """Sorted distinct values that differ by multiples of one step, up to rounding (also to 5 or 7 digits)."""
    largest = float(np.abs(levels).max())
    for noise in (8 * float(np.spacing(largest)), 1e-7 * largest, 1e-5 * largest):
        found = _regular_within(levels, max(noise, rounding))
        if found is not None:
            return found
    return None


def _regular_within(levels: np.ndarray, noise: float) -> Lattice | None:
    gaps = np.diff(levels)
    gaps = gaps[gaps > 4 * noise]  # what differs by rounding alone is one value
    if not len(gaps):
        return None
    step = smallest = float(gaps.min())
    for gap in np.unique(gaps[:: max(1, len(gaps) // 1000)]):  # Euclid's algorithm, with tolerance
        a, b = float(gap), step
        while b > max(noise, _TOLERANCE * smallest):
            a, b = b, abs(a - round(a / b) * b)
        step = a
        if step < 20 * max(noise, _TOLERANCE * smallest):
            return None
    n = np.round((levels - levels[0]) / step)
    if len(np.unique(n)) < _TOLD_APART * len(levels):
        return None  # all that is told apart is one value far from the others, such as 1e30 for none
    middle = n - n.mean()
    step = float((levels - levels.mean()) @ middle / (middle @ middle))
    offset = float(levels.mean() - step * n.mean())
    off = np.abs(levels - offset - step * n).max()
    whole = round(offset / step) * step
    offset = 0.0 if abs(offset - whole) < 2 * noise + 1e-5 * step else offset
    return Lattice(step, offset, None) if off <= 1e-5 * step + 2 * noise and off < _LOOSE * step else None
