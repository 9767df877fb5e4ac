"""A fitted density beside one that anybody can write down: worse than that, it is not worth its name."""

from __future__ import annotations

import math
import warnings

import numpy as np

from modeflow.data.spread import mean_and_spread
from modeflow.estimators.fitting import FitData
from modeflow.metrics import BitsPerDim, summarise

__all__ = ["independent_gaussians", "warn_worse_than_gaussians", "warn_worse_than_uniform"]

#: A density is called worse where the difference exceeds so many of its standard errors (by chance: 2 %).
_ERRORS = 2.0
#: ... and so many nats a column, or bits a dimension: what a flow loses on data that are Gaussian is less.
_LEAST = 0.01


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


def warn_worse_than_gaussians(data: FitData, seed: int, log_prob: np.ndarray) -> None:
    """Warn where validation rows are likelier under Gaussians of independent columns than under the model.

    Arguments:
        data: what was fitted. seed: of the fit, by which its rows were dequantised.
        log_prob: of the validation rows under the model, nats, ``(M,)``.

    Warns:
        UserWarning: with the difference and its standard error.
    """
    train = data.schema.dequantize(data.train, np.random.default_rng(seed))
    rows = data.noisy_validation(seed + 1).numpy()
    difference = independent_gaussians(train, rows, data.weight) - log_prob
    mean = summarise(difference, "exact", data.validation_weight)
    _warn(
        mean.value,
        mean.standard_error,
        _LEAST * rows.shape[1],
        "Gaussians of independent columns",
        "nats per validation row: train for longer (max_epochs), with another flow, or on more rows",
    )


def warn_worse_than_uniform(bits: BitsPerDim, levels: int) -> None:
    """Warn where the bits of validation images exceed those of pixels that are uniform over their levels.

    Warns:
        UserWarning: with the difference and its standard error.
    """
    _warn(
        bits.value - math.log2(levels),
        bits.standard_error,
        _LEAST,
        f"pixels drawn uniformly from their {levels} values",
        "bits per dimension: train for longer (max_epochs), with another learning_rate, or on more images",
    )


def _warn(excess: float, error: float, least: float, rival: str, unit: str) -> None:
    error = error if math.isfinite(error) else 0.0
    if not excess > max(_ERRORS * error, least):
        return
    warnings.warn(
        f"the fitted density is worse than {rival}, by {excess:.3g} ± {error:.1g} {unit}",
        UserWarning,
        stacklevel=4,
    )
