"""Which columns, rows and ranges a picture shows, and how it says what it left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modeflow.data.spread import mean_and_spread
from modeflow.errors import ShapeError

__all__ = ["as_table", "choose_columns", "frame", "subset", "valley_depth"]


def as_table(name: str, values: object, columns: int | None = None) -> np.ndarray:
    """Return `values` as a float (rows, columns) array; a vector is one column."""
    table = np.asarray(values, dtype=float)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or (columns is not None and table.shape[1] != columns):
        wanted = "(rows, columns)" if columns is None else f"(rows, {columns})"
        raise ShapeError(f"{name} has shape {table.shape}; expected {wanted}")
    return table


def as_states(name: str, states: object, rows: int) -> np.ndarray | None:
    """Return `states` as an integer vector of `rows` entries, or None."""
    if states is None:
        return None
    vector = np.asarray(states)
    if vector.shape != (rows,):
        raise ShapeError(f"{name} has shape {vector.shape}; expected ({rows},), one state per row")
    return vector.astype(int)


def valley_depth(values: np.ndarray, bins: int = 96) -> float:
    """Return how deep the deepest valley between two modes of `values` is, from 0 to 1.

    With a smoothed histogram f it is max_x [min(max_{y<x} f, max_{y>x} f) − f(x)] / max f: 0 for one
    mode, 1 for two equal modes with nothing between them.
    """
    x = values[np.isfinite(values)]
    if len(x) < 10:
        return 0.0
    low, high = np.quantile(x, [0.005, 0.995])
    if not high > low:
        return 0.0
    counts, _ = np.histogram(np.clip(x, low, high), bins=bins, range=(low, high))
    # Half of Silverman's width: with his full width, modes that stand close flow together.
    width = max(1.0, 0.5 * 1.06 * mean_and_spread(x)[1] * len(x) ** -0.2 * bins / (high - low))
    reach = int(np.ceil(4 * width))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    f = np.convolve(np.pad(counts.astype(float), reach), kernel / kernel.sum(), mode="valid")
    walls = np.minimum(np.maximum.accumulate(f), np.maximum.accumulate(f[::-1])[::-1])
    return float(np.max(walls - f) / np.max(f))


def _separation(values: np.ndarray, states: np.ndarray) -> float:
    """Return the share of the variance of `values` that lies between the states."""
    good = np.isfinite(values)
    x, z = values[good], states[good]
    if len(x) == 0 or not (spread := mean_and_spread(x)[1]) > 0:
        return 0.0
    x = (x - np.mean(x)) / spread
    between = sum(np.mean(z == k) * (np.mean(x[z == k]) - np.mean(x)) ** 2 for k in np.unique(z).tolist())
    return float(between)


def choose_columns(data: np.ndarray, states: np.ndarray | None, max_columns: int) -> tuple[list[int], str]:
    """Return the columns to draw, in their own order, and why those (empty if all are drawn)."""
    width = data.shape[1]
    if width <= max_columns:
        return list(range(width)), ""
    if states is not None and len(np.unique(states)) > 1:
        scores = [_separation(data[:, j], states) for j in range(width)]
        why = "those that the states separate most"
    else:
        scores = [valley_depth(data[:, j]) for j in range(width)]
        why = "those with the deepest valleys between modes"
    best = sorted(range(width), key=lambda j: (-round(scores[j], 4), j))[:max_columns]
    return sorted(best), f"{max_columns} of {width} columns are drawn: {why}"


def subset(table: np.ndarray, states: np.ndarray | None, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return at most `limit` rows in random order (the same ones every time)."""
    order = np.random.default_rng(0).permutation(len(table))[:limit]
    return table[order], None if states is None else states[order]


def frame(values: np.ndarray, margin: float = 0.06) -> tuple[float, float]:
    """Return the range to draw for a column: that of the data, unless a few points stretch it."""
    x = values[np.isfinite(values)]
    if len(x) == 0:
        return -1.0, 1.0
    low, high = float(np.min(x)), float(np.max(x))
    inner_low, inner_high = (float(q) for q in np.quantile(x, [0.005, 0.995]))
    if inner_high > inner_low and high - low > 3 * (inner_high - inner_low):
        low, high, margin = inner_low, inner_high, 0.25
    pad = margin * (high - low) if high > low else 0.5 * max(abs(high), 1.0)
    return low - pad, high + pad


def outside(table: np.ndarray, ranges: Sequence[tuple[float, float]]) -> int:
    """Return how many rows have a value outside the ranges (or none at all)."""
    low, high = np.asarray(ranges, dtype=float).reshape(-1, 2).T
    return int(np.sum(~np.all((table >= low) & (table <= high), axis=1)))
