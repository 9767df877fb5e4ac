"""Likelihoods of images without a flow: pixels independent given the context."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.errors import DataError
from modeflow.transforms.base import sum_event
from modeflow.transforms.noise import open_uniform
from modeflow.transforms.pixels import PixelBins

__all__ = ["DiscretizedDecoder"]


class DiscretizedDecoder(Density):
    r"""Probability of whole numbers, ``P(x | c) = Π P(x_d | c)``, each a bin of a mixture (`PixelBins`).

    Exact: whole numbers need no noise here. The likelihood of the VAE and the VQ-VAE for images. Pixels that
    are missing (NaN) have no term.

    Arguments:
        bins: the probabilities; may be shared with a `PixelGaussianize`.

    Reference:
        Kingma et al., *Improved Variational Inference with Inverse Autoregressive Flow*, 2016,
        https://arxiv.org/abs/1606.04934 (discretised logistic)
    """

    tempers = True
    leaves_out = True

    def __init__(self, bins: PixelBins) -> None:
        super().__init__(bins.shape, bins.context_features)
        self.bins = bins
        self.levels = bins.levels

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        most, missing = self.bins.levels - 1, x.isnan()
        if not bool(((x >= 0) & (x <= most) & (x == x.round()) | missing).all()):
            raise DataError(f"expected whole numbers from 0 to {most}")
        x = torch.where(missing, 0.0, x)
        each = self.bins.at(x, self.bins.parameters_at(context)).probs.log()
        return sum_event(torch.where(missing, 0.0, each))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        params: Any = self.bins.parameters_at(context)
        params = tuple(p.expand(n, *p.shape[1:]) for p in params)
        u = open_uniform((n, *self.event_shape), params[0].dtype, params[0].device, generator)
        if temperature == 0:
            return self.bins.mean(context).round().expand(n, *self.event_shape)
        # A component's spread times the temperature; its weight as it is.
        params = (params[0], params[1], params[2] + math.log(temperature))
        return self.bins.search(u, 1 - u, params)
