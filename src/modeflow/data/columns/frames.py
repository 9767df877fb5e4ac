"""Data frames in: pandas, polars, pyarrow, numpy arrays, and dictionaries of columns.

pandas and pyarrow are imported only where a frame of theirs is there already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from modeflow.data.columns.cells import (
    Cells,
    cells_of_objects,
    cells_of_series,
    cells_of_text,
    seconds_of,
    spell,
    unreadable,
)
from modeflow.data.columns.spans import seconds_of_spans
from modeflow.errors import DataError

__all__ = ["FRAMES", "cells_of", "frame_kind", "read_frame"]

#: Kinds of frames that can be made.
FRAMES = ("pandas", "polars", "arrow", "numpy", "dict")


def frame_kind(frame: Any) -> str:
    """Which of `FRAMES` it is.

    Raises:
        DataError: for anything else.
    """
    home = type(frame).__module__.partition(".")[0]
    if home == "pandas" and hasattr(frame, "columns"):
        return "pandas"
    if isinstance(frame, pl.DataFrame):
        return "polars"
    if home == "pyarrow" and hasattr(frame, "column_names"):
        return "arrow"
    if isinstance(frame, np.ndarray):
        return "numpy"
    if isinstance(frame, Mapping):
        return "dict"
    raise DataError(
        "a table is a data frame (pandas, polars, pyarrow), an array (rows, columns) or a dict of columns, "
        f"not {type(frame).__name__}"
    )


def read_frame(frame: Any, label: str | None = None) -> tuple[dict[str, Cells], list[str]]:
    """The cells of every column by name, and notes on spellings of numbers in text.

    Arguments:
        frame: of any kind. label: the file it was read from, if it was, for the notes.

    Raises:
        DataError: no table, columns of unequal length, a name that occurs twice, or a type that no column
            has.
    """
    kind = frame_kind(frame)
    if kind == "arrow":
        types = {field.name: str(field.type) for field in frame.schema}
        ordered = {f.name for f in frame.schema if getattr(f.type, "ordered", False)}
        _check_names(frame.column_names)
        table = pl.from_arrow(frame)
        assert isinstance(table, pl.DataFrame)
        cells, notes = _polars(table, types, label)
        return {n: _with_order(c, frame, n) if n in ordered else c for n, c in cells.items()}, notes
    if kind == "polars":
        types = {name: str(dtype) for name, dtype in frame.schema.items()}
        return _polars(frame, types, label)
    if kind == "pandas":
        names = [str(name) for name in frame.columns]
        _check_names(names)
        found = {name: _pandas(frame.iloc[:, i], name) for i, name in enumerate(names)}
    elif kind == "numpy":
        found = _matrix(frame)
    else:
        _check_names([str(name) for name in frame])
        found = {str(name): cells_of(column, str(name)) for name, column in frame.items()}
        lengths = {len(cells) for cells in found.values()}
        if len(lengths) > 1:
            raise DataError(
                f"the columns have {' and '.join(map(str, sorted(lengths)))} rows; give equally many"
            )
    return found, []


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            raise DataError(f"the table names column '{name}' twice; rename one of them")


def _polars(
    frame: pl.DataFrame, types: dict[str, str], label: str | None
) -> tuple[dict[str, Cells], list[str]]:
    text = {c.name: c for c in frame if c.dtype == pl.String}
    numbers, notes = spell(text, label)
    return {c.name: cells_of_series(c, types[c.name], numbers.get(c.name)) for c in frame}, notes


def _with_order(cells: Cells, table: Any, name: str) -> Cells:
    """Cells of a dictionary of arrow whose order means something."""
    import pyarrow as pa

    column = table.column(name)
    chunks = column.unify_dictionaries().chunks if isinstance(column, pa.ChunkedArray) else [column]
    levels = tuple(chunks[0].dictionary.to_pylist()) if chunks else ()
    return Cells(
        cells.kind, cells.dtype, cells.numbers, cells.bad, cells.text, cells.objects, True, levels, True
    )


def _matrix(array: np.ndarray) -> dict[str, Cells]:
    if array.dtype.names:
        return {name: cells_of(array[name], name) for name in array.dtype.names}
    if array.ndim != 2:
        raise DataError(f"a table needs shape (rows, columns), got {array.shape}")
    return {f"x{i}": cells_of(array[:, i], f"x{i}") for i in range(array.shape[1])}


def cells_of(values: Any, name: str) -> Cells:
    """Cells of one column: of a frame, an array, or a list.

    Raises:
        DataError: not one column of scalars.
    """
    home = type(values).__module__.partition(".")[0]
    if isinstance(values, pl.Series):
        return cells_of_series(values.alias(name), str(values.dtype))
    if home == "pandas" and hasattr(values, "dtype"):
        return _pandas(values, name)
    if home == "pyarrow":
        series = pl.from_arrow(values)
        assert isinstance(series, pl.Series)
        return cells_of_series(series.alias(name), str(values.type))
    if not isinstance(values, np.ndarray):
        return cells_of_objects(list(values), "", name)
    if values.ndim != 1:
        raise DataError(f"column '{name}' has shape {values.shape}; a column has one value a row")
    kind, dtype = values.dtype.kind, str(values.dtype)
    if kind == "b":
        return Cells("boolean", dtype, values.astype(np.float64))
    if kind in "iuf":
        return Cells("number", dtype, values.astype(np.float64))
    if kind == "M":
        return Cells("time", dtype, seconds_of(values))
    if kind == "m":
        return Cells("number", dtype, seconds_of_spans(values))
    if kind == "U":
        return cells_of_text(pl.Series(name, values.tolist(), dtype=pl.String), dtype)
    if kind == "O":
        return cells_of_objects(values.tolist(), dtype, name)
    return unreadable(len(values), dtype)


def _pandas(series: Any, name: str) -> Cells:
    import pandas as pd

    series = pd.Series(series)  # a bare array of pandas too
    dtype, label = series.dtype, str(series.dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        listed = tuple(v.item() if isinstance(v, np.generic) else v for v in dtype.categories)
        by_code = np.array([*listed, None], dtype=object)
        cells = cells_of_objects(by_code[series.cat.codes.to_numpy()].tolist(), label, name)
        return Cells(
            cells.kind, label, cells.numbers, cells.bad, cells.text, cells.objects, True, listed,
            bool(dtype.ordered),
        )  # fmt: skip
    if pd.api.types.is_bool_dtype(dtype):
        return Cells("boolean", label, _na_floats(series))
    if pd.api.types.is_datetime64_any_dtype(dtype):
        if getattr(dtype, "tz", None) is not None:
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        return Cells("time", label, seconds_of(series.to_numpy()))
    if isinstance(dtype, pd.PeriodDtype):
        ordinals = series.array.asi8.astype(np.float64)
        return Cells("number", label, np.where(series.isna().to_numpy(), np.nan, ordinals))
    if getattr(dtype, "kind", "") == "m":
        return Cells("number", label, seconds_of_spans(series.to_numpy(dtype="timedelta64[ns]")))
    if pd.api.types.is_numeric_dtype(dtype) and getattr(dtype, "kind", "f") in "iuf":
        return Cells("number", label, _na_floats(series))
    if isinstance(dtype, pd.StringDtype):
        return cells_of_objects(series.to_numpy(dtype=object, na_value=None).tolist(), label, name)
    if label == "object":
        return cells_of_objects(list(series), label, name)
    return unreadable(len(series), label)


def _na_floats(series: Any) -> np.ndarray:
    return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
