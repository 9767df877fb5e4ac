"""Columns of dates and times: seconds since 1970 on a lattice."""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from modeflow.data.columns.base import shown
from modeflow.data.columns.cells import Cells, form_of_date, format_times, text_times, time_of
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.steps import Steps
from modeflow.errors import ConfigError, DataError

__all__ = ["UNITS", "Datetime", "check_form", "seconds_of_step", "time_step"]

#: Resolutions of times, in seconds.
UNITS: dict[str, float] = {
    "day": 86400.0,
    "hour": 3600.0,
    "minute": 60.0,
    "second": 1.0,
    "millisecond": 1e-3,
    "microsecond": 1e-6,
}
#: Times that every library can hold: 1700 to 2262, in seconds since 1970.
_FIRST, _LAST = -8520336000.0, 9214646400.0
#: Minus the logarithm of the probability with which a step may be there by chance.
_SURE = 7.0


@dataclass(frozen=True, kw_only=True)
class Datetime(Steps):
    """Dates and times, as seconds since 1970 (of the clock, UTC for those with a zone).

    Arguments:
        step: distance of neighbours, in seconds, or in words (``hour``, ``7 days``).
        offset: one of the times, in seconds, or as a date.
        form: of times that are text, how they are written (``%Y-%m-%d``; ``%m/%d/%Y`` has to be said).

    Raises:
        ConfigError: a form in which a time cannot be written and read again, or an unknown unit.
    """

    decimals: int | None = 6
    form: str | None = None

    kind: ClassVar[str] = "datetime"

    def __post_init__(self) -> None:
        for name in ("low", "high", "offset"):
            bound = getattr(self, name)
            if isinstance(bound, (dt.date, str)):
                object.__setattr__(self, name, _seconds(bound, self.name))
        if self.levels and isinstance(self.levels[0], (dt.date, str)):
            object.__setattr__(self, "levels", tuple(_seconds(v, self.name) for v in self.levels))
        if isinstance(self.step, str):
            object.__setattr__(self, "step", seconds_of_step(self.step, self.name))
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
        return super()._read(Cells("number", "float64", seconds))

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        return super()._nearest(np.clip(x, _FIRST, _LAST))

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
        values = self._nearest(np.where(absent, 0.0, np.clip(x, _FIRST, _LAST)))
        return self._typed(np.where(absent, math.nan, values))

    def options(self) -> dict[str, Any]:
        """With bounds, offset and levels as dates and the step in words, for people."""
        found = super().options()
        for name in ("low", "high", "offset"):
            if name in found:
                found[name] = time_of(found[name], self.date)
        if "levels" in found:
            found["levels"] = [time_of(v, self.date) for v in found["levels"]]
        return {**found, "step": _step_words(self.step) or self.step}

    def _step_text(self) -> str:
        step = _step_words(self.step) or f"{self.step:g} s"
        # Of days and hours everybody knows where they begin.
        return f"{step}, offset {time_of(self.offset, self.date)}" if self.offset else step

    def _range_text(self) -> str:
        if self.as_levels:
            return "as levels"
        low, high = ("" if b is None else str(time_of(b, self.date)) for b in (self.low, self.high))
        return f"{low}..{high}" if low or high else ""


def _step_words(seconds: float) -> str | None:
    """``hour``, ``7 days``; None where no unit is contained a whole number of times."""
    for word, unit in UNITS.items():
        count = round(seconds / unit)
        if count and count * unit == seconds:
            return word if count == 1 else f"{count} {word}s"
    return None


def seconds_of_step(step: Any, name: str) -> float:
    """A step of times in seconds, from words such as ``hour`` and ``7 days``, or from a number.

    Raises:
        ConfigError: for anything else.
    """
    found = re.fullmatch(r"(?:(\d+) +)?(\w+?)s?", step) if isinstance(step, str) else None
    if found and found[2] in UNITS:
        return int(found[1] or 1) * UNITS[found[2]]
    if isinstance(step, (int, float)) and not isinstance(step, bool) and math.isfinite(step):
        return float(step)
    raise ConfigError(
        f"column '{name}': step={step!r} must be {', '.join(UNITS)}, several of them such as '7 days', or "
        "seconds"
    )


def time_step(levels: np.ndarray, said: Any, name: str) -> tuple[float, float]:
    """Step and offset, in seconds, of distinct times, rising: that of all differences, if they are so many
    that chance would not give it, else the largest unit that all are whole multiples of.

    Differences of n times at random have a common divisor of k units or more with probability about
    :math:`k^{2-n}`.

    Arguments:
        levels: in seconds, ``(n,)``. said: the step, if the user said it. name: of the column, for messages.
    """
    micro = np.round(levels * 1e6).astype(np.int64)
    if said is not None:
        step = seconds_of_step(said, name)
    else:
        step = next(s for s in UNITS.values() if not (micro % round(s * 1e6)).any())
        common = int(np.gcd.reduce(np.diff(micro))) / 1e6 if len(levels) > 1 else step
        if (len(levels) - 2) * math.log(common / step) > _SURE:
            step = common
    every = round(step * 1e6)
    return step, float(levels[0]) if every and micro[0] % every else 0.0


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
