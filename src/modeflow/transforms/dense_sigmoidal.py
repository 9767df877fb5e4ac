"""Dense sigmoidal layers: a monotone network for every entry (NAF-DDSF)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.transforms.monotonic import Monotonic, positive

__all__ = ["DenseSigmoidalElementwise"]


class DenseSigmoidalElementwise(Monotonic):
    r"""Deep dense sigmoidal flow's map (NAF-DDSF): a stack of dense layers of sigmoids, one entry in and out.

    .. math:: h' = \operatorname{logit}\big(W\, \sigma(a \odot (U h) + b)\big), \qquad
        \text{rows of } U, W \text{ are softmax}, \quad a = \operatorname{softplus}

    All weights come from the conditioner (in the original they share an unconditional part). Values and
    slopes stay in log space, so that float32 tails hold. Zero parameters: the identity.

    Arguments:
        units: width of the hidden layers.
        depth: dense layers, 2 or more.

    Reference:
        Huang et al., *Neural Autoregressive Flows*, 2018, https://arxiv.org/abs/1804.00779
    """

    def __init__(self, units: int = 4, depth: int = 2) -> None:
        super().__init__()
        if units < 1 or depth < 2:
            raise ConfigError(f"units must be 1 or more and depth 2 or more, received {units}, {depth}")
        widths = [1, *([units] * (depth - 1)), 1]
        # (in, units, out) of every layer; U (units, in), a and b (units), W (out, units).
        self.layers = [(a, units, b) for a, b in pairwise(widths)]
        self.sizes = [(u * i, u, u, o * u) for i, u, o in self.layers]
        self.n_params = sum(map(sum, self.sizes))

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        h = x.unsqueeze(-1)
        log_slope = torch.zeros_like(h)
        flat = [n for layer in self.sizes for n in layer]
        parts = iter(params.split(flat, dim=-1))
        for inputs, units, outputs in self.layers:
            raw_u, raw_a, b, raw_w = (next(parts) for _ in range(4))
            log_u = torch.log_softmax(raw_u.unflatten(-1, (units, inputs)), -1)
            log_w = torch.log_softmax(raw_w.unflatten(-1, (outputs, units)), -1)
            a, log_a = positive(raw_a + math.log(math.e - 1))
            z = a * (log_u.exp() * h.unsqueeze(-2)).sum(-1) + b
            slope = torch.logsumexp(log_u + log_slope.unsqueeze(-2), -1) + log_a
            below, above = F.logsigmoid(z), F.logsigmoid(-z)
            log_s = torch.logsumexp(log_w + below.unsqueeze(-2), -1)
            log_rest = torch.logsumexp(log_w + above.unsqueeze(-2), -1)
            h = log_s - log_rest
            inner = torch.logsumexp(log_w + (slope + below + above).unsqueeze(-2), -1)
            log_slope = inner - log_s - log_rest
        return h.squeeze(-1), log_slope.squeeze(-1)
