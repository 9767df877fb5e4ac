"""The checks that a table passes before a density is fitted to it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from modeflow.data.dependence import find_dependence
from modeflow.data.lattice import repeats
from modeflow.data.schema import Schema, listing, matrix
from modeflow.data.spread import LARGEST
from modeflow.data.table import check_finite
from modeflow.errors import DataError

__all__ = ["check_fit_table"]

# Ties and dependence are looked for in at most this many rows: enough to see them, quick on millions.
_TIE_ROWS = 100_000


def check_fit_table(
    values: np.ndarray,
    columns: Sequence[str],
    min_rows: int = 10,
    schema: Schema | None = None,
) -> None:
    """Refuse a table from which no density can be learned; warn where one may be unbounded.

    Arguments:
        values: array (N, D).
        columns: D names.
        min_rows: fewest rows accepted.
        schema: kinds of the columns; inferred without it.

    Raises:
        DataError: too few rows, NaN, infinite or absurdly large values, a constant column, or fewer than
            three distinct rows.

    Warns:
        UserWarning: a continuous column repeats its values (more than half of the rows share theirs
            with another row, or one value fills more than a fifth of the rows).
        UserWarning: columns are functions of others, see `find_dependence`.
    """
    values = matrix(values, len(columns))
    n, d = values.shape
    if d == 0:
        raise DataError("the table has no columns")
    if n < min_rows:
        raise DataError(f"the table has {n} rows; at least {min_rows} are needed")
    check_finite(values, columns, "the table")
    huge = [name for name, c in zip(columns, values.T, strict=True) if np.abs(c).max() > LARGEST]
    if huge:
        raise DataError(f"values beyond {LARGEST:g} in {listing(huge)}: give them in a larger unit")
    if _few_distinct_rows(values):
        raise DataError("the table has fewer than 3 distinct rows; a density needs rows that differ")
    constant = [name for name, c in zip(columns, values.T, strict=True) if c.min() == c.max()]
    if constant:
        plural = "s are" if len(constant) > 1 else " is"
        raise DataError(
            f"column{plural} constant: {listing(constant)}; choose others (--columns), or drop before fitting"
        )
    if schema is None:
        schema = Schema.infer(values, columns)
    if n > _TIE_ROWS:
        values = values[np.random.default_rng(0).choice(n, _TIE_ROWS, replace=False)]
    _warn_of_ties(values, columns, schema)
    found = find_dependence(values, columns)
    if found:
        more = f"; and {len(found) - 6} more" if len(found) > 6 else ""
        warnings.warn(
            f"columns that are functions of others: {'; '.join(found[:6])}{more}. The density of continuous "
            "ones has no bound, and samples will not keep the relation: drop such columns and compute them "
            "from the samples",
            UserWarning,
            stacklevel=3,
        )


def _warn_of_ties(values: np.ndarray, columns: Sequence[str], schema: Schema) -> None:
    tied = [
        (name, bool(np.all(column == np.round(column))), _at_last_digit(column))
        for name, kind, column in zip(columns, schema.kinds, values.T, strict=True)
        if kind == "continuous" and repeats(np.unique(column, return_counts=True)[1])
    ]
    if not tied:
        return
    coarse = [name for name, _, last in tied if last]
    whole = [name for name, is_whole, last in tied if is_whole and not last]
    others = [name for name, is_whole, last in tied if not is_whole and not last]
    advice = []
    if whole:
        advice.append(f"pass dequantize=[{listing(whole)}]")
    if others:
        advice.append(
            f"{listing(others)} lie on no regular lattice: give a step if you know one, "
            "dequantize={name: step}, or drop them"
        )
    if coarse:
        advice.append(f"{listing(coarse)} differ in the last digits a double has: subtract a constant first")
    warnings.warn(
        f"values repeat in {listing([name for name, _, _ in tied])}: a continuous density may be "
        f"unbounded there and its likelihood meaningless; {'; '.join(advice)}",
        UserWarning,
        stacklevel=4,
    )


def _at_last_digit(column: np.ndarray) -> bool:
    gaps = np.diff(np.unique(column))
    return bool(gaps.min(initial=np.inf) < 4 * np.spacing(np.abs(column).max()))


def _few_distinct_rows(values: np.ndarray, least: int = 3) -> bool:
    # Nearly every table shows enough distinct rows at once; only the others are searched in full.
    if len(np.unique(values[:100], axis=0)) >= least:
        return False
    return len(np.unique(values, axis=0)) < least
