"""Affine maps of each feature: fixed (standardisation) and chosen by the context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.accelerate import ContextAffine, parameter
from modeflow.errors import DataError, ShapeError
from modeflow.nets.precision import OwnPrecision
from modeflow.transforms.base import Transform

__all__ = ["ConditionalAffine", "Standardize"]


class Standardize(OwnPrecision, Transform):
    r"""``u = (x - mean) / scale`` with fixed mean and scale, and its log-determinant.

    The log-determinant :math:`-\sum_d \log \text{scale}_d` keeps densities in the units of the data.
    Statistics and results are float64 whatever the model's type, so that a column with a large offset (a
    timestamp, say) loses nothing; `Preprocessed` casts the result to the type of the model behind it.
    """

    settled = True

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
        there = x == x
        most, least = (torch.where(there, x, end) for end in (-torch.inf, torch.inf))
        bad = torch.nonzero(~(most.amax(0) > least.amin(0))).flatten().tolist() if len(x) else [0]
        if bad:
            raise DataError(f"column {bad[0]} is constant: its density is infinite; drop it")
        w = torch.ones(len(x), dtype=x.dtype, device=x.device) if weight is None else weight.to(x)
        mean, scale = self._moments(x, w / w.sum())
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        return self

    def _moments(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return moments(x, w.unsqueeze(-1).expand_as(x))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.scale, -self.scale.log().sum().expand(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return u * self.scale + self.mean, self.scale.log().sum().expand(u.shape[0])


def moments(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of columns ``x (N, D)`` under weights of the same shape that sum to one.

    Deviations are taken from a value of each column and in units of the largest, so that neither a large
    offset nor units of 1e-200 or 1e200 cost digits; rows without weight do not count there either.
    """
    start = x.gather(0, w.argmax(0, keepdim=True))[0]
    away = torch.where(w > 0, x - start, 0.0)
    unit = away.abs().amax(0)
    away = away / torch.where(unit > 0, unit, torch.ones_like(unit))
    shift = (w * away).sum(0)
    spread = (w * (away - shift).square()).sum(0).sqrt()
    return start + shift * unit, spread * unit


class ConditionalAffine(Transform):
    r"""``u = (I + L(c)) e^{-s(c)} (x - m(c))`` with m, s and L linear in the context.

    .. math:: \log|\det| = -\sum_d s_d(c)

    L is strictly lower triangular, so with a one-hot context every latent state has its own location, scale
    and correlations: the map that is exact for separated Gaussian modes, before the layers that follow
    bend each mode's shape. Without a context it is one trainable affine map.

    Arguments:
        features: D. context_features: width of the context, 0 for none.
        full: with correlations; otherwise L = 0 and the map is elementwise. The inverse of the full map
            solves a triangular system per row.
    """

    _low: Tensor

    def __init__(self, features: int, context_features: int = 0, full: bool = False) -> None:
        super().__init__()
        self.features = features
        self.context_features = context_features
        self.full = full and features > 1
        lower = features * (features - 1) // 2 if self.full else 0
        # m, s and the entries of L side by side, so that one product with the context gives all three.
        self.table = nn.Parameter(torch.zeros(max(context_features, 1), 2 * features + lower))
        low = torch.tril_indices(features, features, -1)
        self.register_buffer("_low", low[0] * features + low[1], persistent=False)

    @torch.no_grad()
    def set_gaussian(self, state: int, mean: Tensor, covariance: Tensor) -> None:
        """Make the map whiten ``N(mean (D,), covariance (D, D))`` where the context is `state`, one-hot.

        Raises:
            torch.linalg.LinAlgError: if the covariance is not positive definite.
        """
        if not self.full:
            covariance = torch.diag(covariance.diagonal())
        factor = torch.linalg.cholesky(covariance.double())
        eye = torch.eye(self.features, dtype=torch.float64)
        whiten = torch.linalg.solve_triangular(factor, eye, upper=False)
        unit = (whiten / whiten.diagonal()).reshape(-1)[self._low]
        parts = (mean.double(), -whiten.diagonal().log(), *([unit] if self.full else []))
        self.table[state] = torch.cat(parts).to(self.table)

    def _params(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """m and s of shape (1 or B, D), and L of shape (1 or B, D, D)."""
        table: Tensor = self.table
        if self.context_features:
            if context is None:
                raise ShapeError(f"ConditionalAffine needs a context of shape (B, {self.context_features})")
            table = context @ table
        d = self.features
        if not self.full:
            m, s = table.split((d, d), dim=1)
            return m, s, None
        m, s, low = table.split((d, d, len(self._low)), dim=1)
        flat = low.new_zeros(low.shape[0], d * d).index_copy(1, self._low, low)
        return m, s, flat.view(-1, d, d)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, s, lower = self._params(x, context)
        u = (x - m) * torch.exp(-s)
        if lower is not None:
            u = u + (lower @ u.unsqueeze(-1)).squeeze(-1)
        return u, -s.sum(-1).expand(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        m, s, lower = self._params(u, context)
        if lower is not None:
            columns = u.unsqueeze(-1)
            # The solver takes the diagonal for ones.
            u = torch.linalg.solve_triangular(
                lower.expand(len(u), -1, -1), columns, upper=False, unitriangular=True
            ).squeeze(-1)
        return u * torch.exp(s) + m, s.sum(-1).expand(u.shape[0])

    def native_description(self) -> ContextAffine:
        d = self.features
        numbers = 2 * d + (d * (d - 1) // 2 if self.full else 0)
        table = parameter(self, "table", max(self.context_features, 1), numbers)
        return ContextAffine(d, self.context_features, self.full, table)
