"""A Gaussian mixture as the base of a flow."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.transforms.noise import normal_numbers, open_uniform

__all__ = ["GaussianMixtureBase"]


class GaussianMixtureBase(Density):
    r"""``p(u) = Σ_k π_k N(u; μ_k, diag σ_k²)`` with everything learned.

    A temperature multiplies the scales σ; means and weights stay.

    Arguments:
        features: D. components: K.

    Raises:
        ConfigError: if `components` is less than one.
    """

    tempers = True

    def __init__(self, features: int, components: int = 8) -> None:
        super().__init__((features,))
        if components < 1:
            raise ConfigError(f"components must be 1 or more, received {components}")
        self.components = components
        # Spread so that the whole has about zero mean and unit variance; one component alone is N(0, I).
        share = 0.2 if components > 1 else 0.0
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(math.sqrt(share) * torch.randn(components, features))
        self.log_scale = nn.Parameter(torch.full((components, features), 0.5 * math.log(1 - share)))

    def component_log_probs(self, x: Tensor) -> Tensor:
        """``log π_k + log N(x; μ_k, σ_k²)``, shape ``(B, K)``."""
        z = (x.unsqueeze(1) - self.mean) * torch.exp(-self.log_scale)
        log_normal = (-0.5 * z.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.log_softmax(self.logits, 0) + log_normal

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return torch.logsumexp(self.component_log_probs(x), 1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        noise = normal_numbers((n, *self.event_shape), self.dtype, self.device, generator)
        level = open_uniform((n,), self.dtype, self.device, generator)
        edges = torch.softmax(self.logits, 0).cumsum(0)
        k = torch.searchsorted(edges, level).clamp_max(self.components - 1)
        return self.mean[k] + temperature * self.log_scale[k].exp() * noise

    def rsample_strata(
        self, n: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        shape = (n, self.components, *self.event_shape)
        noise = normal_numbers(shape, self.dtype, self.device, generator)
        x = self.mean + self.log_scale.exp() * noise
        log_prob = self._log_prob(x.flatten(0, 1), None).view(n, self.components)
        return x, log_prob, torch.log_softmax(self.logits, 0)
