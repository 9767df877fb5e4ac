"""Bijections for parts of a vector, and from constrained vectors to the whole space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.transforms.base import Transform

__all__ = ["OrderedToReal", "PositiveToReal", "Subset"]


class Subset(Transform):
    """A transform of some of the features; the others pass.

    Arguments:
        features: D.
        indices: the features it acts on, in that order.
        transform: of a vector of their number.
    """

    indices: Tensor
    _rest: Tensor
    _back: Tensor

    def __init__(self, features: int, indices: Tensor, transform: Transform) -> None:
        super().__init__()
        chosen = torch.zeros(features, dtype=torch.bool)
        chosen[indices] = True
        if int(chosen.sum()) != len(indices) or not len(indices):
            raise ConfigError(
                f"subset: indices must name some features once each, received {indices.tolist()}"
            )
        rest = torch.nonzero(~chosen).flatten()
        self.register_buffer("indices", indices.long(), persistent=False)
        self.register_buffer("_rest", rest, persistent=False)
        self.register_buffer("_back", torch.argsort(torch.cat((indices.long(), rest))), persistent=False)
        self.transform = transform
        self.context_features = transform.context_features
        self.exactness = transform.exactness
        self.one_pass_inverse = transform.one_pass_inverse

    def _join(self, part: Tensor, whole: Tensor) -> Tensor:
        return torch.cat((part, whole.index_select(1, self._rest)), 1).index_select(1, self._back)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        part, logabsdet = self.transform(x.index_select(1, self.indices), context)
        return self._join(part, x), logabsdet

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        part, logabsdet = self.transform.inverse(u.index_select(1, self.indices), context)
        return self._join(part, u), logabsdet


def to_real(z: Tensor) -> tuple[Tensor, Tensor]:
    """``log(e^z - 1)`` of positive entries, and the logarithm of its derivative ``1 / (1 - e^{-z})``."""
    # The smallest positive number stands for zero, so that a tie is far out rather than infinite.
    z = z.clamp_min(torch.finfo(z.dtype).tiny)
    log_rest = torch.log(-torch.expm1(-z))
    return z + log_rest, -log_rest


def to_positive(u: Tensor) -> tuple[Tensor, Tensor]:
    """``log(1 + e^u)``, and the logarithm of its derivative."""
    return F.softplus(u, threshold=50.0), F.logsigmoid(u)


class PositiveToReal(Transform):
    """``u = log(e^x - 1)`` in every entry: positive values to the whole line, large ones unchanged."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, logderivative = to_real(x)
        return u, logderivative.sum(1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, logderivative = to_positive(u)
        return x, logderivative.sum(1)


class OrderedToReal(Transform):
    """Increasing vectors to the whole space: the first entry, then ``log(e^gap - 1)`` of each gap."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gaps, logderivative = to_real(x.diff(dim=1))
        return torch.cat((x[:, :1], gaps), 1), logderivative.sum(1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        gaps, logderivative = to_positive(u[:, 1:])
        return torch.cat((u[:, :1], gaps), 1).cumsum(1), logderivative.sum(1)
