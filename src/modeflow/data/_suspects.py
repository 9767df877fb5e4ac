"""Columns of numbers that may be none: row numbers, and marks for missing values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["suspects"]

# Names under which programs store the number of a row.
_COUNTERS = ("index", "level_0", "id", "row", "row_id", "rownames", "unnamed: 0", "nr", "no")
_MARKS = (99.0, 999.0, 9999.0, 99999.0, 999.9, 999.25, 1e20, 1e30)
_LEAST_ROWS = 10


def suspects(values: np.ndarray, columns: Sequence[str]) -> list[str]:
    """One sentence for each column that may not be meant as numbers.

    Arguments:
        values: (N, D), NaN where a value is missing.
        columns: D names.
    """
    found: list[str] = []
    if len(values) < _LEAST_ROWS:
        return found
    counts = np.arange(len(values))
    for name, column in zip(columns, values.T, strict=True):
        if name.lower() in _COUNTERS and column[0] in (0, 1) and np.array_equal(column, counts + column[0]):
            found.append(
                f"column '{name}' numbers the rows ({column[0]:g}, {column[1]:g}, ...): a row index is no "
                "quantity; choose the other columns with --columns (columns=)"
            )
            continue
        mark = _mark(column)
        if mark is not None:
            count = int((column == mark).sum())
            found.append(
                f"column '{name}' holds {mark:g} in {count} rows, far from all other values: if it marks "
                "missing values, leave these cells empty and give --drop-missing (drop_missing=True)"
            )
    return found


def _mark(column: np.ndarray) -> float | None:
    """A value such as -999 that several rows share and that lies far outside of the others."""
    known = column[np.isfinite(column)]
    if len(known) < _LEAST_ROWS:
        return None
    for end in (known.min(), known.max()):
        if abs(end) not in _MARKS:
            continue
        rest = known[known != end]
        if len(rest) >= len(known) - 1 or len(rest) < 3:
            continue
        gap = rest.min() - end if end == known.min() else end - rest.max()
        if gap > 2 * (rest.max() - rest.min()) > 0:
            return float(end)
    return None
