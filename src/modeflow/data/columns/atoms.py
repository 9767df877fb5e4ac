"""What stands out in a column of numbers: single values that hold too many rows, and bounds."""

from __future__ import annotations

import math

import numpy as np

from modeflow.data.lattice import Lattice

__all__ = ["bounds", "find_atoms", "is_bounded_below"]

#: An atom holds so many times the rows that its neighbourhood explains, and at least this many rows.
_TIMES, _ROWS = 10, 20
#: It holds this share of all rows: zero and the ends of the range, and other values, which may be heaps at
#: round numbers; on a lattice, and in a column of other decimals, where values hardly repeat by chance.
_SHARES_LATTICE, _SHARES = (0.01, 0.05), (0.001, 0.004)
#: Most atoms of a column on a lattice. Where more values qualify, they are heaps (of rounded numbers, of
#: prices), and an atom holds so many times the rows of the largest that is left out.
_MOST, _ABOVE_HEAPS = 5, 3
#: Most atoms of a column of other decimals, in which values that repeat are no rounded ones (rates of 1/2,
#: 1/3, 1/4): those with the most rows.
_MOST_RATES = 32
#: Neighbours on either side by which the neighbourhood is judged, the largest mean counting.
_REACH = (1, 2, 5, 10)
#: Nats a row that a map opened at the bound gains over none; how much the fifth percentile lies nearer to a
#: bound than the tenth, where rows reach it; rows needed.
_GAIN, _EDGE, _EDGE_ROWS = 0.05, 0.4, 100
#: Powers among which a column above zero is made Gaussian, after Box and Cox.
_POWERS = (0.0, 0.25, 0.5)
#: Upper bounds looked for, of columns that begin at zero; those that a value has to lie on.
_TOPS, _TURNS = (1.0, 100.0), (90.0, 180.0, 360.0)


def find_atoms(levels: np.ndarray, counts: np.ndarray, lattice: Lattice | None) -> tuple[float, ...]:
    r"""Single values that hold far more rows than their neighbourhood explains.

    A value with c of N rows is an atom where

    .. math:: c \ge 20, \quad c \ge s N, \quad c \ge 10 \max_r m_r

    with :math:`m_r` the mean count of the r nearest on either side (r = 1, 2, 5, 10), atoms found before left
    out: of distinct values, and on a lattice also of its cells, empty ones too. The share s is 0.001 for zero
    and the ends of the range and 0.004 elsewhere, and atoms are at most 32. On a lattice s is 0.01 and 0.05,
    and they are at most five: where more qualify they are heaps, and an atom holds three times the rows of
    the sixth. (Atoms at heaps of payments cost half a nat a row; at rates they gain a quarter.)

    TabPC, for comparison, splits off the least and the greatest value where they hold more than ten times the
    mean count.

    Arguments:
        levels: distinct values, sorted, ``(L,)``. counts: their rows, ``(L,)``.
        lattice: that of the column; None for a continuous one.
    """
    rows = int(counts.sum())
    shares, most = (_SHARES, _MOST_RATES) if lattice is None else (_SHARES_LATTICE, _MOST)
    special = (levels == 0) | (levels == levels[0]) | (levels == levels[-1])
    least = np.maximum(np.where(special, *shares) * rows, _ROWS)
    places = [np.arange(len(levels), dtype=np.float64)]
    if lattice is not None:
        places.append(lattice.number(levels))
    found: list[int] = []
    for i in np.argsort(-counts, kind="stable").tolist():
        if counts[i] < _ROWS or len(found) > most:
            break
        if counts[i] < least[i]:
            continue
        if counts[i] >= _TIMES * max(_neighbourhood(at, counts, i, found) for at in places):
            found.append(i)
    if lattice is not None and len(found) > most:
        found = [i for i in found[:most] if counts[i] >= _ABOVE_HEAPS * counts[found[most]]]
    found = found[:most]
    return tuple(sorted(float(levels[i]) for i in found))


def _neighbourhood(at: np.ndarray, counts: np.ndarray, i: int, left_out: list[int]) -> float:
    """The largest mean count around a value; `at` are the places of all."""
    means = []
    for reach in _REACH:
        first, last = np.searchsorted(at, [at[i] - reach, at[i] + reach + 0.5])
        inside = [k for k in range(first, last) if k != i and k not in left_out]
        places = min(at[i] + reach, at[-1]) - max(at[i] - reach, at[0])
        places -= sum(first <= k < last for k in left_out)
        if places > 0:
            means.append(float(counts[inside].sum()) / places)
    return max(means, default=0.0)


def is_bounded_below(values: np.ndarray, bound: float) -> bool:
    """Whether a continuous column above `bound` looks as if the bound was there: rows reach it, or a power of
    the distance from it is the more Gaussian by 0.05 nats a row (Box and Cox 1964).

    Arguments:
        values: ``(N,)``, none below the bound.
    """
    y = np.sort(values - bound)
    y = y[y > 0]
    if len(y) < _EDGE_ROWS:
        return False
    inner, outer = y[int(0.05 * len(y))], y[int(0.1 * len(y))]
    if inner < outer / (1 + _EDGE):
        return True
    trim = len(y) // 200
    y = y[trim : len(y) - trim]
    log_y = np.log(y / y[-1])  # in any unit alike, and no square is too large for a double

    def likelihood(power: float) -> float:
        z = log_y if power == 0 else np.expm1(power * log_y) / power
        return float(-0.5 * math.log(max(float(z.var()), 1e-300)) + (power - 1) * log_y.mean())

    return max(likelihood(p) for p in _POWERS) > likelihood(1.0) + _GAIN


def bounds(values: np.ndarray) -> tuple[float, float]:
    """The support of a continuous column: its lower bound at zero and its upper bound at 1 or 100 (or 90,
    180, 360), or minus one to one; infinite where none shows.

    Arguments:
        values: ``(N,)``, at least one.
    """
    low, high = float(values.min()), float(values.max())
    if low >= -1 and high <= 1 and low < 0 and (low == -1 or high == 1):
        return -1.0, 1.0
    if high <= 0 < -low and is_bounded_below(-values, 0.0):
        return -math.inf, 0.0
    if low < 0:
        return -math.inf, math.inf
    first = 0.0 if low == 0 or is_bounded_below(values, 0.0) else -math.inf
    for top in _TOPS:
        if high == top or (0.9 * top < high < top and is_bounded_below(top - values, 0.0)):
            return first, top
    return first, high if first == 0 and high in _TURNS else math.inf
