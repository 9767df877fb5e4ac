"""Columns of cells as float64: usual spellings of numbers are read, everything else is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from modeflow.data._cells import MISSING, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["BadColumn", "Numbers", "frame_to_numbers", "rounded_message"]

_SPACES = r"[ '’\u00a0\u2007\u2009\u202f]"
_SIGNS = r"[$€£¥₹%‰]"
_GROUPED = r"^[+-]?\d{1,3}(,\d{3})+(\.\d*)?([eE][+-]?\d+)?$"
_DECIMAL = r"^[+-]?(\d*|\d{1,3}(\.\d{3})+),\d*([eE][+-]?\d+)?$"
_DOTTED = r"^[+-]?\d{1,3}(\.\d{3})+$"
_MINUS = "[\u2212\ufe63\uff0d]"
_FORTRAN = r"^([+-]?\d*\.?\d*)[dD]([+-]?\d+)$"
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./-]\d\d?[./-]\d{2,4}( .*)?|\d\d?:\d\d(:\d\d.*)?")
_EXACT = 2.0**53
_DATE_HINT = "turn times into numbers, such as days since the first"


@dataclass(frozen=True)
class BadColumn:
    """A column with cells that are no numbers.

    Attributes:
        name: of the column.
        rows: indices of these cells.
        cell: the first of them, or the type of a column that is of another type as a whole.
        total: cells that are not missing.
        hint: what to do, where more is known than that it is text.
        typed: whether `cell` is a type.
    """

    name: str
    rows: np.ndarray
    cell: str
    total: int
    hint: str | None = None
    typed: bool = False

    @property
    def is_text(self) -> bool:
        """Whether at least half of the column is text, so that it is one of words, not of numbers."""
        return 2 * len(self.rows) >= self.total


@dataclass
class Numbers:
    """Columns turned into numbers.

    Attributes:
        values: (N, D) float64, NaN where a cell is missing or no number.
        columns: D names.
        bad: columns with cells that are no numbers.
        notes: spellings that were read, one sentence each.
        doubts: what a person should look at.
    """

    values: np.ndarray
    columns: tuple[str, ...]
    bad: list[BadColumn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def without(self, names: Sequence[str]) -> Numbers:
        """The other columns."""
        kept = [i for i, name in enumerate(self.columns) if name not in names]
        bad = [b for b in self.bad if b.name not in names]
        columns = tuple(self.columns[i] for i in kept)
        return Numbers(self.values[:, kept], columns, bad, self.notes, self.doubts)


def frame_to_numbers(frame: pl.DataFrame, file: str, commas_separate: bool = False) -> Numbers:
    """Turn the columns of a polars frame into numbers.

    Beside what polars reads: blanks around cells, a true minus sign, Fortran's ``1.5D+00``, true and false,
    decimal commas, grouped thousands, and one currency or percent sign on all cells of a column (the number
    is kept as written: ``12%`` is 12). Each such reading is a note.

    Arguments:
        frame: columns of any type.
        file: name for messages.
        commas_separate: the cells of the file were separated by commas, so that one in a cell groups
            thousands where nothing else decides.
    """
    import polars as pl

    values = np.full((frame.height, frame.width), np.nan)
    result = Numbers(values, tuple(frame.columns))
    read: dict[str, list[str]] = {}
    unclear: list[tuple[int, pl.Series]] = []
    commas = points = False
    plain: list[tuple[int, pl.Series]] = []
    for i, name in enumerate(frame.columns):
        column = frame.get_column(name)
        if column.dtype in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        if column.dtype == pl.String:
            numbers = column.cast(pl.Float64, strict=False)
            if numbers.null_count() > column.null_count():
                text = _tidy(column)
                numbers, used, mark = _spelled(text)
                for what in used:
                    read.setdefault(what, []).append(name)
                commas |= mark == "decimal"
                points |= mark == "grouped"
                if mark == "unclear":
                    unclear.append((i, text))
                    continue
                _note_bad(result, name, text, numbers)
                column = text
            else:
                plain.append((i, column))
            _store(result, i, numbers, column)
        elif column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
            _store(result, i, column.cast(pl.Float64), column)
        else:
            known = np.flatnonzero(column.is_not_null().to_numpy())
            hint = f"{_DATE_HINT} (or drop it)" if column.dtype.is_temporal() else "convert or drop it"
            result.bad.append(BadColumn(name, known, str(column.dtype), len(known), hint, True))
    if unclear:
        points |= any(bool(np.any(v != np.round(v))) for v in (_finite(values[:, i]) for i, _ in plain))
        _decide_commas(result, unclear, commas, points or commas_separate, read)
    if commas:
        _doubt_dots(result, plain)
    for what, names in read.items():
        result.notes.append(f"'{file}': read {what} in {quoted(names)}")
    result.doubts = [f"'{file}': {doubt}" for doubt in result.doubts]
    result.bad.sort(key=lambda bad: result.columns.index(bad.name))
    return result


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _tidy(column: pl.Series) -> pl.Series:
    """Text without blanks around, null where it is a mark for a missing value."""
    text = column.str.strip_chars(" \t\n\r\u00a0\u2007\u2009\u202f\ufeff")
    absent = text.str.to_lowercase().is_in(list(MISSING))
    return _where(absent, None, text)


def _where(mask: pl.Series, yes: pl.Series | str | None, no: pl.Series) -> pl.Series:
    """`yes` where the mask is true, `no` where it is false or null."""
    import polars as pl

    value = yes if isinstance(yes, pl.Series) else pl.lit(yes, dtype=pl.String)
    return pl.select(pl.when(mask).then(value).otherwise(no)).to_series()


def _cast(text: pl.Series) -> pl.Series:
    import polars as pl

    return text.cast(pl.Float64, strict=False)


def _spelled(text: pl.Series) -> tuple[pl.Series, list[str], Literal["", "decimal", "grouped", "unclear"]]:
    """The numbers of a column, the spellings met on the way, and what a comma meant."""
    used: list[str] = []
    steps: tuple[tuple[str, str, Callable[[pl.Series], pl.Series]], ...] = (
        ("a true minus sign (−)", _MINUS, lambda t: t.str.replace_all(_MINUS, "-")),
        ("Fortran's exponents (D)", _FORTRAN, lambda t: t.str.replace(_FORTRAN, "${1}e${2}")),
        ("true and false as 1 and 0", "(?i)^(true|false)$", _booleans),
        ("numbers without their sign ({sign})", _SIGNS, _signs),
        ("blanks or apostrophes between thousands", rf"^[+-]?\d{{1,3}}{_SPACES}\d{{3}}", _spaced),
    )
    for what, trigger, step in steps:
        # Most columns need none of the steps, which are slow on millions of rows.
        if text.str.contains(trigger).any():
            new = step(text)
            if (new != text).any():
                used.append(what.format(sign=_sign(text)))
                text = new
    mark = _commas(text)
    if mark in ("decimal", "grouped"):
        text = _without_commas(text, mark)
        used.append(_COMMA_WORDS[mark])
    return _cast(text), used, mark


_COMMA_WORDS = {"decimal": "decimal commas", "grouped": "commas between thousands"}


def _booleans(text: pl.Series) -> pl.Series:
    lower = text.str.to_lowercase()
    return _where(lower == "true", "1", _where(lower == "false", "0", text))


def _sign(text: pl.Series) -> str | None:
    """The currency or percent sign that is on every cell."""
    found = text.drop_nulls().str.extract(f"({_SIGNS})")
    return None if found.null_count() or found.n_unique() != 1 else str(found[0])


def _signs(text: pl.Series) -> pl.Series:
    """Without a currency or percent sign that is on every cell."""
    found = _sign(text)
    if found is None:
        return text
    sign = re.escape(found)
    bare = text.str.replace(rf"^([+-]?)\s*{sign}\s*", "${1}").str.replace(rf"\s*{sign}$", "")
    return bare if not bare.str.contains(sign).any() else text


def _spaced(text: pl.Series) -> pl.Series:
    spaced = text.str.contains(rf"^[+-]?\d{{1,3}}({_SPACES}\d{{3}})+([.,]\d*)?$").fill_null(False)
    return _where(spaced, text.str.replace_all(_SPACES, ""), text)


def _commas(text: pl.Series) -> Literal["", "decimal", "grouped", "unclear"]:
    """What commas in a column mean, by all of its cells."""
    known = text.drop_nulls()
    has = known.str.contains(",", literal=True)
    if not has.any():
        return ""
    cells = known.filter(has)
    grouped, decimal = cells.str.contains(_GROUPED), cells.str.contains(_DECIMAL)
    # A cell of words decides nothing; it is reported later.
    numbers = grouped | decimal
    if not numbers.any():
        return ""
    if (grouped & decimal)[numbers.arg_true()].all():
        return "grouped" if known.filter(~has).str.contains(r"\d\.\d").any() else "unclear"
    sure = grouped[numbers.arg_true()].all(), decimal[numbers.arg_true()].all()
    return "grouped" if sure[0] else "decimal" if sure[1] else ""


def _without_commas(text: pl.Series, mark: str) -> pl.Series:
    pattern = _DECIMAL if mark == "decimal" else _GROUPED
    fits = text.str.contains(pattern).fill_null(False)
    if mark == "grouped":
        return _where(fits, text.str.replace_all(",", "", literal=True), text)
    # In a column of decimal commas a point can only group thousands.
    dotted = text.str.contains(_DOTTED).fill_null(False)
    whole = text.str.replace_all(".", "", literal=True)
    odd = ~fits & ~dotted & text.str.contains(".", literal=True).fill_null(False)
    return _where(odd, "", _where(fits | dotted, whole.str.replace(",", ".", literal=True), text))


def _decide_commas(
    result: Numbers,
    unclear: list[tuple[int, pl.Series]],
    commas: bool,
    grouped: bool,
    read: dict[str, list[str]],
) -> None:
    """Columns in which every comma stands before three digits: the rest of the file decides."""
    for i, text in unclear:
        name = result.columns[i]
        if commas == grouped:
            rows = np.flatnonzero(text.str.contains(",", literal=True).fill_null(False).to_numpy())
            cell = str(text[int(rows[0])])
            hint = "the comma may mark decimals or thousands: write 1234 or 1.234"
            result.bad.append(BadColumn(name, rows, cell, text.len() - text.null_count(), hint))
            numbers = _cast(text)
        else:
            mark = "decimal" if commas else "grouped"
            read.setdefault(_COMMA_WORDS[mark], []).append(name)
            numbers = _cast(_without_commas(text, mark))
            _note_bad(result, name, text, numbers)
        _store(result, i, numbers, text)


def _doubt_dots(result: Numbers, plain: list[tuple[int, pl.Series]]) -> None:
    """Beside decimal commas, a column of ``1.234`` may be one of thousands."""
    for i, column in plain:
        known = column.drop_nulls().str.strip_chars()
        dotted = known.filter(known.str.contains(".", literal=True))
        if len(dotted) and dotted.str.contains(_DOTTED).all():
            result.doubts.append(
                f"column '{result.columns[i]}': read '{dotted[0]}' as {float(dotted[0]):g}, though other "
                "columns have decimal commas; if the point groups thousands, remove it"
            )


def _note_bad(result: Numbers, name: str, text: pl.Series, numbers: pl.Series) -> None:
    wrong = np.flatnonzero((numbers.is_null() & text.is_not_null()).to_numpy())
    if not len(wrong):
        return
    cell = str(text[int(wrong[0])])
    hint = None
    if _DATE.fullmatch(cell):
        hint = _DATE_HINT
    elif re.search(_SIGNS, cell):
        hint = "the sign is not on every cell: write plain numbers in one unit"
    result.bad.append(BadColumn(name, wrong, cell, text.len() - text.null_count(), hint))


def _store(result: Numbers, i: int, numbers: pl.Series, source: pl.Series) -> None:
    column = numbers.fill_null(float("nan")).to_numpy()
    result.values[:, i] = column
    big = np.flatnonzero(np.abs(column) >= _EXACT)
    if len(big) and (message := _rounded(source, column, big)):
        result.doubts.append(f"column '{result.columns[i]}' {message}")


def _rounded(source: pl.Series, column: np.ndarray, big: np.ndarray) -> str | None:
    """A sentence where whole numbers of a column are not exact in float64."""
    import polars as pl

    if not (source.dtype == pl.String or source.dtype.is_integer()):
        return None
    shown = big[:1000]
    wrong = 0
    for row in shown:
        cell = str(source[int(row)]).strip()
        if re.fullmatch(r"[+-]?\d+", cell) and np.isfinite(column[row]):
            wrong += int(cell) != int(column[row])
    return rounded_message(wrong, len(shown)) if wrong else None


def rounded_message(wrong: int, of: int) -> str:
    """What is wrong with whole numbers that float64 cannot hold."""
    return (
        f"holds whole numbers above 2^53, which float64 rounds ({wrong} of {of} looked at are not exact); "
        "subtract a constant first, or leave the column out"
    )
