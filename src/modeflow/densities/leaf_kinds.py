r"""One kind of leaf each: n features that are alike, K states of each.

.. math::
    \text{real: } \log N(x; m_k, s_k^2), \quad
    \text{circular: } \log \sum_{w=-3}^{3} N(x + 2 \pi w; m_k, s_k^2), \quad
    \text{code: } \log \mathrm{softmax}(\theta_k)_x, \quad
    \text{cells: } \log\Big[\Phi\Big(\frac{b(x) - m_k}{s_k}\Big) - \Phi\Big(\frac{a(x) - m_k}{s_k}\Big)\Big]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modeflow.accelerate import native_gaussian, native_gaussian_gradients
from modeflow.densities.features import Feature
from modeflow.errors import DataError
from modeflow.native import applies
from modeflow.nets.tracing import tracing
from modeflow.transforms.noise import open_uniform
from modeflow.transforms.surjections import normal

__all__ = [
    "WIDEST_ANGLE",
    "CategoricalLeaves",
    "CellLeaves",
    "CircularLeaves",
    "GaussianLeaves",
    "Leaf",
    "draw_categories",
    "log_mass",
    "whole_codes",
    "wrapped",
    "wrapped_log_prob",
]

#: Where the outermost cells end, for numbers that have no end: an infinite one has no gradient.
_FAR = 1e6
#: Scales of a state in those of its quantile bin at the start, so that neighbours overlap.
_OVERLAP = 1.5
#: Smallest scale at the start, in spreads of the feature: wide, so that a state is free to say something else
#: than its feature's value, and narrows where that pays.
_START_SCALE = 0.3
#: Largest scale of a wrapped Gaussian, for which the sum over seven turns is exact to 1e-11.
WIDEST_ANGLE = 3.0
#: Spread of the noise by which the states of a code differ at the start, in logarithms of probabilities.
_NOISE = 1.0


class Leaf(nn.Module):
    """Contract: n features of a kind. `x` is ``(n, B)`` and free of NaN; `which` says which features."""

    #: What stands for a value that is not there.
    safe: float = 0.0
    #: How much faster than a flow its parameters learn (see `FlatParameters`).
    learning_rate_scale = 20.0

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype

    def log_probs(self, x: Tensor, which: Sequence[int]) -> Tensor:
        """Log-densities of the features `which`, ``(len(which), B, K)``."""
        raise NotImplementedError

    def sample(self, states: Tensor, u: Tensor, temperature: float) -> Tensor:
        """Values of all n features given their states, by uniform numbers u in (0, 1); all ``(n, B)``."""
        raise NotImplementedError

    def start(self, x: Tensor, generator: torch.Generator | None) -> None:
        """Start the states on rows ``(N, n)``, NaN where there is no value."""
        raise NotImplementedError


class GaussianLeaves(Leaf):
    """``N(x; m_k, s_k²)`` with ``s = min_scale + exp(raw)``, so that no state collapses onto a row."""

    def __init__(self, features: Sequence[Feature], n_states: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = float(min_scale)
        self.mean = nn.Parameter(torch.linspace(-1.5, 1.5, n_states).repeat(len(features), 1))
        self.raw_scale = nn.Parameter(torch.full((len(features), n_states), -0.5))

    def scale(self) -> Tensor:
        """s, ``(n, K)``."""
        return self.min_scale + self.raw_scale.exp()

    def log_probs(self, x: Tensor, which: Sequence[int]) -> Tensor:
        found: Tensor = _Gaussian.apply(x, self.mean[which], self.scale()[which])
        return found

    def sample(self, states: Tensor, u: Tensor, temperature: float) -> Tensor:
        mean, scale = self.mean.gather(1, states), self.scale().gather(1, states)
        return mean + temperature * scale * torch.special.ndtri(u).to(mean)

    def start(self, x: Tensor, generator: torch.Generator | None) -> None:
        for j, values in enumerate(x.mT):
            mean, scale = _quantile_bins(values[~values.isnan()], self.mean.shape[1])
            self.mean[j] = mean.to(self.mean)
            self.raw_scale[j] = (scale - self.min_scale).clamp_min(0.1 * self.min_scale).log().to(self.mean)


class _Gaussian(torch.autograd.Function):
    """``log N(x; m, s²)`` of all pairs of ``(n, B)`` and ``(n, K)``: fewer passes than autograd makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        inverse = scale.reciprocal()
        constant = inverse.log() - 0.5 * math.log(2 * math.pi)
        ctx.native = applies(x, mean, inverse)
        if ctx.native:
            x, mean = x.contiguous(), mean.contiguous()
            ctx.save_for_backward(x, mean, inverse)
            return native_gaussian(x, mean, inverse, constant)
        z = (x.unsqueeze(-1) - mean.unsqueeze(1)).mul_(inverse.unsqueeze(1))
        ctx.save_for_backward(z, inverse)
        return torch.addcmul(constant.unsqueeze(1), z, z, value=-0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        if ctx.native:
            x, mean, inverse = ctx.saved_tensors
            to_x, first, second = native_gaussian_gradients(
                x, mean, inverse, gradient.contiguous(), ctx.needs_input_grad[0]
            )
            return to_x, first.mul_(inverse), second.mul_(inverse)
        z, inverse = ctx.saved_tensors
        pull = gradient * z
        to_x = -torch.bmm(pull, inverse.unsqueeze(-1)).squeeze(-1) if ctx.needs_input_grad[0] else None
        to_mean = pull.sum(1) * inverse
        to_scale = (pull.mul_(z).sum(1) - gradient.sum(1)) * inverse
        return to_x, to_mean, to_scale


class CircularLeaves(Leaf):
    """The wrapped Gaussian, its scale between `min_scale` and 3, where it is nearly uniform."""

    def __init__(self, features: Sequence[Feature], n_states: int, min_scale: float) -> None:
        super().__init__()
        self.min_scale = float(min_scale)
        around = torch.linspace(-math.pi, math.pi, n_states + 1)[:-1]
        self.mean = nn.Parameter(around.repeat(len(features), 1))
        self.raw_scale = nn.Parameter(torch.full((len(features), n_states), -1.5))

    def scale(self) -> Tensor:
        """s, ``(n, K)``."""
        return self.min_scale + (WIDEST_ANGLE - self.min_scale) * self.raw_scale.sigmoid()

    def log_probs(self, x: Tensor, which: Sequence[int]) -> Tensor:
        return wrapped_log_prob(
            x.unsqueeze(-1), self.mean[which].unsqueeze(1), self.scale()[which].unsqueeze(1)
        )

    def sample(self, states: Tensor, u: Tensor, temperature: float) -> Tensor:
        mean, scale = self.mean.gather(1, states), self.scale().gather(1, states)
        return wrapped(mean + temperature * scale * torch.special.ndtri(u).to(mean))

    def start(self, x: Tensor, generator: torch.Generator | None) -> None:
        for j, values in enumerate(x.mT):
            mean, scale = _quantile_bins(values[~values.isnan()], self.mean.shape[1])
            share = (scale - self.min_scale).clamp_min(0.1 * self.min_scale) / (WIDEST_ANGLE - self.min_scale)
            self.mean[j] = mean.to(self.mean)
            self.raw_scale[j] = share.clamp_max(0.9).logit().to(self.mean)


def wrapped_log_prob(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Log-density of the wrapped Gaussian at angles, of a scale of `WIDEST_ANGLE` at the most."""
    away = torch.remainder(x - mean + math.pi, 2 * math.pi) - math.pi
    turns = 2 * math.pi * torch.arange(-3, 4, dtype=x.dtype, device=x.device)
    z = (away.unsqueeze(-1) + turns) / scale.unsqueeze(-1)
    return torch.logsumexp(-0.5 * z.square(), -1) - scale.log() - 0.5 * math.log(2 * math.pi)


def wrapped(x: Tensor) -> Tensor:
    """Angles in [-π, π)."""
    x = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    return torch.where(x >= math.pi, -math.pi, x)  # rounding may reach the end


class CategoricalLeaves(Leaf):
    """``softmax(θ_k)_x``; the levels of all n features stand one below the other."""

    offsets: Tensor
    segments: Tensor

    def __init__(self, features: Sequence[Feature], n_states: int, min_scale: float) -> None:
        super().__init__()
        self.levels = tuple(feature.levels for feature in features)
        count = torch.tensor(self.levels)
        offsets = torch.cat((count.new_zeros(1), count.cumsum(0)))[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        segments = torch.arange(len(count)).repeat_interleave(count)
        self.register_buffer("segments", segments, persistent=False)
        self.logits = nn.Parameter(_NOISE * torch.randn(sum(self.levels), n_states))

    def table(self) -> Tensor:
        """Log-probabilities of all levels, ``(sum of levels, K)``."""
        theta = self.logits
        index = self.segments.unsqueeze(-1).expand_as(theta)
        top = theta.detach().new_full((len(self.levels), theta.shape[1]), -torch.inf)
        top = top.scatter_reduce(0, index, theta.detach(), "amax")
        shifted = theta - top[self.segments]
        total = torch.zeros_like(top).index_add(0, self.segments, shifted.exp())
        return shifted - total.log()[self.segments]

    def log_probs(self, x: Tensor, which: Sequence[int]) -> Tensor:
        codes = whole_codes(x, [self.levels[i] for i in which])
        return F.embedding(codes + self.offsets[which].unsqueeze(-1), self.table())

    def sample(self, states: Tensor, u: Tensor, temperature: float) -> Tensor:
        drawn = []
        for table, z, of_feature in zip(self.table().split(self.levels), states, u, strict=True):
            drawn.append(category_at(table.mT[z], of_feature, temperature))
        return torch.stack(drawn).to(self.dtype)

    def start(self, x: Tensor, generator: torch.Generator | None) -> None:
        noise = _NOISE * normal(self.logits, generator)
        counts = [
            torch.bincount(values[~values.isnan()].long(), minlength=levels).double() + 0.5
            for values, levels in zip(x.mT, self.levels, strict=True)
        ]
        common = torch.cat([count.log() - count.sum().log() for count in counts])
        self.logits.copy_(common.to(self.logits).unsqueeze(-1) + noise)


class CellLeaves(GaussianLeaves):
    """The mass of a Gaussian between the edges of the cell that a value lies in; drawn is any value of it."""

    def __init__(self, features: Sequence[Feature], n_states: int, min_scale: float) -> None:
        super().__init__(features, n_states, min_scale)
        most = max(len(feature.cells) for feature in features)
        rows = [(-_FAR, *f.cells, *[_FAR] * (most + 1 - len(f.cells))) for f in features]
        # In double precision whatever that of the model: rounded, an edge would be another.
        self._edges = torch.tensor(rows, dtype=torch.float64)

    def log_probs(self, x: Tensor, which: Sequence[int]) -> Tensor:
        edges = self._edges[which].to(x.device)
        above = torch.searchsorted(edges, x.double(), right=True)  # an edge belongs to the cell above it
        low, high = edges.gather(1, above - 1).to(x), edges.gather(1, above).to(x)
        mean, scale = self.mean[which].unsqueeze(1), self.scale()[which].unsqueeze(1)
        return log_mass((low.unsqueeze(-1) - mean) / scale, (high.unsqueeze(-1) - mean) / scale)


def whole_codes(x: Tensor, levels: Sequence[int]) -> Tensor:
    """Codes ``(n, B)`` of so many levels each as integers.

    Raises:
        DataError: one that is no whole number of its levels.
    """
    codes = x.long()
    most = torch.tensor(levels, device=x.device).unsqueeze(-1)
    wrong = (codes != x) | (codes < 0) | (codes >= most)
    if not tracing() and bool(wrong.any()):
        j, row = (int(i) for i in wrong.nonzero()[0])
        raise DataError(
            f"row {row + 1} of the batch has code {float(x[j, row]):g} where whole numbers 0 to "
            f"{int(most[j]) - 1} are expected"
        )
    return codes


def log_mass(a: Tensor, b: Tensor) -> Tensor:
    """``log(Φ(b) - Φ(a))`` for a < b, to nearly full precision in the tails and for narrow cells."""
    # To the left, where Φ is small and its logarithm knows it exactly.
    flip = a + b > 0
    a, b = torch.where(flip, -b, a), torch.where(flip, -a, b)
    width = b - a
    # Of a narrow cell the difference would cancel; its mass is φ at its middle, tilted, times its width.
    narrow = width < torch.finfo(a.dtype).eps ** (1 / 3)
    middle = torch.where(narrow, 0.5 * (a + b), 0.0)
    tilt = 0.5 * middle * torch.where(narrow, width, 1.0)
    small = -0.5 * middle.square() - 0.5 * math.log(2 * math.pi) + torch.where(narrow, width, 1.0).log()
    small = small + _log_sinhc(tilt)
    finite = torch.where(narrow, -1.0, a).clamp_min(-1e6 if a.dtype == torch.float64 else -1e4)
    log_b = torch.special.log_ndtr(torch.maximum(torch.where(narrow, 0.0, b).clamp_max(40.0), finite + 1e-6))
    gap = (torch.special.log_ndtr(finite) - log_b).clamp_max(-torch.finfo(a.dtype).tiny)
    return torch.where(narrow, small, log_b + torch.log(-torch.expm1(gap)))


def _log_sinhc(t: Tensor) -> Tensor:
    """``log(sinh t / t)``."""
    t = t.abs()
    safe = t.clamp_min(1e-3)
    large = safe + torch.log1p(-torch.exp(-2 * safe)) - torch.log(2 * safe)
    return torch.where(t < 1e-3, t.square() / 6, large)


def category_at(logits: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
    """The category of every row of ``logits (B, L)`` in whose share of the unit interval u ``(B,)`` lies.

    Of uniform numbers u it is a draw; at temperature 0 it is the likeliest whatever u.
    """
    if temperature == 0:
        return logits.argmax(-1)
    until = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    return (until <= u.unsqueeze(-1) * until[:, -1:]).sum(-1).clamp_max(logits.shape[-1] - 1)


def draw_categories(
    logits: Tensor, generator: torch.Generator | None = None, temperature: float = 1.0
) -> Tensor:
    """One category a row of ``logits (B, L)``, ``(B,)``; the likeliest at temperature 0."""
    u = open_uniform((len(logits),), torch.float64, logits.device, generator)
    return category_at(logits, u, temperature)


def _quantile_bins(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means of `count` bins that hold equally many values, and scales by which neighbours overlap."""
    if len(values) == 0:
        return torch.linspace(-1.5, 1.5, count).double(), torch.ones(count).double()
    values = values.double().sort().values
    spread = float(values.std(correction=0)) or 1.0
    # Of fewer values than bins some serve twice.
    cut = torch.linspace(0, len(values), count + 1).round().long()
    first = cut[:-1].clamp_max(len(values) - 1)
    last = torch.maximum(cut[1:], first + 1)
    number = (last - first).double()
    sums, squares = (F.pad(v.cumsum(0), (1, 0)) for v in (values, values.square()))
    mean = (sums[last] - sums[first]) / number
    variance = ((squares[last] - squares[first]) / number - mean.square()).clamp_min(0.0)
    return mean, _OVERLAP * variance.sqrt() + _START_SCALE * spread
