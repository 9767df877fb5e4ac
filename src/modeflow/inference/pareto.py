r"""The tail of importance weights: a generalised Pareto distribution fitted to the largest of them.

Weights w = p̃/q have a mean wherever q covers p, but a variance only where their tail is light. The tail is
that of a generalised Pareto distribution, whose shape k says how many moments there are: fewer than 1/k.
Above k = 0.7 estimates by importance sampling converge too slowly to be of use.

Reference:
    Zhang and Stephens, *A New and Efficient Estimation Method for the Generalized Pareto Distribution*,
    Technometrics, 2009; Vehtari, Simpson, Gelman, Yao, Gabry, *Pareto Smoothed Importance Sampling*, 2015,
    https://arxiv.org/abs/1507.02646
"""

from __future__ import annotations

import math

import numpy as np

from modeflow.errors import ConfigError

__all__ = ["RELIABLE_K", "fit_pareto", "smooth_log_weights"]

#: The shape above which estimates are not to be trusted.
RELIABLE_K = 0.7
#: Fewer large weights than this say nothing of a tail.
_FEWEST = 5


def fit_pareto(excess: np.ndarray, weakly_informed: bool = True) -> tuple[float, float]:
    r"""Shape k and scale σ of a generalised Pareto distribution, from draws above its threshold.

    .. math:: p(y) = \frac1\sigma \Big(1 + \frac{k y}{\sigma}\Big)^{-1/k - 1}

    The posterior mean of Zhang and Stephens under their prior of data's own scale, by a sum over a grid of
    :math:`\theta = -k / \sigma`.

    Arguments:
        excess: draws, positive, ``(n,)``.
        weakly_informed: draw k to 1/2 by the weight of ten draws, as Vehtari et al. do.

    Raises:
        ConfigError: fewer than five draws, or some that are not above zero.
    """
    y = np.sort(np.asarray(excess, dtype=np.float64))
    n = len(y)
    if n < _FEWEST or not (y[0] > 0 and np.isfinite(y[-1])):
        raise ConfigError(f"a Pareto fit needs {_FEWEST} finite draws above 0 or more, received {n}")
    points = 30 + math.isqrt(n)
    quartile = y[int(n / 4 + 0.5) - 1]
    steps = 1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))
    theta = 1 / y[-1] + steps / (3 * quartile)
    k = np.log1p(-theta[:, None] * y).mean(1)
    # θ = 0, where k is zero too, is the exponential: its likelihood is the limit.
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.where(np.abs(theta) > 1e-12 / y[-1], np.log(-theta / k), -math.log(y.mean()))
    profile = n * (level - k - 1)
    weight = np.exp(profile - profile.max())
    mean = float((weight * theta).sum() / weight.sum())
    shape = float(np.log1p(-mean * y).mean())
    scale = -shape / mean if abs(mean) > 1e-12 / y[-1] else float(y.mean())
    if weakly_informed:
        shape = (n * shape + 5) / (n + 10)
    return shape, scale


def smooth_log_weights(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Replace the largest weights by what the Pareto distribution fitted to them expects, in their order.

    The tail is the largest min(S/5, 3 √S) of S weights; none becomes larger than the largest.

    Arguments:
        log_weights: ``(S,)``; -inf for draws outside the target.

    Returns:
        the logarithms of the smoothed weights ``(S,)``, which are as large as they were but for the tail, and
        k: -inf where the weights are all equal, inf where a handful holds them all.
    """
    logs = np.asarray(log_weights, dtype=np.float64).copy()
    size = len(logs)
    tail = math.ceil(min(size / 5, 3 * math.sqrt(size)))
    top = float(logs.max(initial=-math.inf))
    if tail < _FEWEST or not math.isfinite(top):
        return logs, math.inf
    order = np.argsort(logs, kind="stable")
    # The threshold is the largest weight that is not in the tail.
    threshold = max(math.exp(logs[order[-tail - 1]] - top), np.finfo(float).tiny)
    inside = order[-tail:]
    excess = np.exp(logs[inside] - top) - threshold
    if np.ptp(logs) <= 1e-9:  # q is the target
        return logs, -math.inf
    inside, excess = inside[excess > 0], excess[excess > 0]
    if len(excess) < _FEWEST:
        return logs, math.inf
    shape, scale = fit_pareto(excess)
    if not math.isfinite(shape):
        return logs, math.inf
    level = (np.arange(len(excess)) + 0.5) / len(excess)
    expected = scale * np.expm1(-shape * np.log1p(-level)) / shape if shape else -scale * np.log1p(-level)
    logs[inside] = np.minimum(np.log(expected + threshold), 0.0) + top
    return logs, shape
