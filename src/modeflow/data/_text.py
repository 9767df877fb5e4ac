"""Text tables: headers, separators and the exact place of a cell that is not a number."""

from __future__ import annotations

import csv
import gzip
import itertools
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from modeflow.errors import DataError

if TYPE_CHECKING:
    import polars as pl

# Spellings of "no value", compared without case and surrounding blanks.
_MISSING = ("", "na", "nan", "n/a", "null", "none", "?")


def _open(file: Path) -> IO[str]:
    if file.name.lower().endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return open(file, encoding="utf-8-sig", newline="")


def _number(cell: str) -> bool:
    text = cell.strip()
    # float() also takes '1_000', which no table means as a number.
    if "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_header(first: list[str], second: list[str]) -> bool:
    """A first line is a header unless all its cells are numbers.

    The exception is ``0,1,2,...`` above a line that is not whole numbers: what pandas writes for a
    frame without column names.
    """
    if not all(_number(cell) for cell in first):
        return True
    counting = len(first) > 1 and [c.strip() for c in first] == [str(i) for i in range(len(first))]
    return counting and any(not cell.strip().lstrip("+-").isdigit() for cell in second)


def read_text_frame(file: Path, separator: str) -> tuple[pl.DataFrame, bool]:
    """Read a csv or tsv file as text cells.

    Returns:
        The polars frame (all columns are strings) and whether the first line was a header.

    Raises:
        DataError: empty, ragged, not UTF-8, or a column name used twice.
    """
    import polars as pl

    try:
        with _open(file) as handle:
            lines = list(itertools.islice(csv.reader(handle, delimiter=separator), 2))
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}' is not UTF-8 text; save it as UTF-8") from error
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"'{file}' cannot be read ({error})") from error
    if not lines or not lines[0]:
        raise DataError(f"'{file}' is empty or begins with an empty line; it needs rows of numbers")
    first = [cell.strip() for cell in lines[0]]
    has_header = _is_header(first, lines[1] if len(lines) > 1 else [])
    names = first if has_header else [f"x{i}" for i in range(len(first))]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DataError(f"'{file}' names column '{name}' twice; rename one of them")
    try:
        frame = pl.read_csv(
            file, separator=separator, has_header=has_header, infer_schema=False, quote_char='"'
        )
    except pl.exceptions.PolarsError as error:
        _complain_if_ragged(file, separator, len(names))
        if "utf-8" in str(error).lower():
            raise DataError(f"'{file}' is not UTF-8 text; save it as UTF-8") from error
        reason = (str(error).strip().splitlines() or ["unknown"])[0][:120]
        raise DataError(f"'{file}' cannot be read as a table ({reason})") from error
    if frame.width != len(names):
        _complain_if_ragged(file, separator, len(names))
        raise DataError(f"'{file}': {len(names)} names in the first line, {frame.width} columns")
    frame.columns = names
    # polars fills short rows and blank lines with nulls: tell those apart from empty cells.
    if frame.null_count().sum_horizontal()[0]:
        frame = _drop_trailing_blank(frame)
        _complain_if_ragged(file, separator, len(names))
    return frame, has_header


def _drop_trailing_blank(frame: pl.DataFrame) -> pl.DataFrame:
    """Blank lines at the end of a file are not rows."""
    import polars as pl

    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    kept = np.flatnonzero(~blank)
    return frame.head(int(kept[-1]) + 1 if len(kept) else 0)


def _complain_if_ragged(file: Path, separator: str, width: int) -> None:
    """Raise if a line has another number of cells than the first one (blank lines pass)."""
    try:
        with _open(file) as handle:
            reader = csv.reader(handle, delimiter=separator)
            for cells in reader:
                if cells and len(cells) != width:
                    raise DataError(
                        f"'{file}' is ragged: line {reader.line_num} has {len(cells)} cells, "
                        f"the first line has {width}"
                    )
    except (UnicodeDecodeError, csv.Error):
        return


def frame_to_numbers(
    frame: pl.DataFrame, file: str, header_lines: int | None
) -> tuple[np.ndarray, dict[str, int]]:
    """Turn the columns of a polars frame into an (N, D) float64 array.

    Arguments:
        frame: numeric, boolean or text columns.
        file: name for messages.
        header_lines: lines above the first data row in a text file, None where lines mean nothing.

    Returns:
        The array, NaN where a value is missing, and the number of missing values of each column.

    Raises:
        DataError: a cell is text (column, row and text are named) or a column has no numeric type.
    """
    import polars as pl

    values = np.empty((frame.height, frame.width), dtype=np.float64)
    missing: dict[str, int] = {}
    for i, name in enumerate(frame.columns):
        column = frame.get_column(name)
        if column.dtype == pl.String:
            text = column.str.strip_chars()
            absent = text.is_null() | text.str.to_lowercase().is_in(list(_MISSING))
            numbers = text.cast(pl.Float64, strict=False)
            wrong = np.flatnonzero((numbers.is_null() & ~absent).to_numpy())
            if len(wrong):
                raise DataError(_text_message(file, name, text, wrong, header_lines, frame.width))
        elif column.dtype.is_numeric() or column.dtype == pl.Boolean or column.dtype == pl.Null:
            numbers = column.cast(pl.Float64)
            absent = numbers.is_null() | numbers.is_nan().fill_null(True)
        else:
            raise DataError(f"'{file}': column '{name}' is {column.dtype}, not numbers; convert or drop it")
        values[:, i] = numbers.fill_null(float("nan")).to_numpy()
        missing[name] = int(absent.sum())
    return values, missing


def _text_message(
    file: str,
    name: str,
    text: pl.Series,
    wrong: np.ndarray,
    header_lines: int | None,
    width: int,
) -> str:
    row = int(wrong[0])
    cell = str(text[row])
    # Line = row only while no quoted cell spans lines, which numeric tables do not have.
    place = f" (line {row + 1 + header_lines})" if header_lines is not None else ""
    if width == 1 and (";" in cell or "\t" in cell):
        remedy = "is the separator a semicolon or a tab? save the file with commas"
    elif len(wrong) == len(text):
        remedy = "the whole column is text: encode it as numbers or choose other columns"
    else:
        remedy = f"{len(wrong)} such cell{'s' if len(wrong) > 1 else ''}: correct or drop these rows"
    shown = cell if len(cell) <= 40 else cell[:37] + "..."
    return f"'{file}': column '{name}', data row {row + 1}{place} is text: '{shown}'; {remedy}"
