"""Times as months of the calendar: whole numbers since January 1970, at one place within their month.

The place is a number of seconds from the first of the month; a day that a month does not have is its last
one, so that the 31st stands for ends of months.
"""

from __future__ import annotations

import numpy as np

__all__ = ["months_of", "phase_of_months", "seconds_of_months"]

_DAY = 86400.0


def phase_of_months(seconds: np.ndarray) -> np.ndarray:
    """The one place within their months of all times, seconds since 1970 ``(N,)``, none missing: that of the
    latest day. ``(N,)``, all alike."""
    first, _ = _month(_calendar(seconds))
    return np.full(len(seconds), (seconds - first).max())


def months_of(seconds: np.ndarray, phase: float) -> np.ndarray:
    """Months since January 1970, ``(N,)``: whole where a time has this place in its month, linear between."""
    known = ~np.isnan(seconds)
    seconds = np.where(known, seconds, 0.0)
    numbers = _calendar(seconds)
    numbers -= seconds < _place(numbers, phase)
    first = _place(numbers, phase)
    return np.where(known, numbers + (seconds - first) / (_place(numbers + 1, phase) - first), np.nan)


def seconds_of_months(months: np.ndarray, phase: float) -> np.ndarray:
    """Seconds since 1970 of months, ``(N,)``: what `months_of` undoes."""
    known = ~np.isnan(months)
    numbers = np.floor(np.where(known, months, 0.0))
    first = _place(numbers, phase)
    return np.where(known, first + (months - numbers) * (_place(numbers + 1, phase) - first), np.nan)


def _calendar(seconds: np.ndarray) -> np.ndarray:
    """The number of the month that each time lies in."""
    micro = np.round(seconds * 1e6).astype(np.int64).astype("datetime64[us]")
    return micro.astype("datetime64[M]").astype(np.int64).astype(np.float64)


def _month(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since 1970 at which months begin, and their days."""
    month = numbers.astype(np.int64).astype("datetime64[M]")
    first = month.astype("datetime64[D]").astype(np.int64)
    after = (month + 1).astype("datetime64[D]").astype(np.int64)
    return first * _DAY, (after - first).astype(np.float64)


def _place(numbers: np.ndarray, phase: float) -> np.ndarray:
    """Seconds since 1970 of the place in months of these numbers."""
    first, length = _month(numbers)
    day = np.floor(phase / _DAY)
    return np.asarray(first + np.minimum(day, length - 1) * _DAY + (phase - day * _DAY))
