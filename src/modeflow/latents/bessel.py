r"""Modified Bessel functions where von Mises–Fisher needs them: in log-space, with their derivatives.

.. math:: A_m(\kappa) = I_{m/2}(\kappa) / I_{m/2-1}(\kappa), \qquad
    A_m' = 1 - A_m^2 - \tfrac{m-1}{\kappa} A_m, \qquad
    \frac{d}{d\kappa} \log C_m(\kappa) = -A_m(\kappa)
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


def log_iv(order: float, kappa: Tensor) -> Tensor:
    r"""``log I_v(κ)`` for κ > 0, float64, by the exponentially scaled function; without a derivative.

    Where that underflows, for κ far below v, by the series ``(κ/2)^v / Γ(v+1) Σ_k (κ²/4)^k / (k! (v+1)_k)``.
    """
    from scipy.special import ive

    x = kappa.detach().double().cpu().numpy()
    scaled = ive(order, x)
    usual = scaled > _TINY
    out = np.log(np.where(usual, scaled, 1.0)) + x
    if not usual.all():
        small = x[~usual]
        term, total = np.ones_like(small), np.ones_like(small)
        for k in range(1, _TERMS):
            term = term * (0.25 * small * small) / (k * (order + k))
            total = total + term
        out[~usual] = order * np.log(small / 2) - math.lgamma(order + 1) + np.log(total)
    return torch.from_numpy(np.asarray(out)).to(kappa.device)


class _MeanLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kappa: Tensor, features: int) -> Tensor:
        ratio = torch.exp(log_iv(0.5 * features, kappa) - log_iv(0.5 * features - 1, kappa))
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
