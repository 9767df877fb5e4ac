"""The map that changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.transforms.base import Transform

__all__ = ["Identity"]


class Identity(Transform):
    """``u = x``, of any shape and type: where a density needs no preprocessing."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x, torch.zeros(len(x), device=x.device)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return u, torch.zeros(len(u), device=u.device)
