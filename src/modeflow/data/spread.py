"""Mean and standard deviation of columns in any unit."""

from __future__ import annotations

import numpy as np

__all__ = ["LARGEST", "are_single", "mean_and_spread", "single_slack"]

#: Sums and differences of numbers within it stay finite; those beyond are refused.
LARGEST = 1e300


def mean_and_spread(values: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column, without an overflow on the way.

    The squares of values beyond 1e154, or below 1e-154, are no doubles: they are taken of values in units of
    the largest.

    Arguments:
        values: finite, ``(N, D)`` or ``(N,)``. weight: of the rows, ``(N,)``; equal if None.

    Returns:
        both of shape ``(D,)`` (or numbers).
    """
    unit = np.abs(values).max(0)
    unit = np.where(unit > 0, unit, 1.0)
    mean = np.average(values / unit, axis=0, weights=weight) * unit
    far = values - mean
    most = np.abs(far).max(0)
    most = np.where(most > 0, most, 1.0)
    return mean, most * np.sqrt(np.average((far / most) ** 2, axis=0, weights=weight))


def are_single(values: np.ndarray) -> bool:
    """Whether numbers are all of single precision."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float32), values))


def single_slack(numbers: np.ndarray) -> np.ndarray:
    """How far rounding to single precision can move numbers: not at all where they are beyond its range."""
    size = np.abs(np.asarray(numbers, dtype=np.float64))
    within = size <= float(np.finfo(np.float32).max)
    spacing = np.spacing(np.where(within, size, 1.0).astype(np.float32)).astype(np.float64)
    return np.where(within, spacing, 0.0)
