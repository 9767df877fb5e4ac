"""Surjections: layers that lose something on one of the two ways, and say what that costs.

`forward` returns ``(z, contribution)`` where the contribution takes the place of the log-determinant in
``log p(x) = log p(z) + contribution``. Where data determines z (inference surjections) that is exact; where
z is drawn given data (generative surjections) its mean is a lower bound. What the way back must draw is
drawn by `sample`; an `inverse` there is none.

Reference:
    Nielsen et al., *SurVAE Flows*, 2020, https://arxiv.org/abs/2007.02731
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError, DataError
from modeflow.transforms.base import Transform, sum_event
from modeflow.transforms.coupling import ConditionerFactory
from modeflow.transforms.noise import in_unit, open_uniform, standard_normal, uniform_noise

__all__ = [
    "Abs",
    "Augment",
    "Conditional",
    "Max",
    "MaxPool",
    "Rounding",
    "Slice",
    "Sort",
    "StochasticPermutation",
    "Surjection",
]


class Conditional(Protocol):
    """What a decoder must offer: a conditional `modeflow.densities.Density` does."""

    event_shape: tuple[int, ...]
    context_features: int

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor: ...

    def sample(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor: ...


def uniform(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform numbers strictly between 0 and 1 from the generator, wherever that lives, as `like` is."""
    return in_unit(open_uniform(shape, torch.float64, like.device, generator), like.dtype)


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers from the generator, wherever that lives, as `like` is."""
    where = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=where).to(like)


def random_order(like: Tensor, rows: int, features: int, generator: torch.Generator | None) -> Tensor:
    """An order of the features for each row, uniformly: ``(rows, features)``."""
    return uniform(like, (rows, features), generator).argsort(dim=1)


def join_context(x: Tensor, context: Tensor | None, context_features: int) -> Tensor:
    """What conditions on z and on the context sees both: ``(B, D + C)``."""
    return x.flatten(1) if not context_features or context is None else torch.cat((x.flatten(1), context), 1)


class Surjection(Transform):
    """A transform without an inverse."""

    bijective = False

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raise `ConfigError`: what `forward` dropped can only be drawn, by `sample`."""
        raise ConfigError(f"{type(self).__name__} is a surjection and has no inverse: use sample")


class Abs(Surjection):
    r"""``z = |x|``; on the way back each sign is drawn.

    .. math:: \log p(x) = \log p(z) - D \log 2

    exactly, where p(z) lives on positive values (`PositiveToReal` goes on from there). The density is then
    even in every feature.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        entries = x[0].numel() if len(x) else 0
        return x.abs(), x.new_full((x.shape[0],), -entries * math.log(2))

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        sign = torch.where(uniform(u, tuple(u.shape), generator) < 0.5, -1.0, 1.0).to(u.dtype)
        return sign * u.abs()


class Sort(Surjection):
    r"""``z = sort(x)``; on the way back the order is drawn, uniformly.

    .. math:: \log p(x) = \log p(z) - \log D!

    exactly, where p(z) lives on increasing vectors (`OrderedToReal` goes on from there). The density is then
    the same for every order of the features.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.sort(dim=1).values, x.new_full((x.shape[0],), -math.lgamma(x.shape[1] + 1))

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        return u.gather(1, random_order(u, u.shape[0], u.shape[1], generator))


class StochasticPermutation(Surjection):
    """``z`` is x in an order drawn uniformly, both ways: contribution 0.

    The mean over orders of ``log p(z)`` is a lower bound of the logarithm of their mean density.
    """

    exactness = "lower bound"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.gather(1, uniform_noise(x).argsort(1)), x.new_zeros(x.shape[0])

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        return u.gather(1, random_order(u, u.shape[0], u.shape[1], generator))


class Max(Surjection):
    r"""``z = max(x)``, one number; on the way back its place is drawn and every other feature falls below it.

    .. math:: \log p(x) = \log p(z) - \log D + \sum_{j \ne \arg\max} \log p(z - x_j)

    exactly (ties have probability zero). The gaps are half-normal with a learned scale for all.

    Arguments:
        features: D.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        if features < 1:
            raise ConfigError(f"features must be 1 or more, received {features}")
        self.features = features
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, _ = x.max(dim=1, keepdim=True)
        # The gap of the largest is zero and carries no density: its share of the constants is left out.
        gaps = half_normal((z - x), self.log_scale).sum(1) - half_normal(z.new_zeros(()), self.log_scale)
        return z, gaps - math.log(self.features)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        rows = u.shape[0]
        gaps = temperature * draw_half_normal(u, (rows, self.features), self.log_scale, generator)
        place = random_order(u, rows, self.features, generator)[:, :1]
        return u - gaps.scatter(1, place, 0.0)


def half_normal(gap: Tensor, log_scale: Tensor) -> Tensor:
    """``log p(gap)`` of ``|N(0, σ²)|`` at a gap of zero or more."""
    return -0.5 * (gap * torch.exp(-log_scale)).square() - log_scale + 0.5 * math.log(2 / math.pi)


def draw_half_normal(
    like: Tensor, shape: tuple[int, ...], log_scale: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Draws of ``|N(0, σ²)|``."""
    u = uniform(like, shape, generator)
    return torch.erfinv(u) * math.sqrt(2) * torch.exp(log_scale)


class Slice(Surjection):
    r"""Keep the features marked, and pay for the others by a conditional density.

    .. math:: z = x_a, \qquad \log p(x) = \log p(z) + \log p(x_b \mid z, c)

    exactly, where the decoder is exact. A funnel is a coupling that maps ``x_a`` given ``x_b``, then this.

    Arguments:
        keep: boolean ``(D,)``.
        decoder: density of the others, with ``context_features = number kept (+ C)``.
        context_features: C.

    Raises:
        ConfigError: if nothing or everything is kept, or the decoder's shape does not fit.
    """

    _keep: Tensor
    _drop: Tensor
    _back: Tensor

    def __init__(self, keep: Tensor, decoder: Conditional, context_features: int = 0) -> None:
        super().__init__()
        keep = keep.bool()
        kept, dropped = torch.nonzero(keep).flatten(), torch.nonzero(~keep).flatten()
        if not len(kept) or not len(dropped):
            raise ConfigError("slice: some features must be kept and some dropped")
        wanted = ((len(dropped),), len(kept) + context_features)
        if (tuple(decoder.event_shape), decoder.context_features) != wanted:
            raise ConfigError(
                f"slice: the decoder must be a density of {len(dropped)} features given {wanted[1]}, "
                f"received one of {tuple(decoder.event_shape)} given {decoder.context_features}"
            )
        self.context_features = context_features
        self.exactness = getattr(decoder, "exactness", "exact")
        self.decoder = decoder
        self.register_buffer("_keep", kept, persistent=False)
        self.register_buffer("_drop", dropped, persistent=False)
        self.register_buffer("_back", torch.argsort(torch.cat((kept, dropped))), persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = x.index_select(1, self._keep)
        given = join_context(z, context, self.context_features)
        return z, self.decoder.log_prob(x.index_select(1, self._drop), given)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        given = join_context(u, context, self.context_features)
        dropped = self.decoder.sample(1, given, generator, temperature)[0]
        return torch.cat((u, dropped), 1).index_select(1, self._back)


class Augment(Surjection):
    r"""Append features drawn from a Gaussian encoder; the way back drops them.

    .. math:: z = (x, e), \quad e \sim q(e | x, c), \qquad \log p(x) \ge E_q[\log p(z) - \log q(e | x, c)]

    Arguments:
        features: D. extra: how many are appended.
        net: factory of the network that gives means and log-scales, ``(B, D) -> (B, 2 * extra)``.
        context_features: width of the context.
    """

    exactness = "lower bound"

    def __init__(self, features: int, extra: int, net: ConditionerFactory, context_features: int = 0) -> None:
        super().__init__()
        if extra < 1:
            raise ConfigError(f"extra must be 1 or more, received {extra}")
        self.features, self.extra, self.context_features = features, extra, context_features
        self.net = net(features, 2 * extra, context_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, raw = self.net(x, context if self.context_features else None).chunk(2, dim=1)
        e, log_q = draw_gaussian(mean, raw)
        return torch.cat((x, e), 1), -log_q

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        return u[:, : self.features]


def soft_log_scale(raw: Tensor, most: float = 7.0) -> Tensor:
    """A log-scale held softly within ``±most``; slope one at zero."""
    return raw / (1 + raw.abs() / most)


def draw_gaussian(mean: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """``e ~ N(mean, exp(2 s))`` of each row, differentiably, and its log-density ``(B,)``."""
    s = soft_log_scale(raw)
    noise = standard_normal(mean)
    return mean + s.exp() * noise, gaussian_log_prob(noise, s)


def gaussian_log_prob(z: Tensor, s: Tensor) -> Tensor:
    """``Σ log N(x; m, e^{2s})`` over all entries of a row, of ``z = (x - m) e^{-s}``."""
    return sum_event(-0.5 * z.square() - s - 0.5 * math.log(2 * math.pi))


class Noise(Protocol):
    """What a dequantisation must offer: a `modeflow.densities.Flow` over `Logistic` noise does."""

    event_shape: tuple[int, ...]
    context_features: int
    transform: Transform
    base: Any


class Rounding(Surjection):
    r"""Whole numbers n become ``n + e`` with e in [0, 1); the way back rounds down.

    .. math:: \log P(n) \ge E_{e \sim q(e | n, c)}[\log p(n + e) - \log q(e | n, c)]

    Arguments:
        noise: q, a flow over logistic noise into the unit cube, whose context is the flattened n, scaled to
            ±1/2 where its range is known, beside c (variational dequantisation, Flow++); uniform if None.
        context_features: width of c.
        levels: n lies in 0 to levels - 1: other data is refused, and samples are moved into that range.

    Raises:
        DataError: in `forward`, for what is no whole number, or out of range.

    Reference:
        Ho et al., *Flow++*, 2019, https://arxiv.org/abs/1902.00275
    """

    exactness = "lower bound"

    def __init__(
        self, noise: Noise | None = None, context_features: int = 0, levels: int | None = None
    ) -> None:
        super().__init__()
        self.noise = noise
        self.levels = levels
        self.context_features = context_features if noise is not None else 0

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not bool((x == x.round()).all()):
            raise DataError("expected whole numbers (pixels as 0, 1, 2, ...), received fractions")
        if self.levels is not None and not bool(((x >= 0) & (x < self.levels)).all()):
            received = f"{float(x.min()):g} to {float(x.max()):g}"
            raise DataError(f"expected whole numbers from 0 to {self.levels - 1}, received {received}")
        if self.noise is None:
            return _within_cell(x, uniform_noise(x)), x.new_zeros(x.shape[0])
        scaled = x if self.levels is None else (x + 0.5) / self.levels - 0.5
        given = join_context(scaled, context, self.context_features)
        u = torch.logit(uniform_noise(x.new_empty(x.shape[0], *self.noise.base.event_shape)))
        e, logabsdet = self.noise.transform.inverse(u, given)
        # The flow can round to an end of the unit interval.
        return _within_cell(x, in_unit(e, x.dtype)), logabsdet - self.noise.base.log_prob(u)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        n = u.floor()
        return n if self.levels is None else n.clamp(0, self.levels - 1)


def _within_cell(n: Tensor, e: Tensor) -> Tensor:
    """``n + e`` of a whole number and a part below one, where rounding would make it ``n + 1``."""
    return torch.minimum(n + e, torch.nextafter(n.detach() + 1, n.detach()))


class MaxPool(Surjection):
    r"""Keep the largest of every 2×2 patch of an image.

    .. math:: \log p(x) = \log p(z) + \sum_{\text{patches}} \Big(-\log 4
        + \sum_{j \ne \arg\max} \log p(z - x_j)\Big)

    exactly, with half-normal gaps of a learned scale for every channel.

    Arguments:
        channels: of the image; height and width must be even.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.log_scale = nn.Parameter(torch.zeros(channels))

    def _scale(self) -> Tensor:
        return self.log_scale[:, None, None, None]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if x.shape[-1] % 2 or x.shape[-2] % 2:
            raise DataError(f"MaxPool needs an even height and width, received {tuple(x.shape[-2:])}")
        patches = F.pixel_unshuffle(x, 2).unflatten(1, (self.channels, 4)).permute(0, 1, 3, 4, 2)
        z = patches.amax(-1)
        gaps = half_normal(z.unsqueeze(-1) - patches, self._scale()).sum(-1)
        gaps = gaps - half_normal(z.new_zeros(()), self._scale()).squeeze(-1) - math.log(4)
        return z, sum_event(gaps)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        shape = (*u.shape, 4)
        gaps = temperature * draw_half_normal(u, shape, self._scale(), generator)
        place = uniform(u, tuple(shape), generator).argmax(-1, keepdim=True)
        patches = u.unsqueeze(-1) - gaps.scatter(-1, place, 0.0)
        return F.pixel_shuffle(patches.permute(0, 1, 4, 2, 3).flatten(1, 2), 2)
