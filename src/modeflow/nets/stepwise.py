"""Autoregressive networks evaluated feature by feature, each hidden unit once.

Units are sorted by degree, so the units that inputs up to d decide are a block of rows, and what they see is
a prefix of columns. A whole sample then costs the arithmetic of one pass, instead of one for every feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.nets.mlp import Activation

__all__ = ["Layers", "Stepwise", "in_steps"]


@dataclass(frozen=True)
class Layers:
    """An autoregressive network as `Stepwise` and the native kernel read it.

    Attributes:
        features, params: D, and outputs for each feature, or a list of how many each has.
        residual: hidden layers are the initial one, then two of every block; else plain ones.
        activation: between them.
        hidden, final: the masked linear layers.
        until: for each hidden layer ``(D,)``: number of its units that depend on inputs up to d alone.
        context_first, context_final: what the context adds, ``(B, width)`` and ``(B, outputs)``, or None.
        inputs: how many numbers say what each feature is; one each if None.
        direct: the masked linear layer from the inputs to the outputs, or None.
    """

    features: int
    params: int | Sequence[int]
    residual: bool
    activation: Activation
    hidden: list[nn.Linear]
    final: nn.Linear
    until: list[Tensor]
    context_first: Tensor | None
    context_final: Tensor | None
    inputs: Sequence[int] | None = None
    direct: nn.Linear | None = None

    @property
    def native(self) -> bool:
        """Whether the native kernel knows this network."""
        uniform = isinstance(self.params, int) and self.inputs is None
        return self.activation is F.relu and uniform and self.direct is None

    @property
    def input_ends(self) -> list[int]:
        """Numbers before each feature, and of all."""
        return _ends(self.features, 1 if self.inputs is None else self.inputs)

    @property
    def output_ends(self) -> list[int]:
        """Outputs before those of each feature, and all."""
        return _ends(self.features, self.params)


def _ends(features: int, widths: int | Sequence[int]) -> list[int]:
    return list(accumulate([widths] * features if isinstance(widths, int) else widths, initial=0))


def count_until(degrees: Tensor, features: int) -> Tensor:
    """How many of the (sorted) units have a degree of at most d, for d = 0 .. D - 1."""
    return torch.searchsorted(degrees.cpu(), torch.arange(features), right=True)


#: Masks of networks, and their versions, when `in_steps` last looked at them; and what it found.
_SEEN: WeakKeyDictionary[nn.Module, tuple[list[Tensor], list[int], bool]] = WeakKeyDictionary()


def in_steps(net: nn.Module, layers: Layers) -> bool:
    """Whether `Stepwise` evaluates the network: what a unit sees is what its masks show now.

    Nor may a block have another activation than the network, or a gate.
    """
    for block in getattr(net, "blocks", ()):
        if block.activation is not layers.activation or block.gate is not None:
            return False
    linears = [*layers.hidden, layers.final]
    if any(linear._parameters.get("bias") is None for linear in linears):
        return False
    linears += [] if layers.direct is None else [layers.direct]
    masks = [linear._buffers.get("mask") for linear in linears]
    found = [m for m in masks if m is not None]
    if len(found) < len(masks):
        return False
    versions = [-1 if m.is_inference() else m._version for m in found]
    seen = _SEEN.get(net)
    if seen is None or seen[1] != versions or any(a is not b for a, b in zip(seen[0], found, strict=True)):
        seen = _SEEN[net] = (found, versions, _masks_fit(layers, found))
    return seen[2]


def _masks_fit(layers: Layers, masks: list[Tensor]) -> bool:
    """Whether a unit decided by inputs up to d sees all inputs and units that these decide, and no others."""
    features = torch.arange(1, layers.features + 1)
    below = inputs = features.repeat_interleave(torch.tensor(layers.input_ends).diff())
    wanted = []
    for until, linear in zip(layers.until, layers.hidden, strict=True):
        degrees = torch.searchsorted(until.cpu(), torch.arange(linear.out_features), right=True)
        wanted.append(degrees[:, None] >= below[None, :])
        below = degrees
    outputs = features.repeat_interleave(torch.tensor(layers.output_ends).diff())
    wanted.append(outputs[:, None] > below[None, :])
    if layers.direct is not None:
        wanted.append(outputs[:, None] > inputs[None, :])
    return all(m.shape == w.shape and torch.equal(m, w.to(m)) for m, w in zip(masks, wanted, strict=True))


class Stepwise:
    """The parameters of one feature after the other; `put` hands in each feature as it becomes known."""

    def __init__(self, layers: Layers, rows: int) -> None:
        self.layers = layers
        like = layers.final.weight
        self.inputs, self.outputs = layers.input_ends, layers.output_ends
        self.x = like.new_zeros(rows, self.inputs[-1])
        self.values = [like.new_zeros(rows, layer.out_features) for layer in layers.hidden]
        self.until = [u.tolist() for u in layers.until]

    def params(self, d: int) -> Tensor:
        """Parameters of feature d, ``(B, params)``, given the features before it."""
        net = self.layers
        before, seen = self.x, self.inputs[d]
        for i, layer in enumerate(net.hidden):
            first, last = (self.until[i][d - 1] if d else 0), self.until[i][d]
            known = before[:, :seen]
            h = F.linear(
                known if i == 0 else net.activation(known),
                layer.weight[first:last, :seen],
                layer.bias[first:last],
            )
            if i == 0 and net.context_first is not None:
                h = h + net.context_first[:, first:last]
            if net.residual and i > 0 and i % 2 == 0:
                # The second layer of a block: added to what came into the block.
                h = h + self.values[i - 2][:, first:last]
            self.values[i][:, first:last] = h
            before, seen = self.values[i], last
        known = before[:, :seen]
        if net.hidden and not net.residual:
            known = net.activation(known)
        rows = slice(self.outputs[d], self.outputs[d + 1])
        out = F.linear(known, net.final.weight[rows, :seen], net.final.bias[rows])
        if net.direct is not None:
            out = out + F.linear(self.x[:, : self.inputs[d]], net.direct.weight[rows, : self.inputs[d]])
        return out if net.context_final is None else out + net.context_final[:, rows]

    def put(self, d: int, column: Tensor) -> None:
        """Feature d is `column`, ``(B,)``, or the numbers that say it, ``(B, inputs)``."""
        numbers = column.unsqueeze(1) if column.dim() == 1 else column
        self.x[:, self.inputs[d] : self.inputs[d + 1]] = numbers
