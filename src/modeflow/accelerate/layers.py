"""The layers that the kernels know, by the names of what they are made of.

What a layer returns from its `native_description`. The arithmetic is in ``native/stack.cpp``, and is that of
the layers themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from modeflow.accelerate.maps import Map
from modeflow.accelerate.slots import Slot, buffer, parameter
from modeflow.native import kernels
from modeflow.nets.description import Dense, DenseNetwork

__all__ = ["LU", "Conditioned", "ContextAffine", "Description", "Permute"]

#: The address of what a slot holds; that of None is null.
At = Callable[[Slot | None], int]


class Description(ABC):
    """A layer of `features` features, as a kernel reads it.

    Attributes:
        features: D. context_features: width of the context, 0 for a layer that has none.
        leads: whether a run is worth its call for this layer; the others go along.
    """

    features: int
    context_features: int
    leads: ClassVar[bool] = False

    @property
    def invertible(self) -> bool:
        """Whether the kernel has its inverse; that of an autoregressive layer is `autoregressive.py`'s."""
        return True

    @property
    @abstractmethod
    def parameters(self) -> tuple[Slot, ...]:
        """In the order in which the kernel writes their gradients."""

    @property
    def constants(self) -> tuple[Slot, ...]:
        """Tensors that are no parameters: orders and masks."""
        return ()

    @property
    def widest(self) -> int:
        """Width of its widest matrix product, which decides whether a native call pays."""
        return self.features

    @property
    def network_width(self) -> int:
        """Widest input of its network, with the context; 0 without one. Wide networks take larger tiles."""
        return 0

    def consistent(self) -> bool:
        """Whether its parts fit each other: what does not would be read as it lies."""
        return True

    @abstractmethod
    def native(self, at: At) -> Any:
        """The kernels' own struct of it (`LayerFields` in ``native/fields.h``), with addresses."""


@dataclass(frozen=True, eq=False)
class Permute(Description):
    """Output j is input ``order[j]``."""

    features: int
    order: Slot
    context_features = 0

    @property
    def parameters(self) -> tuple[Slot, ...]:
        return ()

    @property
    def constants(self) -> tuple[Slot, ...]:
        return (self.order,)

    def native(self, at: At) -> Any:
        return kernels.Layer.permutation(order=at(self.order))


@dataclass(frozen=True, eq=False)
class LU(Description):
    """``L U x + b``; U's diagonal is `eps` above a softplus of `raw_diagonal`. Triangles are row by row."""

    features: int
    eps: float
    lower: Slot
    upper: Slot
    raw_diagonal: Slot
    bias: Slot
    context_features = 0

    @property
    def parameters(self) -> tuple[Slot, ...]:
        return self.lower, self.upper, self.raw_diagonal, self.bias

    def native(self, at: At) -> Any:
        return kernels.Layer.linear(
            eps=self.eps,
            lower=at(self.lower),
            upper=at(self.upper),
            raw_diagonal=at(self.raw_diagonal),
            bias=at(self.bias),
        )


@dataclass(frozen=True, eq=False)
class ContextAffine(Description):
    """``(I + L) e^{-s} (x - m)``; the rows of the table, one for each context, hold m, s and, if full, L."""

    features: int
    context_features: int
    full: bool
    table: Slot
    leads = True

    @property
    def parameters(self) -> tuple[Slot, ...]:
        return (self.table,)

    def native(self, at: At) -> Any:
        return kernels.Layer.context_affine(
            full=self.full, has_context=self.context_features > 0, table=at(self.table)
        )


@dataclass(frozen=True)
class _DenseSlots:
    """Where the tensors of a dense layer are found."""

    layer: Dense
    weight: Slot
    bias: Slot
    mask: Slot | None
    context_weight: Slot | None
    context_bias: Slot | None

    @classmethod
    def of(cls, layer: Dense) -> _DenseSlots:
        linear, added = layer.linear, layer.context
        shape = linear.out_features, linear.in_features
        context_weight = context_bias = None
        if added is not None:
            context_weight = parameter(added, "weight", added.out_features, added.in_features)
            context_bias = parameter(added, "bias", added.out_features)
        return cls(
            layer,
            weight=parameter(linear, "weight", *shape),
            bias=parameter(linear, "bias", layer.outputs),
            mask=buffer(linear, "mask", *shape) if layer.masked else None,
            context_weight=context_weight,
            context_bias=context_bias,
        )

    @property
    def parameters(self) -> tuple[Slot, ...]:
        found = (self.weight, self.bias, self.context_weight, self.context_bias)
        return tuple(slot for slot in found if slot is not None)

    def native(self, at: At) -> Any:
        return kernels.Dense(
            inputs=self.layer.inputs,
            outputs=self.layer.outputs,
            context_columns=self.layer.context_columns,
            weight=at(self.weight),
            bias=at(self.bias),
            mask=at(self.mask),
            context_weight=at(self.context_weight),
            context_bias=at(self.context_bias),
        )


@dataclass(frozen=True, eq=False)
class Conditioned(Description):
    """An elementwise map with parameters from a network: a coupling, or an autoregressive layer.

    Attributes:
        seen, moved: how many features the network sees, and how many the map moves.
        index: which: those that are seen, then those that are moved.
        autoregressive: what is moved is seen too, and the network sees to it that the result is triangular.
    """

    features: int
    context_features: int
    seen: int
    moved: int
    index: Slot
    autoregressive: bool
    map: Map
    network: DenseNetwork
    leads = True

    @property
    def invertible(self) -> bool:
        return not self.autoregressive

    @cached_property
    def dense(self) -> tuple[_DenseSlots, ...]:
        """The network's layers with their slots, which are told apart by identity."""
        return tuple(_DenseSlots.of(layer) for layer in self.network.layers)

    @property
    def parameters(self) -> tuple[Slot, ...]:
        return tuple(slot for dense in self.dense for slot in dense.parameters)

    @property
    def constants(self) -> tuple[Slot, ...]:
        return self.index, *(dense.mask for dense in self.dense if dense.mask is not None)

    @property
    def widest(self) -> int:
        return max(layer.inputs for layer in self.network.layers)

    @property
    def network_width(self) -> int:
        return max(layer.linear.in_features for layer in self.network.layers)

    def consistent(self) -> bool:
        network = self.network
        return (
            network.context_features == self.context_features
            and network.inputs == self.seen
            and network.outputs == self.moved * self.map.n_params
            and network.joined()
            and all(slot.holder.get(slot.name) is not None for slot in self.parameters)
        )

    def native(self, at: At) -> Any:
        return kernels.Layer.conditioned(
            index=at(self.index),
            seen=self.seen,
            moved=self.moved,
            autoregressive=self.autoregressive,
            residual=self.network.residual,
            map=self.map.native(),
            network=[dense.native(at) for dense in self.dense],
        )
