"""Tables: from files to float64 arrays with column names, and back.

Only numbers come in: text, missing values and infinities are refused with the column and the row,
because a density fitted on silently repaired data is a density of something else. Nothing is ever
unpickled.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modeflow.data._cells import quoted
from modeflow.data._faults import check_finite, complain, counted, infinite_text, missing_text
from modeflow.data._reading import (
    Reading,
    check_unique,
    missing_cells,
    pick,
    read_arrays,
    read_parquet,
    read_text,
)
from modeflow.data._source import STDIN, TEXT_SUFFIXES, packed_kind
from modeflow.errors import DataError, nearest

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "SUFFIXES",
    "WRITABLE",
    "Table",
    "check_finite",
    "check_writable",
    "default_columns",
    "existing_file",
    "file_kind",
    "read_rows",
    "read_table",
    "write_table",
]

#: File endings that `write_table` understands.
WRITABLE = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5", ".hdf5")
#: File endings that `read_table` understands; the four of text also before .gz, .zip, .bz2 and .xz.
SUFFIXES = (*TEXT_SUFFIXES, ".parquet", ".npy", ".npz", ".h5", ".hdf5")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers with named columns.

    Arguments:
        values: array of shape (N, D), float64, in the user's units.
        columns: the D column names.
        source: where the rows came from (a path or a data set's name), for messages.
        notes: what was guessed when the file was read, one sentence each.

    Raises:
        DataError: if `values` is not (N, D) or `columns` does not name its D columns once each.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    source: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 2:
            raise DataError(f"a table needs shape (rows, columns), got {values.shape}")
        columns = tuple(str(c) for c in self.columns)
        if len(columns) != values.shape[1]:
            raise DataError(f"{len(columns)} column names given for {values.shape[1]} columns")
        check_unique(columns, self.source or "table")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "columns", columns)

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def dim(self) -> int:
        """Number of columns, D."""
        return int(self.values.shape[1])

    def select(self, columns: Sequence[str]) -> Table:
        """The table with only `columns`, in that order; DataError names one that is missing."""
        picked = pick(columns, self.columns, self.source or "table")
        return Table(self.values[:, picked], tuple(columns), self.source, self.notes)

    def take(self, rows: np.ndarray) -> Table:
        """The table with only the rows at the given indices."""
        return Table(self.values[rows], self.columns, self.source, self.notes)


def default_columns(d: int) -> tuple[str, ...]:
    """Names for unnamed columns: ``x0, x1, ...``."""
    return tuple(f"x{i}" for i in range(d))


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    array: str | None = None,
    header: bool | None = None,
    drop_missing: bool = False,
    skip_text: bool = False,
) -> Table:
    """Read a numeric table from .csv, .tsv, .txt, .dat, .parquet, .npy, .npz or .h5.

    Text may be compressed (.gz, .zip, .bz2, .xz), have any usual separator, and a header or not: then the
    columns are called ``x0, x1, ...``. What had to be guessed about the file is in `Table.notes`, one
    sentence each. A one-dimensional array becomes one column.

    Arguments:
        path: the file; ``"-"`` reads text from standard input.
        columns: keep only these, in this order; all others may then hold anything.
        array: name of the array inside .npz or .h5; by default 'data', 'X', 'x', 'train' or the
            only two-dimensional one.
        header: whether the first line of a text file names the columns; None compares it with the rows.
        drop_missing: leave out rows with missing cells, and count them in the notes.
        skip_text: leave out columns of text or dates, and name them in the notes. A column is one of text
            if at least half of its cells are.

    Raises:
        DataError: the file is missing, damaged, of an unknown kind or holds pickled objects; a
            column is missing; a cell is text, missing or infinite. The message names all such columns and
            the first row of each.

    Warns:
        UserWarning: a guess may be wrong, or float64 rounds the numbers of a column.
    """
    reading, label = _read(path, columns, array, header, skip_text)
    numbers = reading.numbers
    _refuse_bad(reading, label, drop_missing)
    values, notes = numbers.values, numbers.notes
    if drop_missing:
        absent = np.isnan(values).any(axis=1)
        if absent.any():
            values = values[~absent]
            count = int(absent.sum())
            notes.append(
                f"'{label}': left out {count} of {len(absent)} rows with missing cells, in "
                + counted(dict(zip(numbers.columns, np.isnan(numbers.values).sum(0).tolist(), strict=True)))
            )
        if not len(values):
            raise DataError(f"'{label}': every row has a missing cell; leave out columns, not rows")
    return Table(values, numbers.columns, str(path), tuple(notes))


def read_rows(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    array: str | None = None,
    header: bool | None = None,
    skip_text: bool = False,
    known: Sequence[str] = (),
    holes: bool = False,
) -> tuple[Table, dict[int, str]]:
    """Read a table of which some rows may be unusable, as where rows are only scored.

    Arguments:
        path, columns, array, header, skip_text: as for `read_table`.
        known: names that the columns should have: a first line of text that holds them is the header.
        holes: whether a missing cell is no reason against its row.

    Returns:
        The table with every row of the file, and the reason for each row that holds a missing, infinite
        or text cell, by its index. In `Table.values` a cell that is missing or text is NaN.

    Raises:
        DataError: as `read_table`, but for single cells: a whole column of text, for example.
    """
    reading, label = _read(path, columns, array, header, skip_text, known)
    numbers = reading.numbers
    whole = [bad for bad in numbers.bad if bad.is_text]
    # Where the model's own columns are not all there, that is what the caller is to be told, in `load_rows`.
    if whole and set(known) <= set(numbers.columns):
        raise complain(dataclasses.replace(numbers, bad=whole), label, reading.line_of)
    reasons: dict[int, list[str]] = {}
    for bad in numbers.bad:
        for row in bad.rows.tolist():
            reasons.setdefault(row, []).append(f"'{bad.name}' is text")
    masks = {"infinite": np.isinf(numbers.values)}
    masks = masks if holes else {"missing": missing_cells(numbers), **masks}
    for what, mask in masks.items():
        for row, column in np.argwhere(mask).tolist():
            reasons.setdefault(row, []).append(f"'{numbers.columns[column]}' is {what}")
    table = Table(numbers.values, numbers.columns, str(path), tuple(numbers.notes))
    return table, {row: ", ".join(found) for row, found in sorted(reasons.items())}


def _read(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None,
    array: str | None,
    header: bool | None,
    skip_text: bool,
    known: Sequence[str] = (),
) -> tuple[Reading, str]:
    """Read a file of any kind; warns of doubtful guesses and leaves out text columns if asked to."""
    if isinstance(columns, str):
        raise DataError(f"columns='{columns}' is one text; give a list of names: ['{columns}']")
    if columns is not None and not columns:
        raise DataError("columns=[] selects nothing; name at least one column")
    if header not in (None, True, False):
        raise DataError(f"header={header!r} must be True, False, or None to find out")
    if os.fspath(path) == STDIN:
        file, kind, label = None, ".csv", STDIN
    else:
        file = existing_file(path)
        kind, label = file_kind(file), str(file)
    if array is not None and kind not in (".npz", ".h5", ".hdf5"):
        raise DataError(f"'{label}' holds a single table; array='{array}' is for .npz and .h5")
    if header is not None and kind not in TEXT_SUFFIXES:
        raise DataError(f"'{label}' is no text file: header={header} is for {', '.join(TEXT_SUFFIXES)}")
    if file is None or kind in TEXT_SUFFIXES:
        reading = read_text(file, kind, columns, header, skip_text, known)
    elif kind == ".parquet":
        reading = read_parquet(file, columns)
    else:
        reading = read_arrays(file, kind, array, columns)
    for doubt in reading.numbers.doubts:
        warnings.warn(doubt, UserWarning, stacklevel=3)
    if skip_text:
        names = [bad.name for bad in reading.numbers.bad if bad.is_text]
        if names:
            reading.numbers = reading.numbers.without(names)
            reading.numbers.notes.append(f"'{label}': left out columns of text: {quoted(names, 20)}")
    _check_size(reading.numbers.values, label)
    return reading, label


def _refuse_bad(reading: Reading, label: str, drop_missing: bool) -> None:
    """Raise for text, missing and infinite cells, all that there are in one line."""
    numbers = reading.numbers
    faults: list[str] = []
    missing = missing_cells(numbers)
    if missing.any() and not drop_missing:
        faults.append(
            missing_text(missing, numbers.columns, "; drop these rows (--drop-missing, drop_missing=True)")
        )
    infinite = np.isinf(numbers.values)
    if infinite.any():
        faults.append(infinite_text(infinite, numbers.columns))
    if numbers.bad:
        raise complain(numbers, label, reading.line_of, faults)
    if faults:
        raise DataError(f"'{label}': {'; '.join(faults)}")


# --- the path -------------------------------------------------------------------------------------


def existing_file(path: str | os.PathLike[str]) -> Path:
    """The file at a path; DataError if there is none, or it is a folder."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"'{path}' is a folder; give a file ending in {', '.join(SUFFIXES)}")
    if not file.exists():
        folder = file.parent if file.parent.is_dir() else None
        hint = nearest(file.name, (f.name for f in folder.iterdir())) if folder else ""
        raise DataError(f"no file '{path}'{hint or '; check the path'}")
    return file


def file_kind(file: Path) -> str:
    """Its ending, without that of a compression; DataError for one that is not read."""
    text = packed_kind(file.name)
    if text is not None:
        return text
    suffix = file.suffix.lower()
    if suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise DataError(f"'{file}' is a pickle, which can run code; convert it to .parquet or .npy")
    if suffix not in SUFFIXES:
        raise DataError(f"'{file}' has an unknown ending '{suffix}'; use {', '.join(SUFFIXES)}")
    return suffix


def _check_size(values: np.ndarray, what: str) -> None:
    if values.shape[0] == 0 or values.shape[1] == 0:
        raise DataError(f"'{what}' is empty: {values.shape[0]} rows, {values.shape[1]} columns")


# --- writing --------------------------------------------------------------------------------------


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure `path` can be written, creating its folder; call it before the work, not after.

    Raises:
        DataError: the folder cannot be created or written, or `path` is itself a folder.
    """
    file = Path(path).expanduser()
    if os.fspath(path) == STDIN:
        return file  # standard output
    if file.is_dir():
        raise DataError(f"cannot write '{path}': it is a folder; give a file name")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot write '{path}': {reason}; choose another folder") from error
    return file


def atomic_write(path: str | os.PathLike[str], write: Callable[[Path], object]) -> Path:
    """Call ``write(temporary)`` and rename the result to `path`: readers never see half a file."""
    file = check_writable(path)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=file.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes private files; a result should have the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"cannot write '{path}': {reason}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return file


def write_table(
    path: str | os.PathLike[str],
    values: np.ndarray,
    columns: Sequence[str] | None = None,
    *,
    integer_columns: Sequence[str] = (),
) -> Path:
    """Write an (N, D) array as .csv, .tsv, .parquet, .npy, .npz or .h5, all or nothing.

    Numbers keep full precision. `integer_columns` are written without a decimal point in csv and as
    int64 in parquet, where they are NaN as empty cells. .npz stores ``data`` and ``columns``; .npy has no
    place for names. The path ``"-"`` writes csv to standard output.

    Raises:
        DataError: unknown ending, wrong shape or names, or the path cannot be written.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"a table needs shape (rows, columns), got {values.shape}")
    names = default_columns(values.shape[1]) if columns is None else tuple(columns)
    table = Table(values, names, str(path))
    whole = set(pick(integer_columns, names, str(path))) if integer_columns else set()
    file = Path(path).expanduser()
    kind = file.suffix.lower()
    if os.fspath(path) == STDIN:
        kind = ".csv"
    if kind not in WRITABLE:
        raise DataError(f"cannot write '{path}': unknown ending; use {', '.join(WRITABLE)}")

    def write(target: Path) -> None:
        if kind in (".csv", ".tsv", ".parquet"):
            frame = as_frame(table, whole)
            if kind == ".parquet":
                frame.write_parquet(target)
            else:
                frame.write_csv(target, separator="\t" if kind == ".tsv" else ",")
        elif kind == ".npy":
            np.save(target, values)
        elif kind == ".npz":
            np.savez(target, data=values, columns=np.array(table.columns, dtype=np.str_))
        else:
            import h5py

            with h5py.File(target, "w") as handle:
                data = handle.create_dataset("data", data=values)
                data.attrs["columns"] = list(table.columns)

    if os.fspath(path) == STDIN:
        sys.stdout.write(as_frame(table, whole).write_csv())
        return file
    return atomic_write(file, write)


def as_frame(table: Table, whole: set[int]) -> pl.DataFrame:
    """The table as a frame, the columns at `whole` as integers (null where they are NaN)."""
    import polars as pl

    def column(i: int) -> pl.Series:
        name, values = table.columns[i], table.values[:, i]
        absent = np.isnan(values)
        held = values[~absent]
        # What no int64 holds stays as it is.
        if i not in whole or (held != np.round(held)).any() or np.abs(held).max(initial=0) >= 2**63:
            return pl.Series(name, values)
        integers = pl.Series(name, np.where(absent, 0, values).astype(np.int64))
        return integers.set(pl.Series(absent), None) if absent.any() else integers

    return pl.DataFrame([column(i) for i in range(table.dim)])
