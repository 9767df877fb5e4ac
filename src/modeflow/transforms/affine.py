"""Affine maps of each feature: fixed (standardisation) and chosen by the context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.errors import DataError, ShapeError
from modeflow.transforms.base import Transform

__all__ = ["ConditionalAffine", "Standardize"]


class Standardize(Transform):
    r"""``u = (x - mean) / scale`` with fixed mean and scale, and its log-determinant.

    The log-determinant :math:`-\sum_d \log \text{scale}_d` keeps densities in the units of the data.
    Statistics and results are float64 whatever the model's type, so that a column with a large offset (a
    timestamp, say) loses nothing; `Preprocessed` casts the result to the type of the model behind it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(features, dtype=torch.float64))

    def fit(self, x: Tensor, weight: Tensor | None = None) -> Standardize:
        """Set mean and scale to those of the rows ``x (N, D)``, optionally weighted by ``(N,)``.

        Raises:
            DataError: if a column is constant (its density is infinite).
        """
        x = x.to(torch.float64)
        w = torch.ones(len(x), dtype=x.dtype) if weight is None else weight.to(x)
        w = (w / w.sum()).unsqueeze(-1)
        mean = (w * x).sum(0)
        scale = (w * (x - mean).square()).sum(0).sqrt()
        bad = torch.nonzero(~(scale > 1e-12 * mean.abs().clamp_min(1e-300))).flatten().tolist()
        if bad:
            raise DataError(f"column {bad[0]} is constant: its density is infinite; drop it")
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        return self

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        # `.float()` and `.half()` must not round the statistics; a move to a device still acts.
        mean, scale = self.mean, self.scale
        super()._apply(fn, recurse)
        self.mean, self.scale = mean.to(self.mean.device), scale.to(self.scale.device)
        return self

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.scale, -self.scale.log().sum().expand(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return u * self.scale + self.mean, self.scale.log().sum().expand(u.shape[0])


class ConditionalAffine(Transform):
    r"""``u = (x - m(c)) exp(-s(c))`` with m and s linear in the context.

    With a one-hot context this gives every latent state its own location and scale: the map
    :math:`T(\epsilon; z) = m_z + e^{s_z} \epsilon` that is exact for separated Gaussian modes, before
    the layers that follow bend each mode's shape. Without a context it is one trainable affine map.
    """

    def __init__(self, features: int, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        rows = max(context_features, 1)
        self.shift = nn.Parameter(torch.zeros(rows, features))
        self.log_scale = nn.Parameter(torch.zeros(rows, features))

    def _params(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.context_features == 0:
            return self.shift.expand(len(x), -1), self.log_scale.expand(len(x), -1)
        if context is None:
            raise ShapeError(f"ConditionalAffine needs a context of shape (B, {self.context_features})")
        return context @ self.shift, context @ self.log_scale

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, s = self._params(x, context)
        return (x - m) * torch.exp(-s), -s.sum(-1)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, s = self._params(u, context)
        return u * torch.exp(s) + m, s.sum(-1)
