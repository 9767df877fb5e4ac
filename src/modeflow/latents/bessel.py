r"""Modified Bessel functions where von Mises–Fisher needs them: in log-space, with their derivatives.

.. math:: A_m(\kappa) = I_{m/2}(\kappa) / I_{m/2-1}(\kappa), \qquad
    A_m' = 1 - A_m^2 - \tfrac{m-1}{\kappa} A_m, \qquad
    \frac{d}{d\kappa} \log C_m(\kappa) = -A_m(\kappa)

For κ far above m² the slope is a difference of numbers near one: there
:math:`A_m = \sum_j c_j \kappa^{-j}` with :math:`c_0 = 1` and, from the equation of the slope,
:math:`2 c_j = (j - m)\, c_{j-1} - \sum_{i=1}^{j-1} c_i c_{j-i}`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["log_iv", "log_vmf_normaliser", "mean_length"]

#: Terms of the series where the scaled function underflows, and below which it is taken for that.
_TERMS, _TINY = 400, 1e-280
#: κ / m below which A is its series: there 1 - A² - (m - 1) A / κ loses all digits.
_SMALL = 1e-3
#: κ / m² above which A is its series in 1/κ, and terms of that.
_LARGE, _FAR_TERMS = 5.0, 14


def log_iv(order: float, kappa: Tensor) -> Tensor:
    r"""``log I_v(κ)`` for κ > 0, float64, by the exponentially scaled function; without a derivative.

    Where that underflows, for κ far below v, by the series ``(κ/2)^v / Γ(v+1) Σ_k (κ²/4)^k / (k! (v+1)_k)``.
    """
    return _log_scaled(order, kappa) + kappa.detach().double()


def _log_scaled(order: float, kappa: Tensor) -> Tensor:
    """``log(e^{-κ} I_v(κ))``: ratios of these lose nothing where κ is large."""
    from scipy.special import ive

    x = kappa.detach().double().cpu().numpy()
    scaled = ive(order, x)
    usual = scaled > _TINY
    out = np.log(np.where(usual, scaled, 1.0))
    if not usual.all():
        small = x[~usual]
        term, total = np.ones_like(small), np.ones_like(small)
        for k in range(1, _TERMS):
            term = term * (0.25 * small * small) / (k * (order + k))
            total = total + term
        out[~usual] = order * np.log(small / 2) - math.lgamma(order + 1) + np.log(total) - small
    return torch.from_numpy(np.asarray(out)).to(kappa.device)


def _far(kappa: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """A and its slope for κ far above m², by the series in 1/κ."""
    c = [1.0]
    for j in range(1, _FAR_TERMS):
        c.append(0.5 * ((j - features) * c[-1] - sum(c[i] * c[j - i] for i in range(1, j))))
    length, slope = torch.zeros_like(kappa), torch.zeros_like(kappa)
    for j in reversed(range(_FAR_TERMS)):
        length, slope = length / kappa + c[j], slope / kappa - j * c[j]
    return length, slope / kappa


class _MeanLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, features: int) -> Tensor:
        ratio = torch.exp(_log_scaled(0.5 * features, kappa) - _log_scaled(0.5 * features - 1, kappa))
        large = kappa > _LARGE * features**2
        ratio = torch.where(large, _far(kappa, features)[0], ratio)
        # κ/m (1 - κ²/(m (m+2)) + ...): to the last digits where κ is small.
        series = kappa / features * (1 - kappa.square() / (features * (features + 2.0)))
        small = kappa < _SMALL * features
        length = torch.where(small, series, ratio)
        ctx.save_for_backward(kappa, length)
        ctx.features = features
        return length

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        kappa, length = ctx.saved_tensors
        m = ctx.features
        slope = 1 - length.square() - (m - 1) * length / kappa
        slope = torch.where(kappa > _LARGE * m**2, _far(kappa, m)[1], slope)
        small = (1 - 3 * kappa.square() / (m * (m + 2.0))) / m
        return gradient * torch.where(kappa < _SMALL * m, small, slope), None


class _LogNormaliser(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, features: int) -> Tensor:
        ctx.save_for_backward(kappa)
        ctx.features = features
        order = 0.5 * features - 1
        value = order * torch.log(kappa) - 0.5 * features * math.log(2 * math.pi) - log_iv(order, kappa)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kappa,) = ctx.saved_tensors
        return -gradient * mean_length(kappa, ctx.features), None


def mean_length(kappa: Tensor, features: int) -> Tensor:
    """``A_m(κ)``, the length of the mean of von Mises–Fisher in m dimensions; float64, twice differentiable.

    Arguments:
        kappa: κ > 0. features: m.
    """
    length: Tensor = _MeanLength.apply(kappa.double(), features)
    return length


def log_vmf_normaliser(kappa: Tensor, features: int) -> Tensor:
    r"""``log C_m(κ)``, by which ``C_m e^{κ μ·z}`` is a density on the sphere; float64, differentiable.

    .. math:: \log C_m = (\tfrac m2 - 1) \log\kappa - \tfrac m2 \log 2\pi - \log I_{m/2-1}(\kappa)
    """
    value: Tensor = _LogNormaliser.apply(kappa.double(), features)
    return value
