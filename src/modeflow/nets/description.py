"""What networks say of themselves, for whoever evaluates them by other means (`modeflow.accelerate`).

A network that is dense layers with the positive part between them returns a `DenseNetwork` from its
`native_description`. Only what the very class of a module defines counts (`defines`): a subclass may change
whatever it likes, and is another network until it describes itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

__all__ = [
    "Dense",
    "DenseBlock",
    "DenseNetwork",
    "defines",
    "dense",
    "dense_block",
    "dense_network",
    "residual_network",
]


def defines(module: nn.Module, name: str) -> bool:
    """Whether the module's class itself, not one that it inherits from, defines the method."""
    return name in vars(type(module))


@dataclass(frozen=True)
class Dense:
    """A dense layer, and what the context adds to what it gives.

    Attributes:
        linear: its weight and bias. masked: whether its buffer ``mask`` multiplies the weight.
        context_columns: columns of the weight, the last ones, that are the context's.
        context: another dense layer, of the context, whose result is added.
    """

    linear: nn.Linear
    masked: bool = False
    context_columns: int = 0
    context: nn.Linear | None = None

    @property
    def inputs(self) -> int:
        """Columns without those of the context."""
        return self.linear.in_features - self.context_columns

    @property
    def outputs(self) -> int:
        """Width of what it gives."""
        return self.linear.out_features


@dataclass(frozen=True)
class DenseBlock:
    """A residual block, ``h + second(relu(first(relu(h))))``."""

    first: Dense
    second: Dense


@dataclass(frozen=True)
class DenseNetwork:
    """Dense layers in order, with the positive part between them.

    Attributes:
        residual: the layers are the first, then two of every `DenseBlock`, then the last; else plain ones.
        context_features: width of the context, 0 for none.
    """

    residual: bool
    layers: tuple[Dense, ...]
    context_features: int

    @property
    def inputs(self) -> int:
        """Width of what the network sees, without the context."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Width of what it gives."""
        return self.layers[-1].outputs

    def joined(self) -> bool:
        """Whether every layer has the width that the one before gives, and a context that of the network."""
        width = self.inputs
        for layer in self.layers:
            if layer.inputs != width or layer.context_columns not in (0, self.context_features):
                return False
            width = layer.outputs
            added = layer.context
            if added is not None and (added.in_features, added.out_features) != (
                self.context_features,
                width,
            ):
                return False
        return True


def dense(layer: nn.Module, context_columns: int = 0, context: nn.Module | None = None) -> Dense | None:
    """The description of a dense layer; None for a module that is none, or of no known class."""
    if context is not None and type(context) is not nn.Linear:
        return None
    if type(layer) is nn.Linear:
        return Dense(layer, False, context_columns, context)
    found = layer.native_description() if defines(layer, "native_description") else None  # type: ignore[operator]
    if not isinstance(found, Dense):
        return None
    return replace(found, context_columns=context_columns, context=context)


def dense_network(
    layers: Iterable[Dense | None], context_features: int, residual: bool = False
) -> DenseNetwork | None:
    """The network of these layers; None where one of them is unknown."""
    known = []
    for layer in layers:
        if layer is None:
            return None
        known.append(layer)
    return DenseNetwork(residual, tuple(known), context_features)


def residual_network(
    first: Dense | None, blocks: Iterable[nn.Module], last: Dense | None, context_features: int
) -> DenseNetwork | None:
    """The network of a first layer, residual blocks, and a last layer; None where one is unknown."""
    layers = [first]
    for block in blocks:
        found = block.native_description() if defines(block, "native_description") else None  # type: ignore[operator]
        layers += [found.first, found.second] if isinstance(found, DenseBlock) else [None]
    return dense_network([*layers, last], context_features, residual=True)


def dense_block(first: nn.Module, second: nn.Module) -> DenseBlock | None:
    """The block of two dense layers; None where one is unknown."""
    one, two = dense(first), dense(second)
    return None if one is None or two is None else DenseBlock(one, two)
