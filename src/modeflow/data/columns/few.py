"""Columns of few values: which these are, and whether numbers are modelled by their codes."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeflow.data.columns.cells import PROGRAM_MARKS, Cells
from modeflow.data.columns.levels import in_order
from modeflow.data.lattice import find_lattice

__all__ = ["MAX_LEVELS", "MAX_LEVELS_NUMERIC", "few_valued", "level_values"]

#: Most levels of a column of words, and of one of numbers that is modelled by codes.
#: Of numbers more are no codes: of ages and temperatures a flow knows that neighbours are alike, which was
#: worth 0.1 nats a row on adult and 2.6 on beijing (docs/data.md).
MAX_LEVELS, MAX_LEVELS_NUMERIC = 1000, 32
#: Most levels and rows a level, on average, of numbers that lie far apart (gains of 7688 and 15024), where of
#: neighbours there is nothing to say: fewer than this share of their lattice occurs. Rows beyond it, a
#: thousandth at either end, say nothing of that: a slip of the pen among speeds of the wind.
_APART, _ROWS_APART, _SPARSE, _BEYOND = 128, 100, 0.1, 1e-3
#: Rows a level that other numbers need, on average; share of new rows, beside those of the most frequent
#: value, that may hold a value not seen (after Good and Turing: the share seen once).
_ROWS_A_LEVEL, _UNSEEN = 5, 0.05


def few_valued(levels: np.ndarray, counts: np.ndarray, step: float = 0.0) -> bool:
    """Whether numbers are modelled by codes: at most 32 values with five rows and more each on average, or
    128 far apart with a hundred; and few of them seen but once.

    Arguments:
        levels, counts: the values, rising, and how many rows have each. step: of their lattice; 0 for none.
    """
    rows = int(counts.sum())
    apart = step > 0 and len(levels) <= _APART and _far_apart(levels, counts, step)
    most = min(_APART, rows / _ROWS_APART) if apart else 0
    if len(levels) > max(most, min(MAX_LEVELS_NUMERIC, rows / _ROWS_A_LEVEL)):
        return False
    return float((counts == 1).sum()) <= _UNSEEN * (rows - int(counts.max()))


def _far_apart(levels: np.ndarray, counts: np.ndarray, step: float) -> bool:
    """Whether few values of the lattice occur where the rows are."""
    below = np.cumsum(counts)
    first, last = np.searchsorted(below, below[-1] * np.array([_BEYOND, 1 - _BEYOND]), side="right")
    inner = levels[first : last + 1]
    # Of those alone it may be a larger one.
    own = find_lattice(inner, evidence=False)
    step = step if own is None else max(step, own.step)
    return bool(len(inner) < _SPARSE * ((inner[-1] - inner[0]) / step + 1))


def level_values(cells: Cells) -> tuple[Any, ...]:
    """The distinct values of a column in order; marks of programs in text are missing ones."""
    if cells.levels is not None:
        return cells.levels
    if cells.text is not None and not cells.spells_numbers:
        found = cells.text.drop_nulls().unique().to_list()
        return in_order(v for v in found if v.strip().lower() not in PROGRAM_MARKS)
    if cells.objects is not None:
        return in_order({v for v in cells.objects if v is not None})
    known = np.unique(cells.numbers[~np.isnan(cells.numbers)])
    if cells.kind == "boolean":
        return tuple(bool(v) for v in known)
    whole = bool(np.all(known == np.round(known)))
    return tuple(int(v) if whole else float(v) for v in known)
