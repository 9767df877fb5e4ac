"""What is wrong with a table, in one line that names every column, and the first row, it is wrong in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from modeflow.data._cells import quoted
from modeflow.data._numbers import BadColumn, Numbers
from modeflow.errors import DataError

__all__ = ["check_finite", "complain", "counted", "infinite_text", "missing_text"]

#: Share of missing cells above which a column is better left out than its rows.
_SPARSE = 1 / 3


def check_finite(
    values: np.ndarray,
    columns: Sequence[str],
    what: str,
    remedy: str = "drop these rows or columns",
    holes: bool = False,
) -> None:
    """Refuse NaN (counted per column; not where there may be `holes`) and infinities (first row named) in an
    (N, D) array."""
    faults = []
    missing, infinite = np.isnan(values), np.isinf(values)
    if missing.any() and not holes:
        faults.append(missing_text(missing, columns, f"; {remedy}"))
    if infinite.any():
        faults.append(infinite_text(infinite, columns))
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}")


def missing_text(mask: np.ndarray, columns: Sequence[str], remedy: str) -> str:
    total = int(mask.sum())
    first = int(np.flatnonzero(mask.any(axis=1))[0]) + 1
    counts = counted(dict(zip(columns, mask.sum(axis=0).tolist(), strict=True)))
    plural = "s" if total != 1 else ""
    sparse = [name for name, share in zip(columns, mask.mean(axis=0), strict=True) if share > _SPARSE]
    if sparse and len(sparse) < len(columns):
        which = "which lack" if len(sparse) > 1 else "which lacks"
        remedy = f"; leave out {quoted(sparse)}, {which} more than a third, or{remedy.lstrip(';')}"
    return f"{total} missing value{plural} (NaN) in {counts}, first in data row {first}{remedy}"


def infinite_text(mask: np.ndarray, columns: Sequence[str]) -> str:
    counts = mask.sum(axis=0).tolist()
    row, column = np.argwhere(mask)[0]
    if sum(map(bool, counts)) == 1:
        return (
            f"column '{columns[column]}', data row {row + 1} is infinite ({sum(counts)} such values in all); "
            "drop or correct these rows"
        )
    listed = counted(dict(zip(columns, counts, strict=True)))
    return (
        f"infinite values in {listed}, first in column '{columns[column]}', data row {row + 1}; drop or "
        "correct these rows"
    )


def counted(counts: dict[str, int]) -> str:
    found = [(name, count) for name, count in counts.items() if count]
    listed = ", ".join(f"'{name}' ({count})" for name, count in found[:6])
    return listed + (f" and {len(found) - 6} more columns" if len(found) > 6 else "")


def complain(
    numbers: Numbers, file: str, line_of: Callable[[int], int | None] | None, also: Sequence[str] = ()
) -> DataError:
    """One line that names every column with text, its first such row, and what to do.

    Arguments:
        numbers: with at least one bad column.
        file: name for messages.
        line_of: the file's line of a row index, for text files.
        also: other faults of the table, to be named in the same line.
    """
    rest = "".join(f"; {fault}" for fault in also)
    if len(numbers.bad) == 1:
        bad = numbers.bad[0]
        return DataError(f"'{file}': {_one(bad, line_of)}{rest}")
    parts = []
    for bad in numbers.bad[:6]:
        if bad.typed:
            parts.append(f"'{bad.name}' ({bad.cell})")
        elif len(bad.rows) == bad.total:
            parts.append(f"'{bad.name}' (every cell, such as '{_short(bad.cell)}')")
        else:
            place = _place(int(bad.rows[0]), line_of)
            parts.append(f"'{bad.name}' ({len(bad.rows)}, first '{_short(bad.cell)}' in {place})")
    more = f" and {len(numbers.bad) - 6} more" if len(numbers.bad) > 6 else ""
    hints = [f"'{bad.name}': {bad.hint}" for bad in numbers.bad if bad.hint][:2]
    advice = "; ".join(["correct these cells, encode the columns as numbers, or leave them out", *hints])
    return DataError(
        f"'{file}': {len(numbers.bad)} columns hold text: {', '.join(parts)}{more}; {advice} "
        f"(--skip-text, skip_text=True){rest}"
    )


def _one(bad: BadColumn, line_of: Callable[[int], int | None] | None) -> str:
    if bad.typed:
        return f"column '{bad.name}' is {bad.cell}, not numbers; {bad.hint}"
    count = len(bad.rows)
    if bad.hint:
        remedy = bad.hint
    elif count == bad.total:
        remedy = (
            "the whole column is text: encode it as numbers, choose other columns, or leave text columns out "
            "(--skip-text, skip_text=True)"
        )
    else:
        remedy = f"{count} such cell{'s' if count > 1 else ''}: correct or drop these rows"
    place = _place(int(bad.rows[0]), line_of)
    return f"column '{bad.name}', {place} is text: '{_short(bad.cell)}'; {remedy}"


def _place(row: int, line_of: Callable[[int], int | None] | None) -> str:
    line = line_of(row) if line_of is not None else None
    return f"data row {row + 1}" + (f" (line {line})" if line is not None else "")


def _short(cell: str) -> str:
    cell = " ".join(cell.split())
    return cell if len(cell) <= 40 else cell[:37] + "..."
