"""Columns of dates and times: seconds since 1970 on a lattice, or months of the calendar on one.

Months have no length in seconds: the first, the 15th or the last day of each is a lattice of whole months.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from modeflow.data.columns.base import shown
from modeflow.data.columns.cells import Cells, form_of_date, format_times, text_times, time_of
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.months import months_of, phase_of_months, seconds_of_months
from modeflow.data.columns.steps import Steps
from modeflow.errors import ConfigError, DataError

__all__ = ["UNITS", "Datetime", "check_form", "time_step"]

#: Resolutions of times, in seconds.
UNITS: dict[str, float] = {
    "day": 86400.0,
    "hour": 3600.0,
    "minute": 60.0,
    "second": 1.0,
    "millisecond": 1e-3,
    "microsecond": 1e-6,
}
#: Steps of the calendar, in months.
_MONTHS = {"year": 12, "month": 1}
#: Times that every library can hold: 1700 to 2262, in seconds since 1970, and in months.
_FIRST, _LAST = -8520336000.0, 9214646400.0
_FIRST_MONTH, _LAST_MONTH = -3240.0, 3503.0
#: Minus the logarithm of the probability with which a step may be there by chance.
_SURE = 7.0
#: Days of a month.
_DAYS = 30


@dataclass(frozen=True, kw_only=True)
class Datetime(Steps):
    """Dates and times, as seconds since 1970 (of the clock, UTC for those with a zone), or as months.

    Arguments:
        step: distance of neighbours, in seconds, or in words (``hour``, ``7 days``, ``3 months``).
        offset: one of the times, in seconds, or as a date; where the step is one of months, it says the day
            of the month too, and a day that a month has not is its last (``2024-01-31``: ends of months).
        months: whether step, offset and bounds are whole months since January 1970; a step in words says it.
        phase: of months, seconds from the first of a month to its time; an offset that is a date says it.
        form: of times that are text, how they are written (``%Y-%m-%d``; ``%m/%d/%Y`` has to be said).

    Raises:
        ConfigError: a form in which a time cannot be written and read again, or an unknown unit.
    """

    decimals: int | None = 6
    form: str | None = None
    months: bool = False
    phase: float = 0.0

    kind: ClassVar[str] = "datetime"

    def _bounds(self) -> tuple[str, ...]:
        return (*super()._bounds(), "phase")

    def __post_init__(self) -> None:
        if isinstance(self.step, str):
            step, months = _step_said(self.step, self.name)
            object.__setattr__(self, "step", step)
            object.__setattr__(self, "months", months)
        if self.months and self.levels:
            raise ConfigError(f"column '{self.name}': levels are times; a step of months has none")
        if self.months and isinstance(self.offset, (dt.date, str)):
            start = np.array([_seconds(self.offset, self.name)])
            object.__setattr__(self, "phase", float(phase_of_months(start)[0]))
            object.__setattr__(self, "offset", float(months_of(start, self.phase)[0]) % self.step)
        for name in ("low", "high", "offset"):
            bound = getattr(self, name)
            if isinstance(bound, (dt.date, str)):
                object.__setattr__(self, name, float(self._units(np.array([_seconds(bound, self.name)]))[0]))
        if self.levels and isinstance(self.levels[0], (dt.date, str)):
            object.__setattr__(self, "levels", tuple(_seconds(v, self.name) for v in self.levels))
        if self.form is not None:
            check_form(self.form, self.name)
        super().__post_init__()

    @property
    def date(self) -> bool:
        """Whether cells are dates, without a time."""
        return portable(self.dtype) == "date" or (self.form is not None and form_of_date(self.form))

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        found = cells.times(self.form)
        if found is None and not np.all(cells.missing):
            row = int(np.argmax(~cells.missing))
            raise DataError(
                f"column '{self.name}', data row {row + 1} holds {shown(cells.value(row))}: not all of the "
                "column are dates or times of one form (2024-01-31, 2024-01-31 23:59:00, 31.01.2024, ...); "
                "write them so, give their form, such as {kind: datetime, form: '%m/%d/%Y'}, or drop it"
            )
        seconds = cells.numbers if found is None else found[1]
        return super()._read(Cells("number", "float64", self._units(seconds)))

    def _units(self, seconds: np.ndarray) -> np.ndarray:
        """Seconds since 1970 as the column counts them."""
        return months_of(seconds, self.phase) if self.months else seconds

    def seconds(self, values: np.ndarray) -> np.ndarray:
        """Seconds since 1970 of encoded cells that are no codes, ``(N,)``."""
        return seconds_of_months(values, self.phase) if self.months else values

    def _clipped(self, x: np.ndarray) -> np.ndarray:
        ends = (_FIRST_MONTH, _LAST_MONTH) if self.months else (_FIRST, _LAST)
        return np.clip(x, *ends)

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        return super()._nearest(self._clipped(x))

    def _typed(self, values: np.ndarray) -> np.ndarray:
        absent = np.isnan(values)
        micro = np.round(np.where(absent, 0.0, values) * 1e6).astype(np.int64).astype("datetime64[us]")
        micro[absent] = np.datetime64("NaT", "us")
        if self.form is not None:
            text = format_times(pl.Series(micro), self.form).to_list()
            return np.array(text, dtype=object)
        return micro.astype("datetime64[D]") if self.date else micro

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        if self.as_levels:
            return super().decode(encoded)
        x = np.asarray(encoded, dtype=np.float64)
        absent = np.isnan(x)
        values = self._nearest(np.where(absent, 0.0, self._clipped(x)))
        return self._typed(np.where(absent, math.nan, self.seconds(values)))

    def options(self) -> dict[str, Any]:
        """With bounds, offset and levels as dates and the step in words, for people."""
        found = super().options()
        for name in ("low", "high"):
            if name in found:
                found[name] = self._time(found[name])
        if self._starts:
            found["offset"] = self._time(self.offset)
        if "levels" in found:
            found["levels"] = [time_of(v, self.date) for v in found["levels"]]
        found = {**found, "step": self._step_words() or self.step}
        # Those are said by a step in words and by an offset that is a date.
        return {k: v for k, v in found.items() if k not in ("months", "phase")}

    def _time(self, value: float) -> Any:
        return time_of(float(self.seconds(np.array([value]))[0]), self.date)

    @property
    def _starts(self) -> bool:
        """Whether it has to be said where steps begin: of days, hours and firsts of the month all know."""
        return bool(self.offset or self.phase)

    def _step_words(self) -> str | None:
        return _in_units(self.step, _MONTHS if self.months else UNITS)

    def _step_text(self) -> str:
        step = self._step_words() or f"{self.step:g} s"
        return f"{step}, offset {self._time(self.offset)}" if self._starts else step

    def _range_text(self) -> str:
        if self.as_levels:
            return "as levels"
        low, high = ("" if b is None else str(self._time(b)) for b in (self.low, self.high))
        return f"{low}..{high}" if low or high else ""


def _in_units(step: float, units: Mapping[str, float]) -> str | None:
    """``hour``, ``7 days``; None where no unit is contained a whole number of times."""
    for word, unit in units.items():
        count = round(step / unit)
        if count and count * unit == step:
            return word if count == 1 else f"{count} {word}s"
    return None


def _step_said(step: Any, name: str) -> tuple[float, bool]:
    """A step of times, from words such as ``hour``, ``7 days`` and ``3 months``, or from a number of seconds;
    and whether it is one of months.

    Raises:
        ConfigError: for anything else.
    """
    found = re.fullmatch(r"(?:(\d+) +)?(\w+?)s?", step) if isinstance(step, str) else None
    if found and found[2] in (units := {**UNITS, **_MONTHS}):
        return int(found[1] or 1) * float(units[found[2]]), found[2] in _MONTHS
    if isinstance(step, (int, float)) and not isinstance(step, bool) and math.isfinite(step):
        return float(step), False
    raise ConfigError(
        f"column '{name}': step={step!r} must be {', '.join([*_MONTHS, *UNITS])}, several of them such as "
        "'7 days', or seconds"
    )


def time_step(levels: np.ndarray, said: Any, name: str, calendar: bool = True) -> dict[str, Any]:
    """Step and offset of distinct times, rising, as options of `Datetime`: months where all have one place in
    theirs; else that of all differences; each if times are so many that chance would not give it; else the
    largest unit that all are whole multiples of.

    Differences of n times at random have a common divisor of k units or more with probability about
    :math:`k^{2-n}`, and days at random are all the same day of the month with about :math:`30^{1-n}`.

    Arguments:
        levels: in seconds, ``(n,)``. said: the step, if the user said it. name: of the column, for messages.
        calendar: whether a step that is found may be one of months.
    """
    micro = np.round(levels * 1e6).astype(np.int64)
    months = False
    if said is not None:
        step, months = _step_said(said, name)
    else:
        step = next(s for s in UNITS.values() if not (micro % round(s * 1e6)).any())
    phase = float(phase_of_months(levels)[0])
    place = months_of(levels, phase)
    if (
        said is None
        and calendar
        and (len(levels) - 1) * math.log(_DAYS) > _SURE
        and (place == np.round(place)).all()
    ):
        months, step = True, 1.0
        every_months = int(np.gcd.reduce(np.diff(place).astype(np.int64)))
        if (len(levels) - 2) * math.log(every_months) > _SURE:
            step = float(every_months)
    if months:
        return {"step": step, "months": True, "phase": phase, "offset": float(place[0] % step)}
    if said is None and len(levels) > 1:
        common = int(np.gcd.reduce(np.diff(micro))) / 1e6
        if (len(levels) - 2) * math.log(common / step) > _SURE:
            step = common
    every = round(step * 1e6)
    return {"step": step, "offset": float(levels[0]) if every and micro[0] % every else 0.0}


def check_form(form: str, name: str) -> None:
    """Refuse a form of times that loses which day it was.

    Raises:
        ConfigError: for such a one.
    """
    day = pl.Series([dt.datetime(2023, 12, 31)], dtype=pl.Datetime("us"))
    try:
        found = text_times(format_times(day, form), form)
    except pl.exceptions.PolarsError:
        found = None
    if found is None or found[0] != form or found[1][0] != day.dt.epoch("s")[0]:
        raise ConfigError(
            f"column '{name}': form='{form}' does not say year, month and day; give one such as '%Y-%m-%d', "
            "'%d.%m.%Y' or '%m/%d/%Y %H:%M'"
        )


def _seconds(value: Any, name: str) -> float:
    try:
        moment = dt.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise ConfigError(f"column '{name}': {value!r} is no date, such as 2024-01-31") from error
    if moment.tzinfo is not None:
        moment = moment.astimezone(dt.UTC).replace(tzinfo=None)
    since = moment - dt.datetime(1970, 1, 1)
    return since.days * 86400 + since.seconds + since.microseconds / 1e6
