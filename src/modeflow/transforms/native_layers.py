"""What the native kernel knows: layers and networks of these types, and nothing that comes after them.

A layer goes by the kernel only if everything in it is exactly of a known type, as it was built or as it was
put together anew: subclasses, parametrisations (which are subclasses) and methods replaced on an object stay
with PyTorch. What may change later is watched (`native_plan`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from modeflow.nets.made import MADE, MaskedLinear, MaskedResidualBlock, ResidualMADE
from modeflow.nets.mlp import ResidualBlock, ResidualMLP
from modeflow.transforms.affine import ConditionalAffine
from modeflow.transforms.autoregressive import MaskedAutoregressive
from modeflow.transforms.base import Transform
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.linear import LULinear, Permutation
from modeflow.transforms.native_plain import plain

__all__ = ["CONDITIONED", "LAYERS", "Dense", "Part", "features_of", "fits"]

#: Layers that a run may hold, and those with parameters from a context or from features: one at least.
LAYERS = (Permutation, LULinear, ConditionalAffine, Coupling, MaskedAutoregressive)
CONDITIONED = (ConditionalAffine, Coupling, MaskedAutoregressive)


@dataclass(frozen=True)
class Dense:
    """A dense layer of a conditioner; for the context, more columns or a second layer added to it."""

    linear: torch.nn.Linear
    context_columns: int = 0
    other: torch.nn.Linear | None = None

    @property
    def slots(self) -> list[tuple[dict[str, Any], str]]:
        """Where its parameters are found."""
        parts = [self.linear] if self.other is None else [self.linear, self.other]
        return [(part._parameters, name) for part in parts for name in ("weight", "bias")]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of what the `slots` hold, as the kernel reads it."""
        parts = [self.linear] if self.other is None else [self.linear, self.other]
        return [shape for p in parts for shape in ((p.out_features, p.in_features), (p.out_features,))]

    @property
    def inputs(self) -> int:
        """Columns without those of the context."""
        return self.linear.in_features - self.context_columns

    @property
    def masked(self) -> bool:
        """Whether a mask multiplies the weight."""
        return isinstance(self.linear, MaskedLinear)


#: Everything that may be found in a layer, beside the maps of its features.
_KINDS = frozenset(
    (
        *(*LAYERS, ResidualMLP, ResidualBlock, MADE, ResidualMADE, MaskedResidualBlock, MaskedLinear),
        *(nn.Linear, nn.ModuleList, nn.Dropout),
    )
)


def _network(net: nn.Module) -> tuple[bool, list[Dense]] | None:
    """Whether residual, and the dense layers in order; None for a network that the kernel does not know."""
    kind = type(net)
    if kind is ResidualMLP and not net.gated:
        ends = Dense(net.initial, net.context_features), Dense(net.final)  # type: ignore[arg-type]
    elif kind is ResidualMADE and not net.gated:
        ends = Dense(net.initial, 0, net.context_initial), Dense(net.final, 0, net.context_final)  # type: ignore[arg-type]
    elif kind is MADE:
        hidden = [Dense(layer) for layer in net.hidden]  # type: ignore[union-attr]
        if hidden:
            hidden[0] = Dense(hidden[0].linear, 0, net.context_hidden)  # type: ignore[arg-type]
        return False, [*hidden, Dense(net.final, 0, net.context_final)]  # type: ignore[arg-type]
    else:
        return None
    blocks: Any = net.blocks
    if any(b.gate is not None or b.activation is not F.relu for b in blocks):
        return None
    return True, [ends[0], *(Dense(layer) for b in blocks for layer in (b.linear1, b.linear2)), ends[1]]


def fits(transform: Transform, widest: int) -> bool:
    """Whether the kernel can take the layer, with networks of at most this width."""
    if type(transform) not in LAYERS:
        return False
    if not isinstance(transform, Coupling | MaskedAutoregressive):
        return plain(transform, _KINDS) and features_of(transform) <= widest
    elementwise, kernel = transform.elementwise, transform.elementwise.kernel
    if kernel is None or kernel.n_params != elementwise.n_params:
        return False
    if not plain(transform, _KINDS | {type(elementwise)}):
        return False
    net = transform.conditioner
    network = _network(net) if getattr(net, "activation", None) is F.relu else None
    if network is None:
        return False
    return all(d.inputs <= widest for d in network[1]) and _joined(transform, network[1], kernel.n_params)


def _joined(transform: Coupling | MaskedAutoregressive, dense: list[Dense], n_params: int) -> bool:
    """Whether the dense layers follow on each other, from what is seen to the parameters of what is moved."""
    context = transform.context_features
    width = outputs = features_of(transform)
    if isinstance(transform, Coupling):
        width, outputs = transform.n_kept, transform.n_moved
    for layer in dense:
        linears = [layer.linear] if layer.other is None else [layer.linear, layer.other]
        if any(linear._parameters.get(name) is None for linear in linears for name in ("weight", "bias")):
            return False
        if layer.inputs != width or layer.context_columns not in (0, context):
            return False
        width = layer.linear.out_features
        added = layer.other
        if added is not None and (added.in_features, added.out_features) != (context, width):
            return False
    return bool(width == outputs * n_params and transform.conditioner.context_features == context)


def features_of(transform: Transform) -> int:
    """D of one of `LAYERS`."""
    if isinstance(transform, ConditionalAffine | LULinear):
        return int(transform.features)
    if isinstance(transform, Coupling | Permutation):
        return len(transform.order)  # type: ignore[arg-type]
    return int(transform.conditioner.features)  # type: ignore[arg-type, union-attr]


class Part:
    """A layer as the kernel reads it.

    Attributes:
        slots: where its parameters are found, in the order of the kernel; shapes: theirs.
        fixed: likewise of what is no parameter, the index and the masks.
        wide: whether its network is wide enough for larger tiles.
    """

    def __init__(self, layer: Transform) -> None:
        self.layer = layer
        self.slots: list[tuple[dict[str, Any], str]] = []
        self.shapes: list[tuple[int, ...]] = []
        self.dense: list[Dense] = []
        self.residual = self.wide = False
        if isinstance(layer, LULinear):
            names = ("lower", "upper", "raw_diagonal", "bias")
            self.slots = [(layer._parameters, name) for name in names]
            triangle = (layer.features * (layer.features - 1) // 2,)
            self.shapes = [triangle, triangle, (layer.features,), (layer.features,)]
        elif isinstance(layer, ConditionalAffine):
            self.slots = [(layer._parameters, "table")]
            lower = layer.features * (layer.features - 1) // 2 if layer.full else 0
            self.shapes = [(max(layer.context_features, 1), 2 * layer.features + lower)]
        elif isinstance(layer, Coupling | MaskedAutoregressive):
            network = _network(layer.conditioner)
            assert network is not None
            self.residual, self.dense = network
            self.slots = [slot for dense in self.dense for slot in dense.slots]
            self.shapes = [shape for dense in self.dense for shape in dense.shapes]
            self.wide = any(dense.linear.in_features > 128 for dense in self.dense)
        # Of a permutation its order; else the features that the network sees, then those that are moved.
        self._index: tuple[dict[str, Any], str] = (layer._buffers, "order")
        if isinstance(layer, MaskedAutoregressive):
            self._index = ({"all": torch.arange(features_of(layer)).repeat(2)}, "all")
        self.fixed = [] if isinstance(layer, LULinear | ConditionalAffine) else [self._index]
        self.fixed += [(d.linear._buffers, "mask") for d in self.dense if d.masked]

    def fixed_fit(self, kind: torch.dtype) -> bool:
        """Whether the index and the masks are as the kernel reads them, beside parameters of this type."""
        wanted: list[tuple[tuple[int, ...], torch.dtype]]
        wanted = [((d.linear.out_features, d.linear.in_features), kind) for d in self.dense if d.masked]
        if not isinstance(self.layer, LULinear | ConditionalAffine):
            width = features_of(self.layer) * (2 if isinstance(self.layer, MaskedAutoregressive) else 1)
            wanted = [((width,), torch.int64), *wanted]
        there: list[Any] = [tensors[name] for tensors, name in self.fixed]
        return all(
            tuple(t.shape) == shape and t.dtype is dtype and t.is_contiguous() and t.device.type == "cpu"
            for t, (shape, dtype) in zip(there, wanted, strict=True)
        )

    def described(self, addresses: list[int]) -> tuple[list[int], list[float]]:
        """Numbers and constants of the layer (`make_stack` in ``native/bindings.cpp``)."""
        layer = self.layer
        if isinstance(layer, Permutation):
            return [0, layer.order.data_ptr()], []
        if isinstance(layer, LULinear):
            return [1, *addresses], [layer.eps]
        if isinstance(layer, ConditionalAffine):
            return [3, layer.full, layer.context_features > 0, *addresses], []
        assert isinstance(layer, Coupling | MaskedAutoregressive)
        kernel, autoregressive = layer.elementwise.kernel, isinstance(layer, MaskedAutoregressive)
        assert kernel is not None
        seen = layer.n_kept if isinstance(layer, Coupling) else features_of(layer)
        moved = layer.n_moved if isinstance(layer, Coupling) else features_of(layer)
        tensors, name = self._index
        numbers = [2, tensors[name].data_ptr(), seen, moved, autoregressive, self.residual, *kernel[:2]]
        following = iter(addresses)
        for dense in self.dense:
            context = 1 if dense.context_columns else 0 if dense.other is None else 2
            mask = dense.linear.mask.data_ptr() if dense.masked else 0  # type: ignore[operator]
            numbers += [dense.inputs, dense.linear.out_features, context, mask]
            numbers += islice(following, len(dense.slots))
        return numbers, list(kernel.constants)
