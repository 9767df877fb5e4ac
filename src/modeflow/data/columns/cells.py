"""The cells of one column, read alike from every kind of frame and file.

A column is numbers, booleans, text, times, or objects of several types. Missing are None, NaN, NaT, pandas'
NA and text of nothing but blanks. The marks that programs write for "no value" (NA, NaN, null, ..., see
`modeflow.data._cells`) are missing in a column of numbers or times; in one of text each kind of column
decides, as they may be a level.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import polars as pl

from modeflow.data._cells import MISSING
from modeflow.data._numbers import frame_to_numbers
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.spans import of_span, seconds_of_spans
from modeflow.errors import DataError

__all__ = [
    "PROGRAM_MARKS",
    "Cells",
    "cells_of_objects",
    "cells_of_series",
    "cells_of_text",
    "format_times",
    "is_missing_value",
    "seconds_of",
    "spell",
    "text_times",
    "time_of",
    "unreadable",
]

CellKind = Literal["number", "boolean", "text", "time", "object"]

#: Marks that no person means as a word.
PROGRAM_MARKS = frozenset(MISSING) - {"?", "-", "--", ".", "none", "nil", ""}
#: What a table is called that is no file.
_NO_FILE = "the table"
_BOOLEAN_WORDS = ("true", "false")
_LEADING_ZERO = r"^\s*[+-]?0\d"
_EPOCH_DAY = 86400
#: Forms of dates and times that can be read one way only.
_TIME_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M:%SZ",
    "%Y-%m-%dT%H:%MZ",
    "%Y-%m-%d %H:%M:%S%.3f",
    "%Y-%m-%dT%H:%M:%S%.3f",
    "%Y-%m-%dT%H:%M:%S%.3fZ",
    "%Y-%m-%d %H:%M:%S%.6f",
    "%Y-%m-%dT%H:%M:%S%.6f",
    "%Y-%m-%dT%H:%M:%S%.6fZ",
    # With dots the day comes first; with slashes nobody knows, and the schema has to say.
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d\d\.\d\d\.\d{4}")


@dataclass(frozen=True, eq=False)
class Cells:
    """The N cells of one column.

    Attributes:
        kind: "number", "boolean", "text", "time" or "object" (values of several types).
        dtype: the frame's name for the type.
        numbers: float64 ``(N,)``: numbers, 0 and 1 for booleans, seconds since 1970 for times (UTC where they
            have a zone); of text the numbers that it spells; NaN elsewhere.
        bad: of text, which cells are neither a number nor missing, ``(N,)``.
        text: of text, the cells, null where they are blank.
        objects: of objects, the values, None where they are missing.
        categorical: whether the type is one of categories; levels: those it lists, in order; ordered: whether
            the order means something.
    """

    kind: CellKind
    dtype: str
    numbers: np.ndarray
    bad: np.ndarray | None = None
    text: pl.Series | None = None
    objects: np.ndarray | None = None
    categorical: bool = False
    levels: tuple[Any, ...] | None = None
    ordered: bool = False
    #: Why nothing can be read of a column of this type; empty where it can.
    refusal: str = ""
    _known: dict[str | None, Any] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def missing(self) -> np.ndarray:
        """Which cells hold nothing at all, ``(N,)``; marks in text are not among them."""
        if self.text is not None:
            return self.text.is_null().to_numpy()
        if self.objects is not None:
            return np.array([v is None for v in self.objects], dtype=bool)
        return np.isnan(self.numbers)

    def check(self, name: str) -> None:
        """Refuse a column of a type that is no kind's (`DataError`)."""
        if self.refusal:
            raise DataError(f"column '{name}'{self.refusal}")

    @property
    def spells_numbers(self) -> bool:
        """Whether text is nothing but numbers and marks, none with a leading zero (a code, such as 01234)."""
        if self.text is None or self.bad is None or self.bad.any() or np.isnan(self.numbers).all():
            return False
        return not self.text.str.contains(_LEADING_ZERO).any()

    def value(self, row: int) -> Any:
        """The cell as the user knows it, for messages."""
        if self.text is not None:
            return self.text[row]
        if self.objects is not None:
            return self.objects[row]
        number = float(self.numbers[row])
        if self.kind == "boolean":
            return bool(number)
        if self.kind == "time":
            return time_of(number, portable(self.dtype) == "date")
        return int(number) if number.is_integer() else number

    def said(self, row: int) -> Any:
        """The cell for messages."""
        number = float(self.numbers[row])
        span = None if self.kind != "number" or np.isnan(number) else of_span(number, self.dtype)
        return self.value(row) if span is None else span

    def list(self) -> list[Any]:
        """All cells, None where they are missing."""
        if self.text is not None:
            return self.text.to_list()
        absent = self.missing
        return [None if absent[i] else self.value(i) for i in range(len(self))]

    def times(self, form: str | None = None) -> tuple[str | None, np.ndarray] | None:
        """Format (None for what is no text) and seconds since 1970; None where the column is no times.

        Arguments:
            form: how text is written, tried before the forms that are known (``%m/%d/%Y``).
        """
        if self.kind == "time":
            return None, self.numbers
        if self.text is None:
            return None
        if form not in self._known:
            self._known[form] = text_times(self.text, form)
        found: tuple[str | None, np.ndarray] | None = self._known[form]
        return found


# -- from values ------------------------------------------------------------------------------------


def is_missing_value(value: Any) -> bool:
    """None, NaN, NaT, pandas' NA, and text of blanks."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return bool(np.isnat(value))
    return isinstance(value, (float, np.floating)) and bool(np.isnan(value))


def cells_of_objects(values: Sequence[Any], dtype: str, name: str) -> Cells:
    """Cells of Python values; such as are no scalars are refused where they are used (`Cells.check`)."""
    if {str} <= {type(v) for v in values} <= {str, type(None)}:  # most columns of objects
        return cells_of_text(pl.Series(name, values, dtype=pl.String), dtype)
    kept = [
        None if is_missing_value(v) else v.item() if isinstance(v, np.generic) and not _is_np_time(v) else v
        for v in values
    ]
    types = {type(v) for v in kept} - {type(None)}
    if not types:
        return Cells("number", dtype, np.full(len(kept), np.nan))
    if all(issubclass(t, str) for t in types):
        return cells_of_text(pl.Series(name, kept, dtype=pl.String), dtype)
    if types == {bool}:
        return Cells("boolean", dtype, _floats(kept))
    if all(issubclass(t, (int, float, Decimal)) and t is not bool for t in types):
        return Cells("number", dtype, _floats(kept))
    if all(issubclass(t, (dt.date, np.datetime64)) for t in types):
        dates = all(t is dt.date for t in types)
        seconds = [np.nan if v is None else _stamp(v) for v in kept]
        return Cells("time", "date" if dates else dtype, np.array(seconds))
    if all(issubclass(t, (dt.timedelta, np.timedelta64)) for t in types):
        return Cells("number", "timedelta64[us]", np.array([np.nan if v is None else _span(v) for v in kept]))
    if {t.__name__ for t in types} == {"Period"} and len({v.freqstr for v in kept if v is not None}) == 1:
        freq = next(v.freqstr for v in kept if v is not None)
        ordinals = [np.nan if v is None else float(v.ordinal) for v in kept]
        return Cells("number", f"period[{freq}]", np.array(ordinals))
    for row, value in enumerate(kept):
        if not isinstance(value, (str, int, float, type(None))):
            why = (
                f", data row {row + 1} holds {type(value).__name__} {str(value)[:40]!r}; a cell is text, a "
                "number, a boolean, a time or a duration: convert it, or say 'drop'"
            )
            return unreadable(len(kept), dtype, why)
    array = np.empty(len(kept), dtype=object)
    array[:] = kept
    return Cells("object", dtype, np.full(len(kept), np.nan), objects=array)


def unreadable(n: int, dtype: str, why: str = "") -> Cells:
    """N cells of a type that no kind of column has, which can only be dropped; `why`, after its name."""
    why = why or f" is of type {dtype}: turn it into numbers or text, or say 'drop'"
    return Cells("object", dtype, np.full(n, np.nan), refusal=why)


def _span(value: Any) -> float:
    """Seconds of a duration."""
    if isinstance(value, np.timedelta64):
        return float(seconds_of_spans(np.array([value]))[0])
    return float(value / dt.timedelta(seconds=1))


def _is_np_time(value: Any) -> bool:
    return isinstance(value, (np.datetime64, np.timedelta64))


def _floats(values: Sequence[Any]) -> np.ndarray:
    return np.array([np.nan if v is None else float(v) for v in values])


def _stamp(value: Any) -> float:
    """Seconds since 1970 of a date, a time, or numpy's."""
    if isinstance(value, np.datetime64):
        return float(seconds_of(np.array([value]))[0])
    if isinstance(value, dt.datetime):
        zone = value.tzinfo or dt.UTC
        since = value.replace(tzinfo=zone) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return since.days * _EPOCH_DAY + since.seconds + since.microseconds / 1e6
    return float((value - dt.date(1970, 1, 1)).days * _EPOCH_DAY)


def seconds_of(times: np.ndarray) -> np.ndarray:
    """Seconds since 1970 of numpy's times, to microseconds; NaN for NaT."""
    micro = times.astype("datetime64[us]")
    return np.where(np.isnat(micro), np.nan, micro.astype(np.int64) / 1e6)


def time_of(seconds: float, date: bool) -> Any:
    """A date or a time (without a zone) of seconds since 1970."""
    value = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds)
    return value.date() if date else value


def cells_of_text(text: pl.Series, dtype: str, numbers: tuple[np.ndarray, np.ndarray] | None = None) -> Cells:
    """Cells of text; blank ones are missing. `numbers` if they were read beside the other columns."""
    blank = (text.str.strip_chars() == "").fill_null(False)
    if blank.any():
        text = pl.select(pl.when(blank).then(None).otherwise(text)).to_series()
    values, bad = numbers or spell({text.name: text})[0][text.name]
    return Cells("text", dtype, values, bad=bad, text=text)


def spell(
    columns: dict[str, pl.Series], label: str | None = None
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], list[str]]:
    """The numbers that columns of text spell, and which of their cells are text, with notes on the spellings.

    Read together, since the spelling of one column (decimal commas) tells how another is meant.

    Arguments:
        columns: by name. label: the file they are of, if they are of one, for the notes.
    """
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    candidates: dict[str, pl.Series] = {}
    for name, text in columns.items():
        known = text.drop_nulls().head(1000)
        words = known.str.strip_chars().str.to_lowercase()
        # A quick look: most columns of words hold hardly any numbers, and words for truth are words here.
        if not len(known) or not known.str.contains(r"\d").any() or words.is_in(_BOOLEAN_WORDS).all():
            marks = text.str.strip_chars().str.to_lowercase().is_in(list(MISSING)).fill_null(True).to_numpy()
            found[name] = np.full(len(text), np.nan), ~marks
        else:
            candidates[name] = text
    notes: list[str] = []
    for chosen in (list(candidates), None):
        # Again without those that turn out to be words, so that no note is made of them.
        names = chosen if chosen is not None else [n for n in candidates if not found[n][1].any()]
        if not names:
            break
        frame = pl.DataFrame({n: candidates[n] for n in names})
        read = frame_to_numbers(frame, label or _NO_FILE)
        for i, name in enumerate(names):
            bad = np.zeros(frame.height, dtype=bool)
            for column in read.bad:
                if column.name == name:
                    bad[column.rows] = True
            found[name] = read.values[:, i], bad
        notes = [*read.notes, *read.doubts]
        if label is None:
            notes = [note.replace(f"'{_NO_FILE}'", _NO_FILE, 1) for note in notes]
        if len(names) == len(candidates) and not any(found[n][1].any() for n in names):
            break
        if chosen is not None:
            notes = []
    return found, notes


def text_times(text: pl.Series, form: str | None = None) -> tuple[str, np.ndarray] | None:
    """The format of a column of dates or times in text, and seconds since 1970; None where it has none.

    Arguments:
        form: tried before the forms that are known.
    """
    marks = text.str.strip_chars().str.to_lowercase().is_in(list(MISSING)).fill_null(True)
    known = text.filter(~marks)
    if not len(known):
        return None
    forms = _TIME_FORMATS if _DATE.match(known[0]) else ()
    for tried in forms if form is None else (form, *forms):
        if _parse(known[:1], tried).null_count():
            continue
        times = _parse(known, tried)
        # Only what is written back as it was: a column of one form.
        if times.null_count() or not (format_times(times, tried) == known).all():
            continue
        seconds = np.full(len(text), np.nan)
        seconds[(~marks).to_numpy()] = times.to_physical().to_numpy() / 1e6
        return tried, seconds
    return None


def form_of_date(form: str) -> bool:
    """Whether a format has no time of the day."""
    return re.search(r"%[HIklMScTRXfpPr.]", form) is None


def _parse(text: pl.Series, form: str) -> pl.Series:
    if form_of_date(form):
        return text.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    return text.str.to_datetime(form, strict=False, time_unit="us")


def format_times(times: pl.Series, form: str) -> pl.Series:
    """Times as text."""
    return times.dt.strftime(form)


# -- from polars ------------------------------------------------------------------------------------


def cells_of_series(
    column: pl.Series, dtype: str, numbers: tuple[np.ndarray, np.ndarray] | None = None
) -> Cells:
    """Cells of a polars column; a type that no kind of column has, such as lists, is refused where it is
    used (`Cells.check`)."""
    kind = column.dtype
    if kind in (pl.Categorical, pl.Enum):
        levels = tuple(kind.categories.to_list()) if isinstance(kind, pl.Enum) else None
        text = cells_of_text(column.cast(pl.String), dtype, numbers)
        return Cells("text", dtype, text.numbers, text.bad, text.text, None, True, levels)
    if kind == pl.String:
        return cells_of_text(column, dtype, numbers)
    if kind == pl.Boolean:
        return Cells("boolean", dtype, _series_floats(column))
    if kind.is_numeric() or kind == pl.Null:
        return Cells("number", dtype, _series_floats(column))
    if kind == pl.Date:
        return Cells("time", dtype, _series_floats(column.to_physical()) * _EPOCH_DAY)
    if isinstance(kind, pl.Datetime):
        return Cells("time", dtype, _series_floats(column.dt.cast_time_unit("us").to_physical()) / 1e6)
    if isinstance(kind, pl.Duration):
        return Cells("number", dtype, seconds_of_spans(column.to_numpy()))
    if kind == pl.Object:
        return cells_of_objects(column.to_list(), dtype, column.name)
    return unreadable(len(column), dtype)


def _series_floats(column: pl.Series) -> np.ndarray:
    return np.array(column.cast(pl.Float64).fill_null(float("nan")).to_numpy(), dtype=np.float64)
