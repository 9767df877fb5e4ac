"""Mixed tables from files and from the data sets there are."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from modeflow.data._arrays import read_array
from modeflow.data._reading import check_unique, parquet_frame, pick, text_frame
from modeflow.data._source import STDIN, TEXT_SUFFIXES
from modeflow.data.catalogue import resolve
from modeflow.data.columns.spans import seconds_of_spans
from modeflow.data.mixed_sets import MIXED_SETS, mixed_files
from modeflow.data.table import SUFFIXES, atomic_write, default_columns, existing_file, file_kind
from modeflow.errors import DataError

__all__ = ["check_frame_file", "plain_rows", "read_mixed", "write_frame"]


def read_mixed(
    source: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    header: bool | None = None,
    array: str | None = None,
    known: Sequence[str] = (),
) -> tuple[pl.DataFrame, list[str]]:
    """A table of any columns, and what was guessed about its file, one sentence each.

    The cells of a text file stay text: `TableSchema.infer` finds out what they are.

    Arguments:
        source: a file of any ending that is read (`SUFFIXES`), "-" for text from standard input, or the name
            of a data set.
        columns: only these, in this order.
        header: whether the first line of text names the columns; found out if None.
        array: its name in .npz or .h5.
        known: names that the columns should have: a first line that holds them is the header.

    Raises:
        DataError: no such file or data set, or one that cannot be read.
    """
    path = os.fspath(source)
    if path in MIXED_SETS and not Path(path).is_file():
        return _from_set(path, columns)
    if path != STDIN and not Path(path).expanduser().is_file() and Path(path).suffix.lower() not in SUFFIXES:
        data = resolve(path, columns=columns)
        table = data.table
        frame = pl.DataFrame({name: table.values[:, i] for i, name in enumerate(table.columns)})
        return frame, [*table.notes]
    file = None if path == STDIN else existing_file(path)
    kind = ".csv" if file is None else file_kind(file)
    if header is not None and kind not in TEXT_SUFFIXES:
        raise DataError(f"'{path}' is no text file: header={header} is for {', '.join(TEXT_SUFFIXES)}")
    if array is not None and kind not in (".npz", ".h5", ".hdf5"):
        raise DataError(f"'{path}' holds a single table; array='{array}' is for .npz and .h5")
    if kind in TEXT_SUFFIXES:
        text = text_frame(file, kind, columns, header, known=known)
        return text.frame, [*text.notes, *text.doubts]
    assert file is not None
    if kind == ".parquet":
        return parquet_frame(file, columns)
    return _from_array(file, kind, array, columns)


def _from_set(name: str, columns: Sequence[str] | None) -> tuple[pl.DataFrame, list[str]]:
    known = MIXED_SETS[name]
    read = [read_mixed(file, columns, header=True) for file in mixed_files(name)]
    frame = pl.concat([part for part, _ in read])
    width = known.columns if columns is None else len(columns)
    if frame.shape != (known.rows, width):
        raise DataError(
            f"the files of '{name}' have {frame.height} rows and {frame.width} columns, the published set "
            f"{known.rows} and {width}: replace them, or give the file itself"
        )
    return frame, list(dict.fromkeys(note for _, notes in read for note in notes))


def _from_array(
    file: Path, kind: str, array: str | None, columns: Sequence[str] | None
) -> tuple[pl.DataFrame, list[str]]:
    values, names, doubt = read_array(file, kind, array)
    named = names or default_columns(values.shape[1])
    check_unique(named, str(file))
    places: Any = range(len(named)) if columns is None else pick(columns, named, str(file))
    return pl.DataFrame({named[i]: values[:, i] for i in places}), [doubt] if doubt else []


def write_frame(path: str | os.PathLike[str], frame: pl.DataFrame) -> None:
    """Write a table of any columns as .csv, .tsv or .parquet, all or nothing; "-" is csv to standard output.

    Raises:
        DataError: another ending, or a path that cannot be written.
    """
    if os.fspath(path) == STDIN:
        sys.stdout.write(for_text(frame).write_csv())
        return
    check_frame_file(path)
    atomic_write(path, lambda file: _WRITTEN[Path(path).suffix.lower()](frame, file))


def check_frame_file(path: str | os.PathLike[str]) -> None:
    """Refuse an ending that `write_frame` does not write (`DataError`)."""
    if os.fspath(path) != STDIN and Path(path).suffix.lower() not in _WRITTEN:
        raise DataError(f"cannot write mixed columns to '{path}': use {', '.join(_WRITTEN)}")


def plain_rows(frame: pl.DataFrame) -> list[list[Any]]:
    """The rows of a table as values that JSON has: times as text, durations in seconds."""
    return [[_plain(v) for v in row] for row in for_text(frame).rows()]


def _plain(value: Any) -> Any:
    if isinstance(value, dt.date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def for_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Durations in seconds: text has no form for them."""
    spans = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Duration)]
    seconds = (pl.Series(name, seconds_of_spans(frame[name].to_numpy())).fill_nan(None) for name in spans)
    return frame.with_columns(*seconds)


_WRITTEN: Mapping[str, Callable[[pl.DataFrame, Path], object]] = {
    ".csv": lambda frame, file: for_text(frame).write_csv(file),
    ".tsv": lambda frame, file: for_text(frame).write_csv(file, separator="\t"),
    ".parquet": lambda frame, file: frame.write_parquet(file),
}
