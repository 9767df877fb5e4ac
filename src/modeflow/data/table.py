"""Tables: from files to float64 arrays with column names, and back.

Only numbers come in: text, missing values and infinities are refused with the column and the row,
because a density fitted on silently repaired data is a density of something else. Nothing is ever
unpickled.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modeflow.data._arrays import first_line, read_array
from modeflow.data._text import frame_to_numbers, read_text_frame
from modeflow.errors import DataError, nearest

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SUFFIXES", "Table", "check_writable", "default_columns", "read_table", "write_table"]

#: File endings that `read_table` and `write_table` understand.
SUFFIXES = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5", ".hdf5")


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers with named columns.

    Arguments:
        values: array of shape (N, D), float64, in the user's units.
        columns: the D column names.
        source: where the rows came from (a path or a data set's name), for messages.

    Raises:
        DataError: if `values` is not (N, D) or `columns` does not name its D columns once each.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    source: str | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values, dtype=np.float64)
        if values.ndim != 2:
            raise DataError(f"a table needs shape (rows, columns), got {values.shape}")
        columns = tuple(str(c) for c in self.columns)
        if len(columns) != values.shape[1]:
            raise DataError(f"{len(columns)} column names given for {values.shape[1]} columns")
        _check_unique(columns, self.source or "table")
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
        picked = _pick(columns, self.columns, self.source or "table")
        return Table(self.values[:, picked], tuple(columns), self.source)

    def take(self, rows: np.ndarray) -> Table:
        """The table with only the rows at the given indices."""
        return Table(self.values[rows], self.columns, self.source)


def default_columns(d: int) -> tuple[str, ...]:
    """Names for unnamed columns: ``x0, x1, ...``."""
    return tuple(f"x{i}" for i in range(d))


def read_table(
    path: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    array: str | None = None,
) -> Table:
    """Read a numeric table from .csv, .tsv, .parquet, .npy, .npz or .h5.

    A csv file may have a header or not: where every cell of the first line is a number, the columns
    are called ``x0, x1, ...``. A one-dimensional array becomes one column.

    Arguments:
        path: the file.
        columns: keep only these, in this order; all others may then hold anything.
        array: name of the array inside .npz or .h5; by default 'data', 'X', 'x', 'train' or the
            only two-dimensional one.

    Raises:
        DataError: the file is missing, damaged, of an unknown kind or holds pickled objects; a
            column is missing; a cell is text, missing or infinite. The message names column and
            row.
    """
    file = _existing_file(path)
    kind = _kind(file)
    if isinstance(columns, str):
        raise DataError(f"columns='{columns}' is one text; give a list of names: ['{columns}']")
    if columns is not None and not columns:
        raise DataError("columns=[] selects nothing; name at least one column")
    if array is not None and kind not in (".npz", ".h5", ".hdf5"):
        raise DataError(f"'{file}' holds a single table; array='{array}' is for .npz and .h5")
    if kind in (".csv", ".tsv"):
        values, names = _read_text(file, "\t" if kind == ".tsv" else ",", columns)
    elif kind == ".parquet":
        values, names = _read_parquet(file, columns)
    else:
        values, names = _named_array(file, kind, array)
        if columns is not None:
            values, names = values[:, _pick(columns, names, str(file))], tuple(columns)
    _check_size(values, str(file))
    check_finite(values, names, f"'{file}'")
    return Table(values, names, str(path))


def check_finite(values: np.ndarray, columns: Sequence[str], what: str) -> None:
    """Refuse NaN (counted per column) and infinities (first row named) in an (N, D) array."""
    missing = np.isnan(values).sum(axis=0)
    if missing.any():
        raise DataError(missing_message(dict(zip(columns, missing.tolist(), strict=True)), what))
    bad = np.argwhere(np.isinf(values))
    if len(bad):
        row, column = bad[0]
        raise DataError(
            f"{what}: column '{columns[column]}', data row {row + 1} is infinite "
            f"({len(bad)} such values in all); drop or correct these rows"
        )


def missing_message(counts: dict[str, int], what: str) -> str:
    """One line that counts the missing values of each column."""
    found = [(name, count) for name, count in counts.items() if count]
    total = sum(count for _, count in found)
    listed = ", ".join(f"'{name}' ({count})" for name, count in found[:6])
    more = f" and {len(found) - 6} more columns" if len(found) > 6 else ""
    return (
        f"{what}: {total} missing value{'s' if total != 1 else ''} (NaN) in {listed}{more}; "
        "drop these rows or columns (imputation comes later)"
    )


# --- the path -------------------------------------------------------------------------------------


def _existing_file(path: str | os.PathLike[str]) -> Path:
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"'{path}' is a folder; give a file ending in {', '.join(SUFFIXES)}")
    if not file.exists():
        folder = file.parent if file.parent.is_dir() else None
        hint = nearest(file.name, (f.name for f in folder.iterdir())) if folder else ""
        raise DataError(f"no file '{path}'{hint or '; check the path'}")
    return file


def _kind(file: Path) -> str:
    name = file.name.lower()
    if name.endswith((".csv.gz", ".tsv.gz")):
        return name[-7:-3]
    suffix = Path(name).suffix
    if suffix in (".pkl", ".pickle", ".pt", ".pth", ".joblib"):
        raise DataError(f"'{file}' is a pickle, which can run code; convert it to .parquet or .npy")
    if suffix not in SUFFIXES:
        raise DataError(f"'{file}' has an unknown ending '{suffix}'; use {', '.join(SUFFIXES)}")
    return suffix


def _check_size(values: np.ndarray, what: str) -> None:
    if values.shape[0] == 0 or values.shape[1] == 0:
        raise DataError(f"'{what}' is empty: {values.shape[0]} rows, {values.shape[1]} columns")


def _check_unique(columns: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in columns:
        if name in seen:
            raise DataError(f"'{what}' names column '{name}' twice; rename one of them")
        seen.add(name)


def _pick(wanted: Sequence[str], have: Sequence[str], what: str) -> list[int]:
    _check_unique(wanted, "columns")
    position = {name: i for i, name in enumerate(have)}
    for name in wanted:
        if name not in position:
            hint = nearest(name, have) or f"; it has {', '.join(list(have)[:8])}"
            raise DataError(f"'{what}' has no column '{name}'{hint}")
    return [position[name] for name in wanted]


# --- readers --------------------------------------------------------------------------------------


def _read_text(
    file: Path, separator: str, columns: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    frame, has_header = read_text_frame(file, separator)
    return _from_frame(file, frame, columns, header_lines=int(has_header))


def _read_parquet(file: Path, columns: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    import polars as pl

    try:
        frame = pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read as parquet ({first_line(error)})") from error
    return _from_frame(file, frame, columns, header_lines=None)


def _from_frame(
    file: Path, frame: pl.DataFrame, columns: Sequence[str] | None, header_lines: int | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Select the columns of a polars frame and turn them into numbers."""
    if columns is not None:
        frame = frame[:, _pick(columns, frame.columns, str(file))]
    names = tuple(frame.columns)
    if "" in names:
        raise DataError(
            f"'{file}': column {names.index('') + 1} has no name (a saved row index?); "
            "remove or name it, or choose columns"
        )
    if frame.height == 0 or frame.width == 0:
        raise DataError(f"'{file}' is empty: it has {frame.width} columns and no data rows")
    values, missing = frame_to_numbers(frame, str(file), header_lines)
    if any(missing.values()):
        raise DataError(missing_message(missing, f"'{file}'"))
    return values, names


def _named_array(file: Path, kind: str, array: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    values, names = read_array(file, kind, array)
    columns = default_columns(values.shape[1]) if names is None else names
    _check_unique(columns, str(file))
    return values, columns


# --- writing --------------------------------------------------------------------------------------


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure `path` can be written, creating its folder; call it before the work, not after.

    Raises:
        DataError: the folder cannot be created or written, or `path` is itself a folder.
    """
    file = Path(path).expanduser()
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
    int64 in parquet. .npz stores ``data`` and ``columns``; .npy has no place for names.

    Raises:
        DataError: unknown ending, wrong shape or names, or the path cannot be written.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"a table needs shape (rows, columns), got {values.shape}")
    names = default_columns(values.shape[1]) if columns is None else tuple(columns)
    table = Table(values, names, str(path))
    whole = set(_pick(integer_columns, names, str(path))) if integer_columns else set()
    file = Path(path).expanduser()
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise DataError(f"cannot write '{path}': unknown ending; use {', '.join(SUFFIXES)}")

    def write(target: Path) -> None:
        if kind in (".csv", ".tsv", ".parquet"):
            import polars as pl

            frame = pl.DataFrame(
                {
                    name: values[:, i].astype(np.int64) if i in whole else values[:, i]
                    for i, name in enumerate(table.columns)
                }
            )
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

    return atomic_write(file, write)
