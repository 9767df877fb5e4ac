"""Linear maps that mix features: permutations and the LU-factorised matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.accelerate import LU, Permute, buffer, parameter
from modeflow.transforms.base import Transform

__all__ = ["LULinear", "Permutation"]


class Permutation(Transform):
    """``u = x[:, order]``; the log-determinant is zero."""

    order: Tensor
    reverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order.long())
        self.register_buffer("reverse_order", torch.argsort(order))

    @classmethod
    def random(cls, features: int, generator: torch.Generator | None = None) -> Permutation:
        """A permutation drawn once, at construction; never the identity where there is another.

        With few features the identity is likely, and two neighbouring couplings would then move the same
        half of them.
        """
        identity = torch.arange(features)
        order = torch.randperm(features, generator=generator)
        while features > 1 and torch.equal(order, identity):
            order = torch.randperm(features, generator=generator)
        return cls(order)

    @classmethod
    def reverse(cls, features: int) -> Permutation:
        """The order reversed, as MAF does between layers."""
        return cls(torch.arange(features - 1, -1, -1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.index_select(1, self.order), x.new_zeros(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return u.index_select(1, self.reverse_order), u.new_zeros(u.shape[0])

    def native_description(self) -> Permute:
        features = len(self.order)
        return Permute(features, order=buffer(self, "order", features, dtype=torch.int64))


class LULinear(Transform):
    r"""``u = L U x + b`` with L unit lower triangular and U upper triangular with positive diagonal.

    .. math:: \log|\det LU| = \sum_d \log U_{dd}, \qquad U_{dd} = \epsilon + \text{softplus}(r_d)

    Starts as the identity. The inverse solves two triangular systems and never inverts a matrix.
    """

    def __init__(self, features: int, eps: float = 1e-3) -> None:
        super().__init__()
        self.features = features
        self.eps = eps
        n = features * (features - 1) // 2
        self.lower = nn.Parameter(torch.zeros(n))
        self.upper = nn.Parameter(torch.zeros(n))
        self.raw_diagonal = nn.Parameter(torch.full((features,), math.log(math.expm1(1 - eps))))
        self.bias = nn.Parameter(torch.zeros(features))
        low = torch.tril_indices(features, features, -1)
        up = torch.triu_indices(features, features, 1)
        self.register_buffer("_low", low[0] * features + low[1], persistent=False)
        self.register_buffer("_up", up[0] * features + up[1], persistent=False)

    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return L, U (both ``(D, D)``) and the log-determinant (a scalar)."""
        d = self.features
        diagonal = self.eps + F.softplus(self.raw_diagonal)
        flat = self.lower.new_zeros(d * d)
        lower = flat.scatter(0, self._low, self.lower).view(d, d)  # type: ignore[arg-type]
        upper = flat.scatter(0, self._up, self.upper).view(d, d)  # type: ignore[arg-type]
        eye = torch.eye(d, dtype=flat.dtype, device=flat.device)
        return lower + eye, upper + torch.diag(diagonal), diagonal.log().sum()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, logabsdet = self.factors()
        return F.linear(x, lower @ upper, self.bias), logabsdet.expand(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper, logabsdet = self.factors()
        y = torch.linalg.solve_triangular(lower, (u - self.bias).mT, upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, y, upper=True).mT
        return x, -logabsdet.expand(u.shape[0])

    def native_description(self) -> LU:
        triangle = self.features * (self.features - 1) // 2
        return LU(
            self.features,
            self.eps,
            lower=parameter(self, "lower", triangle),
            upper=parameter(self, "upper", triangle),
            raw_diagonal=parameter(self, "raw_diagonal", self.features),
            bias=parameter(self, "bias", self.features),
        )
