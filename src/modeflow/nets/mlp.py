"""Dense conditioners, plain and residual, with an optional context."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.nets.description import DenseBlock, DenseNetwork, dense, dense_block, residual_network
from modeflow.nets.randomness import Dropout

__all__ = ["MLP", "ResidualMLP"]

Activation = Callable[[Tensor], Tensor]


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer that may have no inputs at all (then it is its bias)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        layer = nn.Linear(in_features, out_features)
    if in_features == 0:
        nn.init.zeros_(layer.bias)
    return layer


def join(x: Tensor, context: Tensor | None) -> Tensor:
    """Concatenate the context to the features, where there is one."""
    return x if context is None else torch.cat((x, context), dim=-1)


class MLP(nn.Module):
    """Multi-layer perceptron ``(B, in_features) [, (B, context_features)] -> (B, out_features)``.

    Arguments:
        in_features: width of the input; 0 is allowed (the output depends on the context alone).
        out_features: width of the output.
        hidden_features: widths of the hidden layers.
        context_features: width of the context, concatenated to the input.
        activation: elementwise non-linearity.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: Sequence[int] = (64, 64),
        context_features: int = 0,
        activation: Activation = F.relu,
    ) -> None:
        super().__init__()
        widths = [in_features + context_features, *hidden_features]
        self.context_features = context_features
        self.activation = activation
        self.hidden = nn.ModuleList(linear(a, b) for a, b in pairwise(widths))
        self.final = linear(widths[-1], out_features)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = join(x, context)
        for layer in self.hidden:
            h = self.activation(layer(h))
        return self.final(h)


@torch.no_grad()
def start_near_zero(layer: nn.Linear | nn.Conv2d) -> None:
    """Shrink an output layer, so that the transform it parametrises starts near the identity.

    Not to zero exactly: equal outputs would give equal gradients.
    """
    layer.weight.mul_(1e-2)
    if layer.bias is not None:
        layer.bias.mul_(1e-2)


class ResidualBlock(nn.Module):
    """``h + W2 a(W1 a(h))``, the update gated by the context where there is one."""

    def __init__(self, features: int, gate_features: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.activation = activation
        self.linear1 = linear(features, features)
        self.linear2 = linear(features, features)
        # Near-zero updates make every block start as the identity, which keeps deep stacks trainable.
        nn.init.uniform_(self.linear2.weight, -1e-3, 1e-3)
        nn.init.uniform_(self.linear2.bias, -1e-3, 1e-3)
        self.dropout = Dropout(dropout) if dropout > 0 else None
        self.gate = linear(gate_features, features) if gate_features else None

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        update = self.linear1(self.activation(h))
        update = self.activation(update)
        if self.dropout is not None:
            update = self.dropout(update)
        update = self.linear2(update)
        if self.gate is not None:
            update = update * torch.sigmoid(self.gate(context))
        return h + update

    def native_description(self) -> DenseBlock | None:
        if self.gate is not None or self.activation is not F.relu:
            return None
        return dense_block(self.linear1, self.linear2)


class ResidualMLP(nn.Module):
    """Residual network ``(B, in_features) [, (B, context_features)] -> (B, out_features)``.

    The context is concatenated to the input; with ``gate=True`` it is, as in Neural Spline Flows, also a
    sigmoid gate on the update of every block (three more operations a block).

    Arguments:
        in_features, out_features, context_features: widths.
        hidden_features: width of the hidden layers.
        blocks: number of residual blocks, two linear layers each.
        activation: elementwise non-linearity.
        dropout: probability of dropping a hidden unit inside a block, while training.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden_features: int = 64,
        context_features: int = 0,
        blocks: int = 2,
        activation: Activation = F.relu,
        dropout: float = 0.0,
        gate: bool = False,
    ) -> None:
        super().__init__()
        self.context_features = context_features
        self.activation = activation
        self.gated = gate and context_features > 0
        self.initial = linear(in_features + context_features, hidden_features)
        self.blocks = nn.ModuleList(
            ResidualBlock(hidden_features, context_features if gate else 0, activation, dropout)
            for _ in range(blocks)
        )
        self.final = linear(hidden_features, out_features)
        start_near_zero(self.final)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.initial(join(x, context))
        for block in self.blocks:
            h = block(h, context)
        return self.final(h)

    def native_description(self) -> DenseNetwork | None:
        if self.gated or self.activation is not F.relu:
            return None
        first = dense(self.initial, context_columns=self.context_features)
        return residual_network(first, self.blocks, dense(self.final), self.context_features)
