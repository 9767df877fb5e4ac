"""Likelihoods of latent-variable models without a flow: a network says where, a scale how far.

A decoder whose log-density is a concave function of a *predictor* η(c), entry by entry, is `Predicting`: what
looks for the likeliest z (`modeflow.latents.LaplacePosterior`) asks for η and for derivatives by it.

Entries are independent given c, so one that is missing (NaN) has no term: what is left is the density of the
others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError, DataError
from modeflow.nets.mlp import MLP
from modeflow.transforms.base import sum_event
from modeflow.transforms.noise import normal_numbers, open_uniform

__all__ = ["BernoulliDecoder", "GaussianDecoder", "Predicting"]


class Predicting(Density):
    """A density of x given c that is one of x given η(c), concave in every entry of η."""

    leaves_out = True

    @property
    def predicts(self) -> bool:
        """Whether c counts through η alone."""
        return True

    def predictor(self, context: Tensor) -> Tensor:
        """η at every context, ``(B, *event_shape)``."""
        raise NotImplementedError

    def derivatives(self, x: Tensor, predictor: Tensor) -> tuple[Tensor, Tensor]:
        """``∂ log p / ∂η`` and ``-∂² log p / ∂η²`` of every entry, ``(B, *event_shape)`` each."""
        raise NotImplementedError


class GaussianDecoder(Predicting):
    r"""``x | c ~ N(m(c), diag s^2)``: the likelihood of the classical VAE.

    .. math:: \log p(x \mid c) = -\sum_d \Big[\frac{(x_d - m_d(c))^2}{2 s_d^2} + \log s_d\Big]
        - \frac D2 \log 2\pi

    Arguments:
        features: D.
        context_features: width of the context; with none it is one Gaussian.
        hidden_features: widths of the network's hidden layers.
        scale: ``"shared"`` for one learned scale of every feature, ``"predicted"`` for scales from the
            network, or a number: that, for all.
        min_scale: smallest scale that is learned. On continuous data a likelihood without one has no maximum:
            it grows without bound where the mean meets a row.
        net: another network from the context to the mean, in the place of the MLP; not with ``"predicted"``.

    Raises:
        ConfigError: for another `scale`, or a `min_scale` that is not positive.

    Reference:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, https://arxiv.org/abs/1312.6114
    """

    tempers = True

    def __init__(
        self,
        features: int,
        context_features: int,
        hidden_features: Sequence[int] = (64, 64),
        scale: str | float = "shared",
        min_scale: float = 1e-3,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__((features,), context_features)
        check_scale(scale, min_scale)
        self.min_scale = float(min_scale)
        self.predicted = scale == "predicted"
        self.fixed = None if isinstance(scale, str) else float(scale)
        outputs = features * (1 + self.predicted)
        self.net = MLP(context_features, outputs, hidden_features) if net is None else net
        if self.fixed is None:
            self.raw_scale = nn.Parameter(torch.full((features,), math.log(math.expm1(1.0))))

    @property
    def predicts(self) -> bool:
        return not self.predicted

    def parameters_at(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale at every context, both ``(B, D)``."""
        out = self.net(context)
        if self.fixed is not None:
            return out, torch.full_like(out, self.fixed)
        mean, raw = out.chunk(2, dim=-1) if self.predicted else (out, torch.zeros_like(out))
        return mean, self.min_scale + nn.functional.softplus(raw + self.raw_scale)

    def predictor(self, context: Tensor) -> Tensor:
        mean: Tensor = self.net(context)
        return mean

    def derivatives(self, x: Tensor, predictor: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.fixed or self.min_scale + nn.functional.softplus(self.raw_scale)
        precision = torch.ones_like(predictor) / scale**2
        return (x - predictor) * precision, precision

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        mean, scale = self.parameters_at(x.new_zeros(len(x), 0) if context is None else context)
        missing = x.isnan()
        # Before the square: a gradient through NaN is NaN even where it is not taken.
        z = (torch.where(missing, 0.0, x) - mean) / scale
        each = 0.5 * z.square() + scale.log() + 0.5 * math.log(2 * math.pi)
        return -torch.where(missing, 0.0, each).sum(-1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        given = torch.zeros(n, 0, dtype=self.dtype, device=self.device) if context is None else context
        mean, scale = self.parameters_at(given)
        return mean + temperature * scale * normal_numbers(mean.shape, mean.dtype, mean.device, generator)


class BernoulliDecoder(Predicting):
    r"""``P(x | c) = Π_d p_d^{x_d} (1 - p_d)^{1 - x_d}`` of zeros and ones, with logits from a network.

    .. math:: \log P(x \mid c) = \sum_d x_d\, \eta_d(c) - \log(1 + e^{\eta_d(c)})

    A probability, exact: of rows of zeros and ones and of images of two levels. A temperature divides the
    logits.

    Arguments:
        net: from the context to as many logits as an event has entries.
        event_shape: of an event. context_features: width of the context; with none, `net` is not used, and
            every entry has a logit of its own.
    """

    tempers = True

    def __init__(self, net: nn.Module | None, event_shape: Sequence[int], context_features: int) -> None:
        super().__init__(tuple(event_shape), context_features)
        self.levels = 2
        self.net = net if context_features else None
        if self.net is None:
            self.own = nn.Parameter(torch.zeros(1, *self.event_shape))

    def predictor(self, context: Tensor | None) -> Tensor:
        if self.net is None:
            return self.own
        # In the parameters' own precision, whatever that of the layers (autocast).
        logits: Tensor = self.net(context).to(self.dtype)
        return logits

    def derivatives(self, x: Tensor, predictor: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(predictor)
        return x - p, p * (1 - p)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        missing = x.isnan()
        if not bool(((x == 0) | (x == 1) | missing).all()):
            raise DataError("a Bernoulli likelihood takes zeros and ones alone, and other values were given")
        logits = self.predictor(context)
        each = torch.where(missing, 0.0, x) * logits - nn.functional.softplus(logits)
        return sum_event(torch.where(missing, 0.0, each))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        logits = self.predictor(context).expand(n, *self.event_shape)
        if temperature == 0:
            return (logits > 0).to(logits.dtype)
        u = open_uniform((n, *self.event_shape), logits.dtype, logits.device, generator)
        return (torch.logit(u) < logits / temperature).to(logits.dtype)


def check_scale(scale: str | float, min_scale: float) -> None:
    """Refuse a scale that is neither a way to learn it nor a positive number.

    Raises:
        ConfigError: saying so.
    """
    known = scale in ("shared", "predicted") if isinstance(scale, str) else 0 < scale < math.inf
    if isinstance(scale, bool) or not known:
        raise ConfigError(f"scale must be 'shared', 'predicted' or a number above 0, received {scale!r}")
    if not min_scale > 0:
        raise ConfigError(f"min_scale must be above 0, received {min_scale!r}")
