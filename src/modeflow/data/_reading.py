"""A file of any kind as columns of numbers, with what was guessed on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.data._arrays import first_line, read_array
from modeflow.data._cells import quoted
from modeflow.data._numbers import Numbers, frame_to_numbers
from modeflow.data._part import current_part
from modeflow.data._source import STDIN
from modeflow.data._suspects import suspects
from modeflow.data._text import TextFrame, read_text_frame
from modeflow.errors import DataError, nearest

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Reading",
    "check_unique",
    "missing_cells",
    "parquet_frame",
    "pick",
    "read_arrays",
    "read_once",
    "read_parquet",
    "read_text",
    "text_frame",
]

#: Text tables that were read within `read_once` and not again, by what was asked for.
_KEPT: ContextVar[dict[tuple[object, ...], TextFrame] | None] = ContextVar("kept", default=None)
_INDEX_NAMES = ("Unnamed: 0", "__index_level_0__")


@dataclass
class Reading:
    """What a file holds.

    Attributes:
        numbers: its columns; with their notes and doubts.
        line_of: the file's line of a row, for text files.
    """

    numbers: Numbers
    line_of: Callable[[int], int | None] | None = None


def read_text(
    file: Path | None,
    kind: str,
    columns: Sequence[str] | None,
    header: bool | None,
    skip_text: bool,
    known: Sequence[str] = (),
) -> Reading:
    """A text table (None: from standard input)."""
    label = STDIN if file is None else str(file)
    text = text_frame(file, kind, columns, header, skip_text, known)
    numbers = frame_to_numbers(text.frame, label, commas_separate=text.separator == ",")
    _gather(numbers, label, text.notes, text.doubts)
    return Reading(numbers, text.line_of)


@contextmanager
def read_once() -> Iterator[None]:
    """Within it a text table that is looked at, for what it holds, and then loaded in the same way is read a
    single time."""
    token = _KEPT.set({})
    try:
        yield
    finally:
        _KEPT.reset(token)


def text_frame(
    file: Path | None,
    kind: str,
    columns: Sequence[str] | None,
    header: bool | None,
    skip_text: bool = False,
    known: Sequence[str] = (),
) -> TextFrame:
    """The cells of a text table (None: from standard input), without the row index that programs write."""
    label = STDIN if file is None else str(file)
    kept, asked = _KEPT.get(), _asked(file, columns, header, known)
    kept = None if current_part(file) is not None else kept
    text = None if kept is None else kept.pop(asked, None)
    if text is None:
        text = read_text_frame(file, kind, header, columns or known)
        if kept is not None and file is not None:
            kept[asked] = replace(text, notes=list(text.notes), doubts=list(text.doubts))
    if columns is None:
        text.frame = _without_unnamed(text.frame, label, text.notes, skip_text)
    text.frame = _selected(text.frame, columns, label)
    return text


def _asked(file: Path | None, *how: Any) -> tuple[object, ...]:
    """A file as it is now, and how it is read."""
    if file is None:
        return ()
    at = file.stat()
    plain = (tuple(each) if isinstance(each, Sequence) else each for each in how)
    return (str(file.resolve()), at.st_mtime_ns, at.st_size, *plain)


def read_parquet(file: Path, columns: Sequence[str] | None) -> Reading:
    """A parquet file as numbers."""
    frame, notes = parquet_frame(file, columns)
    numbers = frame_to_numbers(frame, str(file))
    _gather(numbers, str(file), notes, [])
    return Reading(numbers)


def parquet_frame(file: Path, columns: Sequence[str] | None) -> tuple[pl.DataFrame, list[str]]:
    """A parquet file, without the index that pandas stores as a column, and notes on it."""
    import polars as pl

    try:
        part = current_part(file)
        if part is None or part.rows is None:
            frame = pl.read_parquet(file)
        else:
            start, end = part.rows
            frame = pl.scan_parquet(file).slice(start, end - start).collect()
        stored = _pandas_index(file)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read as parquet ({first_line(error)})") from error
    notes: list[str] = []
    if columns is None:
        index = [name for name in frame.columns if name in stored or name.startswith("__index_level_")]
        if index and len(index) < frame.width:
            frame = frame.drop(index)
            notes.append(
                f"'{file}': left out {quoted(index)}, the row index of pandas (columns= can choose it)"
            )
    return _selected(frame, columns, str(file)), notes


def read_arrays(file: Path, kind: str, array: str | None, columns: Sequence[str] | None) -> Reading:
    """An array in .npy, .npz or .h5."""
    values, names, doubt = read_array(file, kind, array)
    named = names or tuple(f"x{i}" for i in range(values.shape[1]))
    check_unique(named, str(file))
    if columns is not None:
        values, named = values[:, pick(columns, named, str(file))], tuple(columns)
    return Reading(Numbers(values, named, doubts=[doubt] if doubt else []))


def _gather(numbers: Numbers, label: str, notes: list[str], doubts: list[str]) -> None:
    found = suspects(numbers.values, numbers.columns)
    numbers.notes = [*notes, *numbers.notes]
    numbers.doubts = [*doubts, *numbers.doubts, *(f"'{label}': {sentence}" for sentence in found)]


def _selected(frame: pl.DataFrame, columns: Sequence[str] | None, label: str) -> pl.DataFrame:
    if columns is not None:
        frame = frame[:, pick(columns, frame.columns, label)]
    if frame.height == 0 or frame.width == 0:
        raise DataError(f"'{label}' is empty: it has {frame.width} columns and no data rows")
    return frame


# --- the index that pandas and R write ---------------------------------------------------------------


def _without_unnamed(frame: pl.DataFrame, label: str, notes: list[str], skip_text: bool) -> pl.DataFrame:
    """Leave out a row index, which has no name, and the empty column of separators at the line ends."""
    import polars as pl

    last = frame.columns[-1]
    if _unnamed(last) and frame.width > 1 and frame[last].null_count() == frame.height:
        frame = frame.drop(last)
        notes.append(f"'{label}': left out the empty last column (each line ends in a separator)")
    first = frame.columns[0]
    if (_unnamed(first) or first in _INDEX_NAMES) and frame.width > 1:
        whole = frame[first].str.strip_chars().cast(pl.Int64, strict=False)
        if not whole.null_count() and whole.n_unique() == frame.height:
            frame = frame.drop(first)
            start = ", ".join(str(v) for v in whole.head(3).to_list())
            what = "which has no name" if _unnamed(first) else f"'{first}'"
            notes.append(f"'{label}': left out the first column, {what}, as a row index ({start}, ...)")
        elif _unnamed(first) and skip_text and frame[first].cast(pl.Float64, strict=False).null_count():
            frame = frame.drop(first)
            notes.append(f"'{label}': left out the first column, which has no name, as names of the rows")
    for i, name in enumerate(frame.columns):
        if _unnamed(name):
            raise DataError(
                f"'{label}': column {i + 1} has no name and is no row index; name or remove it, or choose "
                "columns (--columns, columns=)"
            )
    return frame


def _unnamed(name: str) -> bool:
    return name.startswith("\x00")


def _pandas_index(file: Path) -> tuple[str, ...]:
    """Columns of a parquet file that pandas stored as the index of its frame."""
    import polars as pl

    try:
        # Not in every polars that serves otherwise.
        stored = pl.read_parquet_metadata(file).get("pandas")
        index = json.loads(stored)["index_columns"] if stored else []
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()
    return tuple(name for name in index if isinstance(name, str))


# --- names -------------------------------------------------------------------------------------------


def check_unique(columns: Sequence[str], what: str) -> None:
    """Refuse a name that occurs twice."""
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            raise DataError(f"'{what}' names column '{name}' twice; rename one of them")
        seen.add(name)


def pick(wanted: Sequence[str], have: Sequence[str], what: str) -> list[int]:
    """Positions of the wanted columns; DataError names all that are missing."""
    check_unique(wanted, "columns")
    position = {name: i for i, name in enumerate(have)}
    missing = [name for name in wanted if name not in position]
    if missing:
        shown = [name for name in have if not _unnamed(name)][:8]
        hint = nearest(missing[0], have) or f"; it has {', '.join(shown)}"
        plural = "s" if len(missing) > 1 else ""
        raise DataError(f"'{what}' has no column{plural} {quoted(missing)}{hint}")
    return [position[name] for name in wanted]


def missing_cells(numbers: Numbers) -> np.ndarray:
    """(N, D) mask of cells that are missing, those with text not counted."""
    mask = np.isnan(numbers.values)
    for bad in numbers.bad:
        mask[bad.rows, numbers.columns.index(bad.name)] = False
    return mask
