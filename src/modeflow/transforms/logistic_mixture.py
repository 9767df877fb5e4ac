"""The elementwise map of Flow++: the distribution function of a mixture of logistics, through a logit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.accelerate import LogisticMixtureMap, description_of, kernel_takes, native_elementwise
from modeflow.errors import ConfigError
from modeflow.transforms.monotonic import Monotonic
from modeflow.transforms.surjections import soft_log_scale

__all__ = ["LogisticMixtureElementwise"]


class LogisticMixtureElementwise(Monotonic):
    r"""Distribution function of a mixture of K logistics, a logit, and an affine map (Flow++).

    .. math:: u = e^{a} \operatorname{logit} F(x) + b, \qquad
        F(x) = \sum_k \pi_k\, \sigma\big((x - \mu_k) e^{-s_k}\big)

    .. math:: \log u'(x) = \log f(x) - \log F(x) - \log(1 - F(x)) + a

    Everything is computed from ``log σ`` of ±z, so that float32 holds far out, where F rounds to one. The
    log-scales s and a are softly bounded. Zero parameters give the identity. The inverse is found by
    bisection and Newton steps.

    Arguments:
        components: K; ``3 * components + 2`` parameters of each entry, in the order π, μ, s, a, b.
        max_log_scale: soft bound of ``|s|`` (7 in the paper's code, from below).
        max_log_slope: soft bound of ``|a|``.

    Raises:
        ConfigError: if `components` is less than one.

    Reference:
        Ho et al., *Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
        Architecture Design*, 2019, https://arxiv.org/abs/1902.00275
    """

    def __init__(self, components: int = 4, max_log_scale: float = 7.0, max_log_slope: float = 5.0) -> None:
        super().__init__()
        if components < 1:
            raise ConfigError(f"components must be 1 or more, received {components}")
        self.components = components
        self.max_log_scale, self.max_log_slope = max_log_scale, max_log_slope
        self.n_params = 3 * components + 2

    @property
    def _map(self) -> LogisticMixtureMap:
        return LogisticMixtureMap(self.components, self.max_log_scale, self.max_log_slope)

    def native_description(self) -> LogisticMixtureMap:
        return self._map

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        if kernel_takes(x, params, self._map):
            return native_elementwise(x, params, self._map, False, lambda a, b, _: self.forward(a, b))
        k = self.components
        raw_weight, mean, raw_scale, tail = params.split((k, k, k, 2), dim=-1)
        log_weight = torch.log_softmax(raw_weight, -1)
        log_scale = soft_log_scale(raw_scale, self.max_log_scale)
        a = soft_log_scale(tail[..., 0], self.max_log_slope)
        z = (x.unsqueeze(-1) - mean) * torch.exp(-log_scale)
        below, above = F.logsigmoid(z), F.logsigmoid(-z)
        log_cdf = torch.logsumexp(log_weight + below, -1)
        log_rest = torch.logsumexp(log_weight + above, -1)
        log_pdf = torch.logsumexp(log_weight - log_scale + below + above, -1)
        u = (log_cdf - log_rest) * torch.exp(a) + tail[..., 1]
        return u, log_pdf - log_cdf - log_rest + a

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        wanted = torch.is_grad_enabled() and (u.requires_grad or params.requires_grad)
        # The inverse of this class's own `forward`: that of a subclass is found by search.
        map_ = None if wanted else description_of(self)
        if map_ is not None and kernel_takes(u, params, map_):
            return native_elementwise(u, params, map_, True, lambda a, b, _: self.inverse(a, b))
        return super().inverse(u, params)
