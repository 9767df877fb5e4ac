"""Text among tables whose columns have types: a folder that holds both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from modeflow.data.columns.cells import Cells
from modeflow.data.columns.frames import read_frame
from modeflow.errors import DataError

__all__ = ["as_typed"]

_TRUTH = {"true": 1.0, "false": 0.0}


def as_typed(frame: pl.DataFrame, types: Mapping[str, Any], label: str) -> tuple[pl.DataFrame, list[str]]:
    """A table of text with its columns of the types that they have elsewhere; and notes on its numbers.

    Text in a column of numbers is read as the numbers it spells (decimal commas and marks for "no value" as
    in all text tables), in one of booleans or times as these. Columns of other types stay text.

    Arguments:
        frame: as it was read from text. types: by the name of a column. label: the file.

    Raises:
        DataError: a cell that is no value of its column's type.
    """
    names = [c.name for c in frame if c.dtype == pl.String and not _is_text(types.get(c.name))]
    cells, notes = read_frame(frame.select(names), label)
    typed = [_column(name, cells[name], types[name]) for name in names]
    return frame.with_columns(typed), notes


def _is_text(kind: Any) -> bool:
    known = kind is not None and (kind.is_numeric() or kind.is_temporal() or kind == pl.Boolean)
    return not known or kind == pl.Time


def _column(name: str, cells: Cells, kind: Any) -> pl.Series:
    if kind == pl.Boolean:
        assert cells.text is not None
        words = cells.text.str.strip_chars().str.to_lowercase()
        numbers = words.replace_strict(_TRUTH, default=None, return_dtype=pl.Float64).to_numpy()
        numbers = np.where(np.isnan(numbers), cells.numbers, numbers)
        bad = cells.bad & ~words.is_in(list(_TRUTH)).fill_null(False).to_numpy()
        bad |= ~np.isnan(numbers) & ~np.isin(numbers, (0.0, 1.0))
    elif kind.is_temporal() and not isinstance(kind, pl.Duration):
        found = cells.times()
        numbers = np.full(len(cells), np.nan) if found is None else found[1]
        bad = cells.bad if found is None else np.zeros(len(cells), dtype=bool)
    else:
        numbers, bad = cells.numbers, cells.bad
    if bad is not None and bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"column '{name}' is of type {kind} in other files, and data row {row + 1} holds "
            f"{cells.value(row)!r}: correct it, or convert the files to one kind"
        )
    return _of_numbers(name, numbers, kind)


def _of_numbers(name: str, numbers: np.ndarray, kind: Any) -> pl.Series:
    column = pl.Series(name, numbers, dtype=pl.Float64).fill_nan(None)
    if kind == pl.Boolean:
        return column.cast(pl.Boolean)
    if kind.is_temporal():
        micro = (column * 1e6).round().cast(pl.Int64)
        if isinstance(kind, pl.Duration):
            return micro.cast(pl.Duration("us"))
        times = micro.cast(pl.Datetime("us"))
        if kind == pl.Date:
            return times.cast(pl.Date) if (times == times.dt.truncate("1d")).all() else times
        return (
            times.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone)
            if kind.time_zone
            else times
        )
    whole = kind.is_integer() and (column == column.floor()).all() and (column.abs() < 2.0**53).all()
    return column.cast(pl.Int64) if whole else column
