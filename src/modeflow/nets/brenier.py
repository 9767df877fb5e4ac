r"""Gradients of convex functions: maps of R^D to itself that are one to one.

A strictly convex T has a strictly monotone gradient, ``(∇T(a) - ∇T(b))·(a - b) > 0`` for a ≠ b: no two points
have the same image (Brenier maps). T is an input-convex network, whose gradient is written out here, so that
evaluating it takes no differentiation and training it only one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError

__all__ = ["BrenierMap", "ConvexGradient"]


class ConvexGradient(nn.Module):
    r"""``∇T(y)`` of a strictly convex ``T(y) = v·h_n + a |y|²/2``, ``(B, D) -> (B, D)``.

    .. math:: h_1 = \sigma(A_1 y + b_1), \qquad h_{i+1} = \sigma(W_i h_i + A_{i+1} y + b_{i+1}),
        \qquad W_i \ge 0,\; v \ge 0

    σ is softplus, smooth, convex and increasing, and W and v are softplus of free numbers: T is convex
    whatever they are, and its Jacobian ``∂²T`` symmetric and at least ``a``.

    Arguments:
        features: D. hidden_features: widths of the h.

    Reference:
        Amos, Xu, Kolter, *Input Convex Neural Networks*, 2017, https://arxiv.org/abs/1609.07152
    """

    def __init__(self, features: int, hidden_features: Sequence[int]) -> None:
        super().__init__()
        widths = list(hidden_features)
        if not widths:
            raise ConfigError("a convex network needs a hidden layer or more")
        self.of_input = nn.ModuleList(nn.Linear(features, width) for width in widths)
        # Positive weights add up: each starts at about one over how many there are.
        self.raw = nn.ParameterList(
            nn.Parameter(torch.full((b, a), math.log(math.expm1(1 / a))) + 0.1 * torch.randn(b, a))
            for a, b in pairwise(widths)
        )
        self.last = nn.Parameter(torch.full((widths[-1],), math.log(math.expm1(1 / widths[-1]))))
        self.raw_strength = nn.Parameter(torch.tensor(math.log(math.expm1(1.0))))

    @property
    def strength(self) -> Tensor:
        """a, the least eigenvalue of the Jacobian."""
        return 1e-2 + F.softplus(self.raw_strength)

    def forward(self, y: Tensor) -> Tensor:
        before, h = [], y
        for i, layer in enumerate(self.of_input):
            a = layer(y) if i == 0 else layer(y) + h @ F.softplus(self.raw[i - 1]).mT
            before.append(a)
            h = F.softplus(a)
        # Backwards through the layers: σ' is the logistic function.
        slope = F.softplus(self.last) * torch.sigmoid(before[-1])
        out = slope @ self._weight(-1)
        for i in range(len(before) - 2, -1, -1):
            slope = (slope @ F.softplus(self.raw[i])) * torch.sigmoid(before[i])
            out = out + slope @ self._weight(i)
        return out + self.strength * y

    def _weight(self, i: int) -> Tensor:
        weight: Tensor = self.of_input[i].weight  # type: ignore[assignment]
        return weight


class BrenierMap(nn.Module):
    r"""``f(z) = g_2(B g_1(z))``, from R^L into R^D for L ≤ D, one to one.

    g_1 and g_2 are gradients of convex functions, and B a D × L matrix with ones on its diagonal and zeros
    elsewhere, of full rank: f(a) = f(b) only where a = b.

    Arguments:
        in_features: L. out_features: D. hidden_features: of both networks.

    Raises:
        ConfigError: if L is above D, for then no map is one to one and smooth.

    Reference:
        Wang, Blei, Cunningham, *Posterior Collapse and Latent Variable Non-identifiability*, 2021,
        https://arxiv.org/abs/2301.00537
    """

    def __init__(self, in_features: int, out_features: int, hidden_features: Sequence[int]) -> None:
        super().__init__()
        if in_features > out_features:
            raise ConfigError(
                f"a map that is one to one cannot lead from {in_features} dimensions of z into "
                f"{out_features} columns: give a latent of at most {out_features}"
            )
        self.more = out_features - in_features
        self.first = ConvexGradient(in_features, hidden_features)
        self.second = ConvexGradient(out_features, hidden_features)

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.second(F.pad(self.first(z), (0, self.more)))
        return out
