"""Gaussian bases."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.transforms.noise import normal_numbers

__all__ = ["StandardNormal"]


class StandardNormal(Density):
    r"""The standard Gaussian :math:`N(0, I_D)`; a context, where given, is ignored."""

    tempers = True

    def __init__(self, features: int) -> None:
        super().__init__((features,))
        self.features = features
        # Carries device and type, which a density without parameters would not have.
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return -0.5 * (x.square().sum(-1) + self.features * math.log(2 * math.pi))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        # A generator lives on one device; drawing there and moving keeps samples reproducible.
        noise = normal_numbers((n, self.features), self.dtype, self.device, generator)
        return noise if temperature == 1.0 else temperature * noise

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        x = self._sample(n, None, generator)
        return x, self._log_prob(x, None)
