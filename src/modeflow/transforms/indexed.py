"""Layers with a continuous index of their own (continuously indexed flows)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.transforms.base import Transform
from modeflow.transforms.coupling import ConditionerFactory
from modeflow.transforms.surjections import (
    Surjection,
    draw_gaussian,
    gaussian_log_prob,
    normal,
    soft_log_scale,
)

__all__ = ["Indexed"]


class Indexed(Surjection):
    r"""A bijection that depends on an index e, which is drawn: by q given the data, by p given the noise.

    .. math:: z = e^{-s(e)} \odot (T(x) - t(e)), \qquad
        \log p(x) \ge E_{q(e|x)}\Big[\log p(z) + \log\Big|\det\frac{\partial z}{\partial x}\Big|
        + \log p(e \mid z) - \log q(e \mid x)\Big]

    Arguments:
        transform: T, a bijection of D features.
        features: D. index_features: width of e.
        net: factory of the three networks (``(in, out, context) -> module``): of t and s, of p and of q.
        context_features: width of the context.

    Reference:
        Cornish et al., *Relaxing Bijectivity Constraints with Continuously Indexed Normalising Flows*, 2020,
        https://arxiv.org/abs/1909.13833
    """

    exactness = "lower bound"

    def __init__(
        self,
        transform: Transform,
        features: int,
        index_features: int,
        net: ConditionerFactory,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.transform = transform
        self.context_features = context_features
        self.move: nn.Module = net(index_features, 2 * features, context_features)
        self.decoder: nn.Module = net(features, 2 * index_features, context_features)
        self.encoder: nn.Module = net(features, 2 * index_features, context_features)

    def _of(self, net: nn.Module, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, raw = net(x, context if self.context_features else None).chunk(2, dim=1)
        return mean, raw

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        e, log_q = draw_gaussian(*self._of(self.encoder, x, context))
        z, logabsdet = self.transform(x, context)
        t, raw = self._of(self.move, e, context)
        s = soft_log_scale(raw)
        z = (z - t) * torch.exp(-s)
        mean, raw = self._of(self.decoder, z, context)
        scale = soft_log_scale(raw)
        log_p = gaussian_log_prob((e - mean) * torch.exp(-scale), scale)
        return z, logabsdet - s.sum(1) + log_p - log_q

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        mean, raw = self._of(self.decoder, u, context)
        e = mean + temperature * soft_log_scale(raw).exp() * normal(mean, generator)
        t, raw_s = self._of(self.move, e, context)
        return self.transform.sample(u * soft_log_scale(raw_s).exp() + t, context, generator, temperature)
