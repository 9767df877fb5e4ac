"""What there is to say of rows of numbers: cells that are none, columns alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modeflow.data.columns.base import shown
from modeflow.data.columns.frames import cells_of
from modeflow.data.spread import mean_and_spread
from modeflow.errors import DataError

__all__ = ["independent_gaussians", "no_number", "numbers_of_cells"]


def independent_gaussians(train: np.ndarray, rows: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    r"""Log-density of rows under a Gaussian of independent columns, fitted to the training rows.

    .. math:: \log p(x) = -\sum_d \Big[\frac{(x_d - m_d)^2}{2 s_d^2} + \log s_d + \tfrac12 \log 2\pi\Big]

    Arguments:
        train: ``(N, D)``. rows: ``(M, D)``. weight: of the training rows, ``(N,)``; equal if None.

    Returns:
        nats, shape ``(M,)``.
    """
    mean, scale = mean_and_spread(train, weight)
    z = (rows - mean) / scale
    return np.asarray(-(0.5 * z**2 + np.log(scale) + 0.5 * math.log(2 * math.pi)).sum(1))


def numbers_of_cells(values: Any, name: str) -> np.ndarray:
    """A column of numbers, ``(N,)``, NaN where missing (`DataError` for anything else)."""
    cells = cells_of(values, name)
    cells.check(name)
    strange = cells.bad
    if cells.kind == "time":
        strange = ~cells.missing
    elif cells.objects is not None:  # of several types
        strange = np.array([v is not None and type(v) not in (int, float) for v in cells.objects])
    if strange is not None and strange.any():
        row = int(strange.argmax())
        raise DataError(f"column '{name}', data row {row + 1} holds {shown(cells.said(row))}, not a number")
    return cells.numbers


def no_number(values: Sequence[Any]) -> Any:
    """The first of some values that is no number."""
    for value in values:
        try:
            float(value)
        except (TypeError, ValueError):
            return value
    return values[0]
