"""The unit sphere: its area, and the uniform density on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.errors import ConfigError

__all__ = ["UniformSphere", "log_area"]


def log_area(features: int) -> float:
    r"""Logarithm of the area of the unit sphere in m dimensions, :math:`2 \pi^{m/2} / \Gamma(m/2)`."""
    return math.log(2) + 0.5 * features * math.log(math.pi) - math.lgamma(0.5 * features)


class UniformSphere(Density):
    r"""The uniform density on the sphere :math:`S^{m-1} = \{z \in R^m: |z| = 1\}`.

    .. math:: p(z) = \Gamma(m/2) / (2 \pi^{m/2})

    It is a density on the sphere, per unit of its area: events are m numbers of norm one. At every
    temperature it is the same: raised to any power it stays uniform.

    Arguments:
        features: m, the numbers of z; the sphere has one dimension less.

    Raises:
        ConfigError: for m below 2, where the sphere is two points.
    """

    tempers = True

    def __init__(self, features: int) -> None:
        if features < 2:
            raise ConfigError(f"a sphere needs 2 dimensions around it or more, received {features}")
        super().__init__((features,))
        self.features = features
        # Carries device and type, which a density without parameters would not have.
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x.new_full((len(x),), -log_area(self.features))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        where = generator.device if generator is not None else self.device
        noise = torch.randn(n, self.features, generator=generator, dtype=self.dtype, device=where)
        return torch.nn.functional.normalize(noise, dim=-1).to(self.device)
