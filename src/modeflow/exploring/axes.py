"""A column as an axis: where its cells lie, which are shown, and where a density is looked at."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modeflow.data.columns import Feature
from modeflow.errors import DataError, nearest

__all__ = ["LEVELS_SHOWN", "Axis", "axis_of"]

#: Levels that have a place on an axis, the most frequent ones; labels along an axis of times.
LEVELS_SHOWN, _LABELS = 40, 5
#: Share of a range that is left free at its ends.
_MARGIN = 0.04
#: Width of the noise that parts the rows of one level.
_JITTER = 0.6

#: Numbers of a column, as the model has them, as text; and a time that a reader writes as such a number.
Labels = Callable[[np.ndarray], list[str]]
Read = Callable[[str], float]


@dataclass(frozen=True)
class Axis:
    """A column to look along.

    Attributes:
        feature: what the column is. codes: levels that have a place, in their order; empty for numbers.
        low, high: ends of the numbers that are shown. labels: encoded cells as text. read: times from text.
        seen: encoded cells of rows, ``(N,)``, but single values that have a probability of their own, which
            is no part of the density around them.
    """

    feature: Feature
    codes: tuple[int, ...]
    low: float
    high: float
    labels: Labels
    read: Read
    seen: np.ndarray

    @property
    def name(self) -> str:
        """Of the column."""
        return self.feature.name

    @property
    def is_time(self) -> bool:
        """Whether its numbers are seconds or months, which nobody reads."""
        return self.feature.kind == "datetime" and not self.codes

    def places(self, values: np.ndarray) -> np.ndarray:
        """Where encoded cells lie, ``(N,)``: NaN for missing ones and levels that are not shown."""
        if not self.codes:
            return np.where(np.isfinite(values), values, math.nan)
        place = {code: float(i) for i, code in enumerate(self.codes)}
        return np.array([place.get(int(v), math.nan) if math.isfinite(v) else math.nan for v in values])

    def jittered(self, values: np.ndarray, seed: int) -> np.ndarray:
        """`places`, with noise where many rows share a place; the same each time."""
        places = self.places(values)
        step = 1.0 if self.codes else self.feature.step
        if not self.codes and (step <= 0 or (self.high - self.low) / step > LEVELS_SHOWN):
            return places
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, len(places))
        return np.asarray(places + _JITTER * step * noise)

    @property
    def range(self) -> tuple[float, float]:
        """Ends of the axis."""
        if self.codes:
            return -0.6, len(self.codes) - 0.4
        free = _MARGIN * (self.high - self.low) or 1.0
        return self.low - free, self.high + free

    @property
    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Places and words of labels; None where numbers speak for themselves."""
        if self.codes:
            return list(map(float, range(len(self.codes)))), self.labels(np.array(self.codes, dtype=float))
        if not self.is_time:
            return None
        at = np.linspace(self.low, self.high, _LABELS)
        return at.tolist(), self.labels(at)

    def grid(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Encoded cells at which a density is looked at, and where these are drawn, ``(G,)`` each: all that
        are shown where they are few, else one for every piece of the axis.

        On a lattice that is the most frequent value of the piece: where rows heap up at whole years, nobody
        is helped by the probability of a quarter past.
        """
        if self.codes:
            codes = np.array(self.codes, dtype=np.float64)
            return codes, self.places(codes)
        step, offset = self.feature.step, self.feature.offset
        if step > 0:
            first, last = (round((end - offset) / step) for end in (self.low, self.high))
            if last - first < most:
                every = offset + step * np.arange(first, last + 1, dtype=np.float64)
                return every, every
        edges = np.linspace(self.low, self.high, most + 1)
        middle = (edges[1:] + edges[:-1]) / 2
        at = middle.copy()
        if step > 0:
            at = offset + step * np.round((middle - offset) / step)
            values, counts = np.unique(self.seen, return_counts=True)
            starts = np.searchsorted(values, edges)
            starts[-1] = len(values)
            for i, (start, end) in enumerate(itertools.pairwise(starts)):
                if start < end:
                    frequent = values[start:end][counts[start:end] == counts[start:end].max()]
                    at[i] = frequent[np.abs(frequent - middle[i]).argmin()]
        return at, middle

    def between(self, first: str, last: str, values: np.ndarray) -> np.ndarray:
        """Which encoded cells lie between two values as written, ``(N,)``; an empty one is no limit.

        Raises:
            DataError: a text that is no value of the column.
        """
        places = self.places(values)
        low = -math.inf if not first.strip() else self._read(first)
        high = math.inf if not last.strip() else self._read(last)
        low, high = min(low, high), max(low, high)
        return np.asarray((places >= low) & (places <= high))

    def _read(self, text: str) -> float:
        """The place that a text names."""
        text = text.strip()
        if self.codes:
            at, words = self.ticks or ([], [])
            if text not in words:
                raise DataError(f"'{text}' is no level of {self.name} that is shown{nearest(text, words)}")
            return at[words.index(text)]
        if self.is_time:
            return self.read(text)
        try:
            return float(text)
        except ValueError:
            raise DataError(f"{self.name} is a number, received '{text}'") from None


def axis_of(feature: Feature, columns: Sequence[np.ndarray], labels: Labels, read: Read) -> Axis:
    """The axis on which rows are shown.

    Arguments:
        feature: of the column. columns: its encoded cells in rows and in samples, ``(N,)`` each, of which the
            first decides how far the axis goes. labels, read: see `Axis`.
    """
    known: list[Any] = [values[np.isfinite(values)] for values in columns]
    together = np.concatenate(known)
    around = together[~np.isin(together, feature.atoms)]
    if feature.levels:
        counts = np.bincount(together.astype(np.int64), minlength=feature.levels)
        codes = np.sort(np.argsort(-counts, kind="stable")[:LEVELS_SHOWN])
        return Axis(
            feature, tuple(int(code) for code in codes), 0.0, float(feature.levels - 1), labels, read, around
        )
    seen = known[0] if len(known[0]) else together
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 1.0)
    for values in known[1:]:
        if len(values):
            low = min(low, float(np.quantile(values, 0.005)))
            high = max(high, float(np.quantile(values, 0.995)))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return Axis(feature, (), low, high, labels, read, around)
