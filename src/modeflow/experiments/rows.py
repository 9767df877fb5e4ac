"""Rows to be scored: the good ones for the model, the others with the reason why they have no score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import Table, read_rows, resolve
from modeflow.errors import DataError
from modeflow.estimators import DensityEstimator

__all__ = ["RowsToScore", "load_rows"]

# Checks of parts of a table, before the fault is taken for one of the whole table.
_MOST_CHECKS = 5000


@dataclass(frozen=True)
class RowsToScore:
    """Rows for a fitted estimator.

    Attributes:
        table: the good rows, columns in the model's order.
        rows: index in the file of each row of `table`.
        total: rows of the file.
        bad: why each other row cannot be scored, by its index in the file.
    """

    table: Table
    rows: np.ndarray
    total: int
    bad: dict[int, str]

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) of the good rows among all rows of the file (total, ...); NaN elsewhere."""
        full = np.full((self.total, *np.shape(values)[1:]), np.nan)
        full[self.rows] = values
        return full

    def bad_text(self, what: str = "score", most: int = 5) -> str | None:
        """One line that counts and names the rows without a score (state, ...); None where there is none."""
        if not self.bad:
            return None
        listed = "; ".join(f"row {row + 1}: {why}" for row, why in list(self.bad.items())[:most])
        more = f"; and {len(self.bad) - most} more" if len(self.bad) > most else ""
        verb = "have" if len(self.bad) > 1 else "has"
        return f"{len(self.bad)} of {self.total} rows {verb} no {what} (NaN): {listed}{more}"


def load_rows(
    source: str, estimator: DensityEstimator, columns: Sequence[str] | None = None, **reading: Any
) -> RowsToScore:
    """Read a table for a fitted estimator; a bad cell costs its row, not the table.

    Arguments:
        source: a file, "-" for standard input, or the name of a data set.
        estimator: fitted; its schema says which columns and values it takes.
        columns: columns to read; None for all.
        reading: header, skip_text; see `read_table`.

    Raises:
        DataError: other columns than the model has, a column of text, or no row that can be scored.
    """
    if source == "-" or Path(source).expanduser().is_file():
        table, bad = read_rows(source, columns, known=estimator.schema_.columns, **reading)
    else:
        table, bad = resolve(source, columns=columns).table, {}
    rows = np.setdiff1d(np.arange(len(table)), np.fromiter(bad, dtype=np.intp, count=len(bad)))
    schema = estimator.schema_
    # With no good row left this refuses other columns, which is the more helpful message.
    schema.validate(table.values[rows[:0]], table.columns)
    refused = _refused(lambda part: schema.validate(part, table.columns), table.values[rows])
    bad |= {int(rows[i]): why for i, why in refused.items()}
    rows = np.delete(rows, list(refused))
    if not len(rows):
        row, why = min(bad.items())
        raise DataError(f"'{source}': none of {len(table)} rows can be scored; row {row + 1}: {why}")
    values = schema.validate(table.values[rows], table.columns)
    good = Table(values, schema.columns, table.source, table.notes)
    return RowsToScore(good, rows, len(table), dict(sorted(bad.items())))


def _refused(check: Any, values: np.ndarray) -> dict[int, str]:
    """Rows that `check` refuses, found by halving; raises its error where they are too many to find."""
    found: dict[int, str] = {}
    parts, checks = [(0, len(values))], 0
    while parts:
        start, end = parts.pop()
        if start == end:
            continue
        checks += 1
        try:
            check(values[start:end])
        except DataError as error:
            if checks > _MOST_CHECKS:
                raise
            if end - start == 1:
                found[start] = str(error)
            else:
                middle = (start + end) // 2
                parts += [(start, middle), (middle, end)]
    return found
