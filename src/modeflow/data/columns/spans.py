"""Durations and periods: numbers (seconds, and places counted from 1970) that are given back as they were.

A duration of any frame is read in seconds. A period of pandas (a month, a week) is its ordinal, the number of
periods since that of January 1, 1970: whole numbers, so that every period has a probability of its own.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from modeflow.data.columns.dtypes import portable

__all__ = ["largest_span", "of_span", "period_of", "seconds_of_spans", "span_unit", "spans_of"]

#: Units of numpy and frames, in a second.
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
#: The largest double that is a whole number of 64 bits.
_LAST = float(np.nextafter(2.0**63, 0))
_NAT = np.iinfo(np.int64).min


def seconds_of_spans(spans: np.ndarray) -> np.ndarray:
    """Seconds of numpy's durations, NaN for NaT."""
    unit = np.datetime_data(spans.dtype)[0]
    if unit not in _PER_SECOND:
        spans, unit = spans.astype("timedelta64[s]"), "s"
    counted = spans.astype(np.int64).astype(np.float64) / _PER_SECOND[unit]
    return np.where(np.isnat(spans), np.nan, counted)


def span_unit(dtype: str) -> str:
    """The unit of a type of durations of any frame; microseconds where it has none."""
    found = re.search(r"\b(s|ms|us|ns)\b", dtype)
    return found[1] if found else "us"


def spans_of(seconds: np.ndarray, dtype: str) -> np.ndarray:
    """numpy's durations of seconds, in the unit of a type; NaT for NaN."""
    unit = span_unit(dtype)
    absent = np.isnan(seconds)
    counted = np.clip(np.round(np.where(absent, 0.0, seconds) * _PER_SECOND[unit]), -_LAST, _LAST)
    spans = counted.astype(np.int64).astype(f"timedelta64[{unit}]")
    spans[absent] = np.array("NaT", dtype=spans.dtype)
    return spans


def largest_span(dtype: str) -> float | None:
    """The largest number that a type of durations or periods holds; None for another type."""
    kind = portable(dtype)
    if kind == "duration":
        return _LAST / _PER_SECOND[span_unit(dtype)]
    return _LAST if kind == "period" else None


def period_of(numbers: np.ndarray, dtype: str) -> Any:
    """A column of pandas of ordinals, ``period[M]`` or such."""
    import pandas as pd

    absent = np.isnan(numbers.astype(np.float64))
    ordinals = np.where(absent, 0, numbers).astype(np.int64)
    ordinals[absent] = _NAT
    kind = pd.PeriodDtype(dtype.removeprefix("period[").removesuffix("]"))
    return pd.Series(pd.arrays.PeriodArray(ordinals, dtype=kind))


def of_span(number: float, dtype: str) -> Any:
    """A duration or period as its user knows it; None for another type."""
    if portable(dtype) == "duration":
        return spans_of(np.array([number]), "us").item()
    return period_of(np.array([number]), dtype)[0] if portable(dtype) == "period" else None
