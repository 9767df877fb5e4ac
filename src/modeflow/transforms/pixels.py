"""Probabilities of pixels given a context, and the map that makes pixels Gaussian by them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.nets.decoder import ConvDecoder
from modeflow.transforms.base import Transform, sum_event
from modeflow.transforms.surjections import soft_log_scale

__all__ = ["Bins", "PixelBins", "PixelGaussianize"]

KINDS = ("logistic", "gaussian")

#: Share of a uniform distribution in every mixture: no level is impossible, and tails stay in range.
_FLOOR = 1e-4


_LOG_2PI = math.log(2 * math.pi)


def _normal_cdf(x: Tensor) -> Tensor:
    """Φ(x), to the last digits of the lower tail too (`torch.special.ndtr` in float32 ends at -6)."""
    return 0.5 * torch.special.erfc(x * -math.sqrt(0.5))


class Bins(NamedTuple):
    """Probabilities of a level, of all levels below it, and of all above it; each ``(B, C, H, W)``."""

    probs: Tensor
    below: Tensor
    above: Tensor


class PixelBins(nn.Module):
    r"""Probabilities of levels as bins of a mixture of logistic (or Gaussian) distributions.

    .. math:: P(n \mid c) = (1 - \epsilon) \sum_m w_m \Big[F\Big(\frac{n + \frac12 - \mu_m}{s_m}\Big)
        - F\Big(\frac{n - \frac12 - \mu_m}{s_m}\Big)\Big] + \frac{\epsilon}{L}

    for every pixel and channel, with w, μ and s from a network of c; the first and the last bin reach to
    infinity, so that probabilities sum to one over the L levels.

    Arguments:
        shape: ``(channels, height, width)``. levels: L.
        context_features: width of c; 0 for parameters of every pixel's own, the same for all images.
        context_shape: where c is a map, flat (`ConvDecoder`).
        kind: ``"logistic"`` or ``"gaussian"``. components: of the mixture.
        hidden_channels, doublings: of the network.

    Raises:
        ConfigError: for an unknown kind, or sizes that do not fit.

    Reference:
        Salimans et al., *PixelCNN++*, 2017, https://arxiv.org/abs/1701.05517
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        levels: int,
        context_features: int = 0,
        context_shape: tuple[int, int, int] | None = None,
        kind: str = "logistic",
        components: int = 3,
        hidden_channels: int = 64,
        doublings: int = 2,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(KINDS)}; received {kind!r}")
        if levels < 2 or components < 1:
            raise ConfigError(
                f"levels must be 2 or more and components 1 or more, received {levels} and {components}"
            )
        self.shape, self.kind, self.levels, self.components = shape, kind, int(levels), int(components)
        self.context_features = context_features
        outputs = shape[0] * components * (3 if components > 1 else 2)
        size = (shape[1], shape[2])
        self.net: nn.Module | None = None
        if context_features:
            self.net = ConvDecoder(context_features, outputs, size, context_shape, hidden_channels, doublings)
        else:
            self.own = nn.Parameter(torch.zeros(1, outputs, *size))
        # In units of half the range; components start apart, each a good part of the range wide.
        self.means = nn.Parameter(torch.linspace(-1, 1, components + 2)[1:-1].clone()[:, None, None, None])
        self.log_scales = nn.Parameter(torch.full((components, 1, 1, 1), -1.5))

    def parameters_at(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and log-scales, all ``(B, M, C, H, W)``, in units of half the range."""
        out = self.own if self.net is None else self.net(context)
        # In the parameters' own precision, whatever that of the convolutions (autocast).
        out = out.to(self.means.dtype).unflatten(1, (-1, self.components, self.shape[0]))
        mean = out[:, 0] + self.means
        # Softly within e^±7: from a tenth of a level of 256 to far beyond the range.
        log_scale = soft_log_scale(out[:, 1] + self.log_scales, 7.0)
        weight = torch.softmax(out[:, 2], 1) if self.components > 1 else torch.ones_like(mean)
        return weight, mean, log_scale

    def _cdf(self, a: Tensor) -> Tensor:
        return torch.sigmoid(a) if self.kind == "logistic" else _normal_cdf(a)

    def _between(self, low: Tensor, high: Tensor) -> Tensor:
        """``F(high) - F(low)`` without cancellation."""
        if self.kind == "logistic":
            return torch.sigmoid(high) * torch.sigmoid(-low) * -torch.expm1(low - high)
        flip = low + high > 0  # in the tail where both are far from one
        return self._cdf(torch.where(flip, -low, high)) - self._cdf(torch.where(flip, -high, low))

    def at(self, n: Tensor, params: tuple[Tensor, Tensor, Tensor]) -> Bins:
        """The bins of levels ``n`` (whole numbers, ``(B, C, H, W)``)."""
        weight, mean, log_scale = params
        half = 1 / (self.levels - 1)  # levels lie at -1, ..., 1
        slope = torch.exp(-log_scale)
        centre = ((n * (2 * half) - 1).unsqueeze(1) - mean) * slope
        low, high = centre - half * slope, centre + half * slope
        first, last = (n <= 0).unsqueeze(1), (n >= self.levels - 1).unsqueeze(1)
        below = torch.where(first, torch.zeros_like(low), self._cdf(low))
        above = torch.where(last, torch.zeros_like(high), self._cdf(-high))
        outer = torch.where(first, self._cdf(high), self._cdf(-low))
        inside = torch.where(first | last, outer, self._between(low, high))
        share = (1 - _FLOOR) * weight
        floor = _FLOOR / self.levels
        return Bins(
            (share * inside).sum(1) + floor,
            (share * below).sum(1) + floor * n,
            (share * above).sum(1) + floor * (self.levels - 1 - n),
        )

    def mean(self, context: Tensor | None) -> Tensor:
        """Mean of every pixel, in levels, not rounded: ``(B, C, H, W)``."""
        weight, mean, _ = self.parameters_at(context)
        return ((weight * mean.clamp(-1, 1)).sum(1) + 1) * ((self.levels - 1) / 2)

    def search(self, below: Tensor, above: Tensor, params: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The level n with ``below(n) <= probability < below(n + 1)``, by bisection.

        Arguments:
            below, above: a probability and one minus it (the smaller of the two is exact).
        """
        low = torch.zeros_like(below)
        high = torch.full_like(below, self.levels - 1)
        left = below <= above
        for _ in range((self.levels - 1).bit_length()):
            middle = torch.ceil((low + high) / 2)
            bins = self.at(middle, params)
            reached = torch.where(left, bins.below <= below, bins.above + bins.probs >= above)
            low = torch.where(reached, middle, low)
            high = torch.where(reached, high, middle - 1)
        return low


class PixelGaussianize(Transform):
    r"""From pixels, dequantised, to noise that is standard normal if their probabilities are right.

    .. math:: u = \Phi^{-1}\big(P(m < n \mid c) + (x - n)\, P(n \mid c)\big), \quad n = \lfloor x \rfloor,
        \qquad \log|\det| = \sum \big(\log P(n \mid c) - \log\varphi(u)\big)

    A first layer of conditional image flows. The density it gives to x, over a standard normal, is P(n | c)
    over the whole of a pixel's cell: uniform noise in the cell costs nothing, and the levels where pixels
    pile up (a black background) are no spikes. What a flow after it learns is what pixels have in common
    that the context does not say: where the flow is the identity, the model is a VQ-VAE.

    Arguments:
        bins: the probabilities.

    The map is continuous and piecewise smooth, with kinks at the borders of cells, where its derivative is
    that of the upper cell.

    Reference:
        Nielsen and Winther, *Closing the Dequantization Gap: PixelCNN as a Single-Layer Flow*, 2020,
        https://arxiv.org/abs/2002.02547 (subset flows; here with pixels independent given the context)
    """

    def __init__(self, bins: PixelBins) -> None:
        super().__init__()
        self.bins = bins
        self.context_features = bins.context_features

    def _params(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return self.bins.parameters_at(context if self.context_features else None)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        n = x.detach().floor().clamp(0, self.bins.levels - 1)
        bins = self.bins.at(n, self._params(context))
        part = x - n
        below, above = bins.below + part * bins.probs, bins.above + (1 - part) * bins.probs
        left = below <= above
        # Of the two tails the smaller, whose digits are all there.
        tail = torch.where(left, below, above).clamp_min(torch.finfo(x.dtype).tiny)
        quantile = torch.special.ndtri(tail)
        u = torch.where(left, quantile, -quantile)
        logabsdet = sum_event(bins.probs.log() + 0.5 * u.square()) + 0.5 * _LOG_2PI * math.prod(x.shape[1:])
        return u, logabsdet

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        params = self._params(context)
        below, above = _normal_cdf(u), _normal_cdf(-u)
        n = self.bins.search(below.detach(), above.detach(), params)
        bins = self.bins.at(n, params)
        left = below <= above
        part = torch.where(left, (below - bins.below) / bins.probs, 1 - (above - bins.above) / bins.probs)
        # A sample rounds down: the end of a cell must not become the next one.
        part = part.clamp(0, 1 - torch.finfo(u.dtype).eps * self.bins.levels)
        logabsdet = -sum_event(bins.probs.log() + 0.5 * u.square()) - 0.5 * _LOG_2PI * math.prod(u.shape[1:])
        return n + part, logabsdet
