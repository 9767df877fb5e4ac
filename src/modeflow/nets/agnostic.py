"""MADE with several orders and connectivities that share one set of weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.nets.mlp import Activation, linear, start_near_zero

__all__ = ["AgnosticMADE"]


class AgnosticMADE(nn.Module):
    """MADE ``(B, D) [, (B, C)] -> (B, D, params)`` under one of `n_masks` orders and connectivities.

    Mask 0 has the natural order; the others are drawn from `seed`. Under mask k, output d is a function of
    the inputs that come before d in ``orders[k]``, and of the context.

    Reference:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
        https://arxiv.org/abs/1502.03509
    """

    orders: Tensor

    def __init__(
        self,
        features: int,
        params: int,
        hidden_features: Sequence[int] = (64, 64),
        context_features: int = 0,
        n_masks: int = 1,
        activation: Activation = F.relu,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.features, self.params, self.n_masks = features, params, n_masks
        self.context_features, self.activation = context_features, activation
        generator = torch.Generator().manual_seed(seed)
        orders = [torch.arange(features)]
        orders += [torch.randperm(features, generator=generator) for _ in range(n_masks - 1)]
        # orders[k, i] is the feature that comes i-th; rank[d] is the place of feature d, from 1.
        self.register_buffer("orders", torch.stack(orders))
        widths = [features, *hidden_features]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.final = nn.Linear(widths[-1], features * params)
        lowest = 0 if context_features else min(1, features - 1)
        for k, order in enumerate(orders):
            degrees = torch.argsort(order) + 1
            rank = degrees
            for i, width in enumerate(hidden_features):
                least = max(lowest, int(degrees.min())) if i else lowest
                new = torch.randint(least, max(features, least + 1), (width,), generator=generator)
                mask = (new[:, None] >= degrees[None, :]).float()
                self.register_buffer(f"mask_{k}_{i}", mask, persistent=False)
                degrees = new
            out = rank.repeat_interleave(params)
            self.register_buffer(
                f"mask_{k}_final", (out[:, None] > degrees[None, :]).float(), persistent=False
            )
        self.context_hidden: nn.Linear | None = None
        self.context_final: nn.Linear | None = None
        if context_features:
            self.context_hidden = linear(context_features, widths[1])
            self.context_final = linear(context_features, features * params)
            start_near_zero(self.context_final)
        start_near_zero(self.final)

    def _masked(self, layer: nn.Linear, name: str, x: Tensor) -> Tensor:
        mask: Tensor = getattr(self, name)
        return F.linear(x, layer.weight * mask.to(layer.weight.dtype), layer.bias)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: int = 0) -> Tensor:
        h = x
        for i, layer in enumerate(self.hidden):
            h = self._masked(layer, f"mask_{mask}_{i}", h)  # type: ignore[arg-type]
            if i == 0 and self.context_hidden is not None:
                h = h + self.context_hidden(context)
            h = self.activation(h)
        out = self._masked(self.final, f"mask_{mask}_final", h)
        if self.context_final is not None:
            out = out + self.context_final(context)
        return out.unflatten(-1, (self.features, self.params))
