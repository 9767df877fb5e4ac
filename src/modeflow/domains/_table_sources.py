"""Tables from files: how they are read for a run, split, and read again to be scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import Dataset, Schema, Split, Table, read_rows, read_table, resolve, split_table
from modeflow.data._source import is_text_file
from modeflow.domains._frames import frame_of
from modeflow.domains.base import RowsToScore
from modeflow.errors import ConfigError, DataError

__all__ = ["READING", "column_names", "reading_of", "refused", "rows_to_score", "split_of"]

#: Settings of how a file is read, with the values they may have.
READING: Mapping[str, tuple[Any, ...]] = {
    "header": (None, True, False),
    "drop_missing": (True, False),
    "skip_text": (True, False),
}
# Checks of parts of a table, before the fault is taken for one of the whole table.
_MOST_CHECKS = 5000


def reading_of(file: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """How a file of a run is read; only text has a header to be told about."""
    reading = {key: settings[key] for key in READING}
    if not is_text_file(file):
        reading["header"] = None
    return reading


def column_names(columns: Any) -> Sequence[str] | None:
    """Names of the columns to be read, of what the setting says; None for all."""
    if isinstance(columns, str):
        return [c.strip() for c in columns.split(",")]
    return None if columns is None or isinstance(columns, Mapping) else list(columns)


def split_of(dataset: Dataset, settings: Mapping[str, Any]) -> Split:
    """Training, validation and test rows: by file, as published, or at random by the seed.

    Raises:
        ConfigError, DataError: fractions out of range, or files that do not fit.
    """
    test, validation = settings["test"], settings["validation"]
    if not isinstance(test, str) and not isinstance(validation, str):
        if dataset.split is not None:
            return dataset.split
        return split_table(dataset.table, settings["seed"], validation, test)
    columns = dataset.table.columns
    rest = dataset.table
    parts: dict[str, Table] = {}
    for name, given in (("test", test), ("validation", validation)):
        if isinstance(given, str):
            parts[name] = read_table(given, columns, **reading_of(given, settings))
    for offset, (name, given) in enumerate((("test", test), ("validation", validation))):
        if name not in parts:  # the other part is cut from the rows of DATA
            if not 0 < given < 1:
                raise ConfigError(f"{name}={given} must be a fraction between 0 and 1, or a file")
            order = np.random.default_rng([settings["seed"], offset]).permutation(len(rest))
            count = max(1, round(given * len(rest)))
            parts[name], rest = rest.take(order[:count]), rest.take(np.sort(order[count:]))
    return Split(rest, parts["validation"], parts["test"])


def rows_to_score(
    source: str,
    settings: Mapping[str, Any],
    schema: Schema,
    named: bool,
    columns: Sequence[str] | None = None,
    header: bool | None = None,
    skip_text: bool = False,
    holes: bool = False,
) -> RowsToScore:
    """Read a table for a fitted estimator; a bad cell costs its row, not the table.

    Arguments:
        source: a file, "-" for standard input, or the name of a data set.
        settings: of the run; as its table, this one is read unless options say otherwise.
        schema: of the model, says which columns and values it takes. named: whether it knows their names.
        columns: columns to read; those of the run if None.
        header, skip_text: see `read_table`. holes: whether a missing cell is none that costs its row.

    Raises:
        DataError: other columns than the model has, a column of text, or no row that can be scored.
    """
    # A run on text may score other kinds of files, which have no header line.
    if header is None and is_text_file(source):
        header = settings["header"]
    columns = column_names(columns or settings["columns"])
    bad: dict[int, str] = {}
    if source == "-" or Path(source).expanduser().is_file():
        skip_text = settings["skip_text"] or skip_text
        table, bad = read_rows(
            source, columns, known=schema.columns, header=header, skip_text=skip_text, holes=holes
        )
    else:
        table = resolve(source, columns=columns).table
    rows = np.setdiff1d(np.arange(len(table)), np.fromiter(bad, dtype=np.intp, count=len(bad)))
    # With no good row left this refuses other columns, which is the more helpful message.
    schema.validate(table.values[rows[:0]], table.columns)
    off = refused(lambda part: schema.validate(part, table.columns, holes), table.values[rows])
    bad |= {int(rows[i]): why for i, why in off.items()}
    rows = np.delete(rows, list(off))
    if not len(rows):
        row, why = min(bad.items())
        raise DataError(f"'{source}': none of {len(table)} rows can be scored; row {row + 1}: {why}")
    good = Table(schema.validate(table.values[rows], table.columns, holes), schema.columns)
    values = frame_of(good) if named else good.values
    return RowsToScore(values, rows, len(table), dict(sorted(bad.items())), table.notes)


def refused(check: Callable[[np.ndarray], Any], values: np.ndarray) -> dict[int, str]:
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
                found[start] = str(error).replace(", data row 1 holds", " holds")  # of a part of one row
            else:
                middle = (start + end) // 2
                parts += [(start, middle), (middle, end)]
    return found
