"""Planar and radial transforms: one direction in closed form, the other by a scalar equation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.nets.mlp import start_near_zero
from modeflow.transforms.base import Transform

__all__ = ["Planar", "Radial", "solve_increasing"]


def solve_increasing(function, low: Tensor, high: Tensor, steps: int = 80) -> Tensor:  # type: ignore[no-untyped-def]
    """The root of an increasing scalar function of each row, between `low` and `high`, by bisection.

    Arguments:
        function: maps ``(B,)`` to ``(B,)``, increasing in each entry, ``<= 0`` at `low`, ``>= 0`` at `high`.
        steps: halvings; 80 exhaust float64.
    """
    for _ in range(steps):
        middle = 0.5 * (low + high)
        above = function(middle) > 0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high)


def _linear(context_features: int, outputs: int) -> nn.Linear | None:
    """From the context to changes of the parameters, small at the start; None without a context."""
    if context_features == 0:
        return None
    layer = nn.Linear(context_features, outputs, bias=False)
    start_near_zero(layer)
    return layer


class Planar(Transform):
    r"""``u = x + û tanh(w·x + b)`` with û such that the map is invertible (``w·û >= -1``).

    .. math:: \log|\det| = \log(1 + h'(w^T x + b)\, w^T \hat u), \qquad
        \hat u = v + \frac{m(w^T v) - w^T v}{|w|^2} w, \quad m(a) = -1 + \log(1 + (e - 1) e^a)

    (The paper's m has no e - 1: then m(0) is not 0, and the map is far from the identity where w is small.)
    The inverse has no closed form, but along w it is one increasing equation in one unknown, solved by
    bisection to the precision of the type; it is well posed where the slope, at least ``1 + w·û``, is not
    nearly zero. Gradients pass through it by the implicit function theorem.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
    """

    one_pass_inverse = False

    def __init__(self, features: int, context_features: int = 0) -> None:
        super().__init__()
        self.features, self.context_features = features, context_features
        count = 2 * features + 1
        # Directions and places spread over standardised data, pushes small: near the identity, and with
        # gradients that tell the layers apart (all small, they learn ten times more slowly).
        push, rest = 0.01 * torch.randn(features), torch.randn(features + 1)
        self.raw = nn.Parameter(torch.cat((push, rest)))
        self.from_context = _linear(context_features, count)

    def _params(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        raw: Tensor = self.raw.unsqueeze(0)
        if self.from_context is not None:
            raw = raw + self.from_context(context)
        v, w, b = raw.split((self.features, self.features, 1), dim=1)
        along = (w * v).sum(1, keepdim=True)
        square = w.square().sum(1, keepdim=True).clamp_min(1e-12)
        u = v + (F.softplus(along + math.log(math.e - 1)) - 1 - along) / square * w
        return u, w, b.squeeze(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, w, b = self._params(context)
        h = torch.tanh((w * x).sum(1) + b)
        slope = 1 + (1 - h.square()) * (w * u).sum(1)
        return x + u * h.unsqueeze(1), torch.log(slope)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        direction, w, b = self._params(context)
        with torch.no_grad():
            target = (w * u).sum(1)
            gain = (w * direction).sum(1).expand_as(target)
            # w·x solves a + gain * tanh(a + b) = w·u, and tanh lies in [-1, 1].
            a = solve_increasing(
                lambda a: a + gain * torch.tanh(a + b) - target, target - gain.abs(), target + gain.abs()
            )
            slope = 1 + gain * (1 - torch.tanh(a + b).square())
        # One Newton step from the root: it changes nothing but carries the gradient.
        gain = (w * direction).sum(1)
        a = a - (a + gain * torch.tanh(a + b) - (w * u).sum(1)) / slope
        x = u - direction * torch.tanh(a + b).unsqueeze(1)
        return x, -self.forward(x, context)[1]


class Radial(Transform):
    r"""``u = x + β h(r) (x - x_0)`` with ``h = 1/(α + r)``, ``r = |x - x_0|``, α > 0 and β > -α.

    .. math:: \log|\det| = (D - 1) \log(1 + \beta h) + \log(1 + \beta h + \beta h'(r) r)

    The inverse is one increasing equation in r, solved by bisection; gradients pass through it by the
    implicit function theorem.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
    """

    one_pass_inverse = False

    def __init__(self, features: int, context_features: int = 0) -> None:
        super().__init__()
        self.features, self.context_features = features, context_features
        # Centres spread over standardised data; reach and strength near the identity.
        self.raw = nn.Parameter(torch.cat((torch.randn(features), 0.1 * torch.randn(2))))
        self.from_context = _linear(context_features, features + 2)

    def _params(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        raw: Tensor = self.raw.unsqueeze(0)
        if self.from_context is not None:
            raw = raw + self.from_context(context)
        centre, a, b = raw.split((self.features, 1, 1), dim=1)
        alpha = F.softplus(a.squeeze(1)) + 1e-3
        return centre, alpha, F.softplus(b.squeeze(1)) - alpha

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, beta = self._params(context)
        away = x - centre
        # The small number keeps the gradient of the norm finite at the centre itself.
        r = (away.square().sum(1) + 1e-24).sqrt()
        h = 1 / (alpha + r)
        stretch = 1 + beta * h
        logabsdet = (self.features - 1) * torch.log(stretch) + torch.log(stretch - beta * h.square() * r)
        return x + (beta * h).unsqueeze(1) * away, logabsdet

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        centre, alpha, beta = self._params(context)
        away = u - centre
        with torch.no_grad():
            target = away.norm(dim=1)
            bound = target + beta.abs()
            r = solve_increasing(
                lambda r: r * (1 + beta / (alpha + r)) - target, torch.zeros_like(target), bound
            )
            slope = 1 + beta * alpha / (alpha + r).square()
        # One Newton step from the root: it changes nothing but carries the gradient.
        distance = (away.square().sum(1) + 1e-24).sqrt()
        r = r - (r * (1 + beta / (alpha + r)) - distance) / slope
        x = centre + away / (1 + beta / (alpha + r)).unsqueeze(1)
        return x, -self.forward(x, context)[1]
