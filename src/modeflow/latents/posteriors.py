"""Approximate posteriors q(z | x)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeflow.nets import MLP

__all__ = ["CategoricalEncoder"]


class CategoricalEncoder(nn.Module):
    r"""``q(z = k | x) = softmax(a MLP(x))_k``.

    The sharpness a is one while training; `DiscreteLatentModel.calibrate` sets what it is afterwards.

    Arguments:
        features: dimension of the data.
        n_states: K.
        hidden_features: widths of the hidden layers.
        net: another network from x to K numbers, in the place of the MLP (for images).
    """

    sharpness: Tensor

    def __init__(
        self,
        features: int = 0,
        n_states: int = 1,
        hidden_features: Sequence[int] = (256, 256),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.n_states = n_states
        self.net = MLP(features, n_states, hidden_features) if net is None else net
        self.register_buffer("sharpness", torch.ones(()))

    def forward(self, x: Tensor, active: Tensor | None = None) -> Tensor:
        """Return ``log q(z | x)``, shape ``(B, K)``; minus infinity outside the `active` states."""
        logits = self.net(x) if self.training else self.sharpness * self.net(x)
        if active is not None:
            logits = logits.masked_fill(~active, float("-inf"))
        return torch.log_softmax(logits, dim=-1)
