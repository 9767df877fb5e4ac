"""Layers one after the other: what a run stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["chain"]


def chain(
    layers: Sequence[Any], x: Tensor, context: Tensor | None, inverse: bool = False
) -> tuple[Tensor, Tensor]:
    """One layer after the other, or their inverses in the reverse order, and the sum of log-determinants."""
    total = x.new_zeros(x.shape[0])
    for layer in reversed(layers) if inverse else layers:
        x, logabsdet = layer.inverse(x, context) if inverse else layer(x, context)
        total = total + logabsdet
    return x, total
