"""Mean and standard deviation of columns in any unit."""

from __future__ import annotations

import numpy as np

__all__ = ["mean_and_spread"]


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
