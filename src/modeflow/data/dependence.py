"""Columns that are functions of others: copies, sums, conversions.

Rows then lie on a surface of fewer dimensions, and a density on it has no bound: its likelihood says how long
the training was, not how well it went.

Linear dependence is found jointly, by QR with column pivoting of the standardised rows: a column whose part
outside the span of the columns before it is below `_RESIDUAL` of its spread (a hundred times the precision
of float32) is a linear function of them. Rows far out are left aside, for one of them makes any two columns
look alike. Two columns that order all rows alike (or in reverse), ties included, are monotone functions of
each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["find_dependence"]

#: A column's part that its linear function of others leaves unexplained, in standard deviations.
_RESIDUAL = 1e-5
#: Smallest standardised coefficient that counts.
_COEFFICIENT = 1e-4
#: Rows looked at for linear dependence.
_ROWS = 20_000


def find_dependence(values: np.ndarray, columns: Sequence[str]) -> list[str]:
    """Say which columns are functions of others.

    Arguments:
        values: finite, array (N, D), no column constant.
        columns: D names.

    Returns:
        one phrase a column, such as ``'c' is a linear function of 'a', 'b'``; none where all is well.
    """
    found: dict[int, str] = {}
    for j, parents in _linear(values):
        one = len(parents) == 1 and np.array_equal(values[:, j], values[:, parents[0]])
        what = "a copy" if one else "a linear function"
        names = ", ".join(f"'{columns[i]}'" for i in parents[:6]) + (
            " and others" if len(parents) > 6 else ""
        )
        found[j] = f"'{columns[j]}' is {what} of {names}"
    for j, i in _monotone(values, set(found)):
        found[j] = f"'{columns[j]}' is a monotone function of '{columns[i]}'"
    return [found[j] for j in sorted(found)]


def _linear(values: np.ndarray) -> list[tuple[int, list[int]]]:
    """Columns that are linear functions of earlier ones, and of which."""
    from scipy.linalg import qr, solve_triangular

    n, d = values.shape
    rows = values[:: -(-n // _ROWS)]
    middle = np.median(rows, axis=0)
    spread = np.abs(rows - middle)
    # The middle 98 percent of each column; a column that hardly varies there keeps all of its rows.
    limit = np.quantile(spread, 0.98, axis=0)
    near = (spread <= np.where(limit > 0, 8 * limit, np.inf)).all(1)
    rows = rows[near] - middle
    if len(rows) < d + 10 or d < 2:
        return []
    rows = rows / np.where(np.abs(rows).max(0) > 0, np.abs(rows).max(0), 1.0)  # no overflow in the squares
    rows = rows - rows.mean(0)
    scale = rows.std(0)
    varying = np.flatnonzero(scale > 0)
    if len(varying) < 2:
        return []
    z = rows[:, varying] / scale[varying] / np.sqrt(len(rows))
    # Later columns are to be functions of earlier ones: pivoting prefers a column by its rest alone, so the
    # earlier of two equal ones is made a hair longer.
    z = z * (1 - 1e-3 * np.arange(len(varying)) / len(varying))
    r, pivot = qr(z, mode="r", pivoting=True, check_finite=False)
    r = r[: len(varying)]
    rank = int((np.abs(np.diag(r)) > _RESIDUAL).sum())
    if rank == len(varying):
        return []
    coefficients = solve_triangular(r[:rank, :rank], r[:rank, rank:])
    result = []
    for k in range(rank, len(varying)):
        parents = pivot[:rank][np.abs(coefficients[:, k - rank]) > _COEFFICIENT]
        result.append((int(varying[pivot[k]]), sorted(int(varying[i]) for i in parents)))
    return sorted(result)


def _monotone(values: np.ndarray, skip: set[int]) -> list[tuple[int, int]]:
    """Columns that order the rows as an earlier one does, or in reverse."""
    first: dict[bytes, int] = {}
    result = []
    for j, column in enumerate(values.T):
        levels, rank = np.unique(column, return_inverse=True)
        if len(levels) < 3:  # two values order nothing, and are a linear matter
            continue
        # A function that falls has the reverse order: take that of the two which begins lower.
        turned = levels.size - 1 - rank
        moved = np.flatnonzero(rank != turned)
        key = (rank if rank[moved[0]] < turned[moved[0]] else turned).tobytes()
        if key in first and j not in skip:
            result.append((j, first[key]))
        first.setdefault(key, j)
    return result
