r"""Angles to the pole of a sphere, drawn by their distribution function, differentiably.

On the sphere in m dimensions a density that depends on the angle θ to a mean direction alone, an exponential
family ``exp(κ s(θ))`` with one concentration κ, gives the angle the density

.. math:: g(\theta; \kappa) \propto \sin^{m-2}\theta\; e^{\kappa s(\theta)}, \qquad \theta \in [0, \pi]

A draw is ``θ = G^{-1}(u; κ)`` of a uniform u: one number a row, so that a draw is a smooth function of the
noise. With u held, G(θ; κ) = u gives its derivative without one of the inverse,

.. math:: \frac{d\theta}{d\kappa} = -\frac{\partial G / \partial \kappa}{g} = -\int_0^\theta \big(s(t) -
    E s\big) \frac{g(t)}{g(\theta)}\, dt = \int_\theta^\pi \big(s(t) - E s\big) \frac{g(t)}{g(\theta)}\, dt

in which the normaliser cancels. Both integrals are smooth in every dimension, and Gauss–Legendre nodes on
the part where g is not negligible give them to about twelve digits; all is in float64. In three dimensions,
where the sine in g is the derivative of the cosine, G⁻¹ and its derivative have closed forms, hundreds of
times as fast.

Reference:
    Figurnov, Mohamed, Mnih, *Implicit Reparameterization Gradients*, 2018, https://arxiv.org/abs/1805.08498
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modeflow.latents.bessel import mean_length

__all__ = ["Cosine", "LogCosine", "Tilt", "draw_angle"]

#: Nats below the mode beyond which g counts as nothing.
_NEGLIGIBLE = 42.0
#: Halvings that find where that is; panels between, and nodes in each; Newton's steps in one.
_HALVINGS, _PANELS, _NODES, _STEPS = 40, 24, 8, 16
#: Nodes of the integral in the derivative.
_FINE = 64
#: Near π a power of π - θ that is no whole number is all there may be of g: integrals are over x, with
#: ``θ = end - (end - start) (1 - x)^p``, in which it is smoother.
_POWER, _FINE_POWER = 2, 4


class Tilt(ABC):
    """What a concentration multiplies: s(θ), its mean, and the mode of g."""

    @staticmethod
    @abstractmethod
    def statistic(angle: Tensor) -> Tensor:
        """s(θ)."""

    @staticmethod
    @abstractmethod
    def mean(kappa: Tensor, features: int) -> Tensor:
        """E s, ``(B,)``."""

    @staticmethod
    @abstractmethod
    def mode(kappa: Tensor, features: int) -> Tensor:
        """The angle at which g is largest."""

    @staticmethod
    @abstractmethod
    def on_globe(uniform: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``1 - cos θ`` and ``1 + cos θ`` at ``θ = G^{-1}(u; κ)`` in three dimensions, each to its digits,
        and the derivative of the first by κ."""


class Cosine(Tilt):
    """``s = cos θ``: von Mises–Fisher."""

    @staticmethod
    def statistic(angle: Tensor) -> Tensor:
        return torch.cos(angle)

    @staticmethod
    def mean(kappa: Tensor, features: int) -> Tensor:
        return mean_length(kappa, features)

    @staticmethod
    def mode(kappa: Tensor, features: int) -> Tensor:
        # κ sin² = (m - 2) cos
        free = features - 2.0
        return torch.acos((2 * kappa / (free + (free * free + 4 * kappa.square()).sqrt())).clamp_max(1))

    @staticmethod
    def on_globe(uniform: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # cos θ is exponential on [-1, 1], of rate κ, from either end.
        rest, near = 1 - uniform, kappa < 50
        shrunk, grown = torch.exp(-2 * kappa), torch.exp((2 * kappa).clamp_max(100.0))
        fall = -torch.log1p(uniform * torch.expm1(-2 * kappa)) / kappa
        rise = torch.log1p(rest * torch.expm1((2 * kappa).clamp_max(100.0))) / kappa
        slope = (2 * uniform * shrunk / (rest + uniform * shrunk) - fall) / kappa
        other = (rise - 2 * rest * grown / (uniform + rest * grown)) / kappa
        slope = torch.where(near & (uniform > 0.5), other, slope)
        return fall, torch.where(near, rise, (2 - fall).clamp_min(0)), slope


class LogCosine(Tilt):
    """``s = log(1 + cos θ)``: power spherical."""

    @staticmethod
    def statistic(angle: Tensor) -> Tensor:
        # 1 + cos θ = 2 cos²(θ/2), which loses no digits near π.
        return math.log(2) + 2 * torch.log(torch.cos(0.5 * angle).clamp_min(1e-300))

    @staticmethod
    def mean(kappa: Tensor, features: int) -> Tensor:
        half = 0.5 * (features - 1)
        return math.log(2) + torch.digamma(half + kappa) - torch.digamma(2 * half + kappa)

    @staticmethod
    def mode(kappa: Tensor, features: int) -> Tensor:
        return torch.acos((kappa / (features - 2.0 + kappa)).clamp_max(1))

    @staticmethod
    def on_globe(uniform: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # (1 + cos θ) / 2 is of a Beta(1 + κ, 1), a power of a uniform number.
        log_t = torch.log1p(-uniform) / (1 + kappa)
        rise = 2 * log_t.exp()
        return -2 * torch.expm1(log_t), rise, rise * log_t / (1 + kappa)


def draw_angle(uniform: Tensor, kappa: Tensor, features: int, tilt: type[Tilt]) -> Tensor:
    """``G^{-1}(u; κ)``, differentiable in κ (once), ``(B,)``.

    Arguments:
        uniform: u, strictly between 0 and 1. kappa: κ > 0, ``(B,)``. features: m. tilt: s.
    """
    angle: Tensor = _Angle.apply(uniform.double(), kappa.double(), features, tilt)
    return angle


class _Angle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, uniform: Tensor, kappa: Tensor, features: int, tilt: type[Tilt]) -> Tensor:
        slope = None
        if features == 3:
            fall, rise, by_kappa = tilt.on_globe(uniform, kappa)
            angle = 2 * torch.atan2(fall.sqrt(), rise.sqrt())
            slope = by_kappa / (fall * rise).sqrt().clamp_min(1e-150)
        else:
            angle = _invert(uniform, kappa, features, tilt)
        ctx.save_for_backward(angle, kappa, slope)
        ctx.features, ctx.tilt = features, tilt
        return angle

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
        angle, kappa, slope = ctx.saved_tensors
        if slope is None:
            slope = _slope(angle, kappa, ctx.features, ctx.tilt)
        return None, gradient * slope, None, None


def _log_g(angle: Tensor, kappa: Tensor, features: int, tilt: type[Tilt]) -> Tensor:
    """log g but for its normaliser."""
    sine = torch.sin(angle).abs()  # of a rounded π it may be negative
    power = torch.full((), features - 2.0, dtype=angle.dtype, device=angle.device)
    return torch.xlogy(power, sine.clamp_min(1e-300)) + kappa * tilt.statistic(angle)


def _reach(kappa: Tensor, features: int, tilt: type[Tilt]) -> tuple[Tensor, Tensor, Tensor]:
    """The mode, and the angles below and above it from which on g counts as nothing."""
    mode = tilt.mode(kappa, features)
    top = _log_g(mode, kappa, features, tilt)
    ends = []
    for end in (torch.zeros_like(mode), torch.full_like(mode, math.pi)):
        near, far = mode, end
        for _ in range(_HALVINGS):
            middle = 0.5 * (near + far)
            counts = top - _log_g(middle, kappa, features, tilt) < _NEGLIGIBLE
            near, far = torch.where(counts, middle, near), torch.where(counts, far, middle)
        ends.append(far)
    return mode, ends[0], ends[1]


@functools.cache
def _legendre(nodes: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and weights that add up to one."""
    places, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((places + 1) / 2), torch.from_numpy(weights / 2)


def _integral(low: Tensor, high: Tensor, function: Any, nodes: int) -> Tensor:
    """The integral of a function of ``(..., nodes)`` from `low` to `high`, ``(...,)``."""
    places, weights = (each.to(low.device) for each in _legendre(nodes))
    width = (high - low).unsqueeze(-1)
    total: Tensor = (function(low.unsqueeze(-1) + width * places) * weights).sum(-1) * width.squeeze(-1)
    return total


def _towards(x: Tensor, start: Tensor, end: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """``θ = end - (end - start) (1 - x)^p``, and its derivative by x."""
    width = end - start
    return end - width * (1 - x) ** power, power * width * (1 - x) ** (power - 1)


def _invert(uniform: Tensor, kappa: Tensor, features: int, tilt: type[Tilt]) -> Tensor:
    """The angle at which the distribution function is u: a panel, then Newton's steps held within it."""
    mode, low, high = _reach(kappa, features, tilt)
    top = _log_g(mode, kappa, features, tilt)
    steps = torch.linspace(0, 1, _PANELS + 1, dtype=low.dtype, device=low.device)
    edges = steps.expand(len(low), -1)

    def density(x: Tensor) -> Tensor:
        shape = (-1, *(1,) * (x.dim() - 1))
        angle, slope = _towards(x, low.view(shape), high.view(shape), _POWER)
        return slope * torch.exp(_log_g(angle, kappa.view(shape), features, tilt) - top.view(shape))

    masses = _integral(edges[:, :-1], edges[:, 1:], density, _NODES)
    below = torch.cat([torch.zeros_like(low).unsqueeze(-1), masses.cumsum(-1)], -1)
    wanted = uniform * below[:, -1]
    panel = (torch.searchsorted(below, wanted.unsqueeze(-1)) - 1).clamp(0, _PANELS - 1)
    first, last = edges.gather(1, panel).squeeze(-1), edges.gather(1, panel + 1).squeeze(-1)
    rest = wanted - below.gather(1, panel).squeeze(-1)
    start, near, far = first, first, last
    share = rest / masses.gather(1, panel).squeeze(-1).clamp_min(1e-300)
    x = first + (last - first) * share.clamp(0, 1)
    for _ in range(_STEPS):
        excess = _integral(start, x, density, _NODES) - rest
        near, far = torch.where(excess < 0, x, near), torch.where(excess < 0, far, x)
        step = x - excess / density(x.unsqueeze(-1)).squeeze(-1).clamp_min(1e-300)
        x = torch.where((step >= near) & (step <= far), step, 0.5 * (near + far))
    return _towards(x, low, high, _POWER)[0]


def _slope(angle: Tensor, kappa: Tensor, features: int, tilt: type[Tilt]) -> Tensor:
    """dθ/dκ with u held, by the integral on that side of θ on which g falls."""
    mode, low, high = _reach(kappa, features, tilt)
    here = _log_g(angle, kappa, features, tilt).unsqueeze(-1)
    mean = tilt.mean(kappa, features).unsqueeze(-1)

    before = angle < mode
    start, end = torch.where(before, low, angle), torch.where(before, angle, high)
    start = torch.minimum(start, end).unsqueeze(-1)

    def integrand(x: Tensor) -> Tensor:
        t, slope = _towards(x, start, end.unsqueeze(-1), _FINE_POWER)
        ratio = torch.exp(_log_g(t, kappa.unsqueeze(-1), features, tilt) - here)
        return (tilt.statistic(t) - mean) * ratio * slope

    total = _integral(torch.zeros_like(angle), torch.ones_like(angle), integrand, _FINE)
    return torch.where(before, -total, total)
