"""Likelihoods of latent-variable models without a flow: a network says where, a scale how far."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.nets.mlp import MLP

__all__ = ["GaussianDecoder"]


class GaussianDecoder(Density):
    r"""``x | c ~ N(m(c), diag s^2)``: the likelihood of the classical VAE.

    .. math:: \log p(x \mid c) = -\sum_d \Big[\frac{(x_d - m_d(c))^2}{2 s_d^2} + \log s_d\Big]
        - \frac D2 \log 2\pi

    Arguments:
        features: D.
        context_features: width of the context.
        hidden_features: widths of the network's hidden layers.
        scale: ``"shared"`` for one learned scale of every feature, ``"predicted"`` for scales from the
            network.
        min_scale: smallest scale. On continuous data a likelihood without one has no maximum: it grows
            without bound where the mean meets a row.

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
        scale: str = "shared",
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__((features,), context_features)
        if scale not in ("shared", "predicted"):
            raise ConfigError(f"scale must be 'shared' or 'predicted', received {scale!r}")
        if not min_scale > 0:
            raise ConfigError(f"min_scale must be above 0, received {min_scale!r}")
        self.min_scale = float(min_scale)
        self.net = MLP(context_features, features * (1 if scale == "shared" else 2), hidden_features)
        self.raw_scale = nn.Parameter(torch.full((features,), math.log(math.expm1(1.0))))
        self.predicted = scale == "predicted"

    def parameters_at(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale at every context, both ``(B, D)``."""
        out = self.net(context)
        mean, raw = out.chunk(2, dim=-1) if self.predicted else (out, torch.zeros_like(out))
        return mean, self.min_scale + nn.functional.softplus(raw + self.raw_scale)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        mean, scale = self.parameters_at(context)
        z = (x - mean) / scale
        return -(0.5 * z.square() + scale.log()).sum(-1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        assert context is not None
        mean, scale = self.parameters_at(context)
        where = generator.device if generator is not None else mean.device
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=where)
        return mean + temperature * scale * noise.to(mean.device)
