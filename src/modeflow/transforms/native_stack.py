"""Runs of layers that one native call evaluates.

Permutations, LU linear layers, affine maps chosen by the context, couplings, autoregressive layers.

The kernel does what the modules do, on tiles of rows that stay in cache, without the overhead of hundreds of
small operations. A `Composite` cuts itself into such runs and single layers.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.native import applies, kernels_for, native_kernels, use_native
from modeflow.nets.made import MADE, MaskedLinear, ResidualMADE
from modeflow.nets.mlp import ResidualMLP
from modeflow.transforms.affine import ConditionalAffine
from modeflow.transforms.autoregressive import MaskedAutoregressive
from modeflow.transforms.base import Transform, chain
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.linear import LULinear, Permutation

__all__ = ["Run", "cut"]

#: Rows that go through all layers together, and those where a network is wide: a weight once read then serves
#: more of them. Not chosen by the number of threads: sums would depend on it.
_ROWS, _WIDE_ROWS = 64, 128
#: Widest layers that one native call serves, by instruction set: beyond, matrix products of a tuned library
#: outweigh what the call saves.
MAX_WIDTH = {"avx512": 256, "avx2": 128, "base": 48}


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
    def masked(self) -> bool:
        """Whether a mask multiplies the weight."""
        return isinstance(self.linear, MaskedLinear)


def _network(net: torch.nn.Module) -> tuple[bool, list[Dense]] | None:
    """Whether residual, and the dense layers in order; None for a network that the kernel does not know."""
    kind = type(net)
    if kind is ResidualMLP and not net.gated:
        ends = Dense(net.initial, net.context_features), Dense(net.final)  # type: ignore[arg-type]
    elif kind is ResidualMADE and not net.gated:
        ends = Dense(net.initial, 0, net.context_initial), Dense(net.final, 0, net.context_final)  # type: ignore[arg-type]
    elif kind is MADE and net.activation is F.relu:
        hidden = [Dense(layer) for layer in net.hidden]  # type: ignore[union-attr]
        if hidden:
            hidden[0] = Dense(hidden[0].linear, 0, net.context_hidden)  # type: ignore[arg-type]
        return False, [*hidden, Dense(net.final, 0, net.context_final)]  # type: ignore[arg-type]
    else:
        return None
    if net.activation is not F.relu:
        return None
    blocks = [Dense(layer) for block in net.blocks for layer in (block.linear1, block.linear2)]  # type: ignore[union-attr]
    return True, [ends[0], *blocks, ends[1]]


def _fits(transform: Transform, widest: int) -> bool:
    if type(transform) is Permutation:
        return len(transform.order) <= widest
    if isinstance(transform, LULinear | ConditionalAffine):
        return transform.features <= widest
    if type(transform) is not Coupling and type(transform) is not MaskedAutoregressive:
        return False
    network = _network(transform.conditioner) if transform.elementwise.kernel is not None else None
    return network is not None and all(d.linear.in_features - d.context_columns <= widest for d in network[1])


#: Layers with parameters from a context or from features: a run holds at least one of them.
_CONDITIONED = ConditionalAffine | Coupling | MaskedAutoregressive


def _features(transform: ConditionalAffine | Coupling | MaskedAutoregressive) -> int:
    if isinstance(transform, ConditionalAffine):
        return transform.features
    if isinstance(transform, Coupling):
        return len(transform.order)  # type: ignore[arg-type]
    return int(transform.conditioner.features)  # type: ignore[arg-type]


class Run:
    """Layers that go together, of which at least one is a coupling, an autoregressive or an affine layer.

    Arguments:
        layers: in the order of the density.
        features: D. context_features: width of the context of those of these that have one.
    """

    def __init__(self, layers: list[Transform], features: int, context_features: int) -> None:
        self.layers, self.features, self.context_features = layers, features, context_features
        parts = [_Part(layer) for layer in layers]
        self._parts = parts
        self._sizes = [len(part.slots) for part in parts]
        self._slots = [slot for part in parts for slot in part.slots]
        self._fixed = [slot for part in parts for slot in part.fixed]
        self.tile = _WIDE_ROWS if any(part.wide for part in parts) else _ROWS
        #: An autoregressive layer is inverted feature by feature (`native_autoregressive`), on its own.
        self.invertible = not any(isinstance(layer, MaskedAutoregressive) for layer in layers)
        self._dropping = [m for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Dropout)]
        # What the kernel is told of the parameters, as long as they lie where they lay; and, where they are
        # one block of a vector (`modeflow.training.flat`), that vector and the place in it.
        self._known: tuple[tuple[int, ...], Any, tuple[Tensor, int] | None] = ((), None, None)
        #: Indices and masks as the kernel was told of them: a graph keeps them until it has gone back.
        self.fixed: list[Any] = []
        #: The tape of a gradient that is done with, for the next (at most one; a list, because taking from it
        #: cannot be interrupted): fresh memory costs more than what it holds.
        self.spare: list[Tensor] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Run:
        return Run(copy.deepcopy(self.layers, memo), self.features, self.context_features)

    def usable(self, x: Tensor, context: Tensor | None) -> bool:
        """Whether the kernel can take this call."""
        if x.dim() != 2 or x.shape[1] != self.features or x.shape[0] == 0 or not applies(x):
            return False
        if self.context_features and (
            context is None or context.shape != (len(x), self.context_features) or not applies(context)
        ):
            return False
        return not any(dropout.training for dropout in self._dropping)

    def described(self, parameters: Sequence[Tensor]) -> tuple[Any, tuple[Tensor, int] | None]:
        """Layers and constants as the kernel reads them (None where it cannot take them), and the block."""
        fixed: list[Any] = [tensors[name] for tensors, name in self._fixed]
        places = tuple([p.data_ptr() for p in parameters] + [t.data_ptr() for t in fixed])
        if places != self._known[0]:
            fit = applies(*parameters) and all(p.is_contiguous() for p in parameters)
            addresses = self.by_layer(places[: len(parameters)])
            each = [part.described(a) for part, a in zip(self._parts, addresses, strict=True)]
            told = ([e[0] for e in each], [e[1] for e in each]) if fit else None
            self._known, self.fixed = (places, told, _block(parameters)), fixed
        return self._known[1:]

    def by_layer(self, addresses: Sequence[int]) -> list[list[int]]:
        """Addresses of the parameters, for each layer."""
        following = iter(addresses)
        return [list(islice(following, size)) for size in self._sizes]

    def parameters(self) -> list[Tensor]:
        """All parameters, layer by layer in the order of the kernel."""
        return [parameters[name] for parameters, name in self._slots]

    def __call__(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(u, logabsdet)`` of all layers."""
        return self._run(x, context, False)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(x, logabsdet)`` of the inverse of all layers."""
        return self._run(u, context, True)

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        grad = torch.is_grad_enabled()
        if not self.usable(x, context) or (inverse and (grad or not self.invertible)):
            return chain(self.layers, x, context, inverse)
        parameters = self.parameters()
        described, block = self.described(parameters)
        if described is None:
            return chain(self.layers, x, context, inverse)
        if grad and block is not None:
            return _Stack.apply(self, described, parameters, block[1], x, context, block[0])
        if grad and any(t is not None and t.requires_grad for t in (x, context, *parameters)):
            return _Stack.apply(self, described, parameters, None, x, context, *parameters)
        return _evaluate(self, described, x, context, inverse, False)[:2]


def cut(transforms: Sequence[Transform]) -> list[Any]:
    """The transforms in order, neighbours that the kernel can take joined into runs."""
    parts: list[Any] = []
    group: list[Transform] = []
    widest = MAX_WIDTH.get(native_kernels(), 0)

    def close() -> None:
        found = [t for t in group if isinstance(t, _CONDITIONED)]
        if found:
            parts.append(Run(list(group), _features(found[0]), max(t.context_features for t in found)))
        else:
            parts.extend(group)
        group.clear()

    context: int | None = None
    for transform in transforms:
        fits = _fits(transform, widest)
        if fits and transform.context_features:
            if context is not None and transform.context_features != context:
                close()
            context = transform.context_features
        if fits:
            group.append(transform)
        else:
            close()
            context = None
            parts.append(transform)
    close()
    return parts


class _Part:
    """A layer as the kernel reads it.

    Attributes:
        slots: where its parameters are found, in the order of the kernel.
        fixed: likewise of what is no parameter, the index and the masks.
        wide: whether its network is wide enough for larger tiles.
    """

    def __init__(self, layer: Transform) -> None:
        self.layer = layer
        self.slots: list[tuple[dict[str, Any], str]] = []
        self.dense: list[Dense] = []
        self.residual = self.wide = False
        if isinstance(layer, LULinear):
            names = ("lower", "upper", "raw_diagonal", "bias")
            self.slots = [(layer._parameters, name) for name in names]
        elif isinstance(layer, ConditionalAffine):
            self.slots = [(layer._parameters, "table")]
        elif isinstance(layer, Coupling | MaskedAutoregressive):
            network = _network(layer.conditioner)
            assert network is not None
            self.residual, self.dense = network
            self.slots = [slot for dense in self.dense for slot in dense.slots]
            self.wide = any(dense.linear.in_features > 128 for dense in self.dense)
        # Of a permutation its order; else the features that the network sees, then those that are moved.
        self._index: tuple[dict[str, Any], str] = (layer._buffers, "order")
        if isinstance(layer, MaskedAutoregressive):
            self._index = ({"all": torch.arange(_features(layer)).repeat(2)}, "all")
        self.fixed = [] if isinstance(layer, LULinear | ConditionalAffine) else [self._index]
        self.fixed += [(d.linear._buffers, "mask") for d in self.dense if d.masked]

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
        seen = layer.n_kept if isinstance(layer, Coupling) else _features(layer)
        moved = layer.n_moved if isinstance(layer, Coupling) else _features(layer)
        tensors, name = self._index
        numbers = [2, tensors[name].data_ptr(), seen, moved, autoregressive, self.residual, *kernel[:2]]
        following = iter(addresses)
        for dense in self.dense:
            context = 1 if dense.context_columns else 0 if dense.other is None else 2
            mask = dense.linear.mask.data_ptr() if dense.masked else 0  # type: ignore[operator]
            inputs = dense.linear.in_features - dense.context_columns
            numbers += [inputs, dense.linear.out_features, context, mask]
            numbers += islice(following, len(dense.slots))
        return numbers, list(kernel.constants)


def _block(parameters: Sequence[Tensor]) -> tuple[Tensor, int] | None:
    """The vector that holds all parameters, one after the other, and where they begin; None without one."""
    flat: tuple[Tensor, int] | None = getattr(parameters[0], "_flat", None)
    if flat is None:
        return None
    vector, after = flat
    for p in parameters:
        there, place = getattr(p, "_flat", (None, 0))
        if there is not vector or place != after:
            return None
        after += p.numel()
    return flat


def _evaluate(
    run: Run, described: Any, x: Tensor, context: Tensor | None, inverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Any, _Tape | None, int]:
    x = x.contiguous()
    context = None if context is None else context.contiguous()
    threads = torch.get_num_threads()
    rows = len(x)
    tile = min(run.tile, (rows + 15) // 16 * 16)
    kernels = kernels_for(x)
    handle = kernels.make_stack(run.features, run.context_features, keep, *described, threads)
    u, logabsdet = torch.empty_like(x), x.new_empty(rows)
    tape = _Tape(run, x, -(-rows // tile) * kernels.stack_tape(handle, tile)) if keep else None
    if not keep:
        run.spare.clear()  # not training (any more): memory is given back
    kernels.stack_run(
        handle,
        inverse,
        tile,
        rows,
        x.data_ptr(),
        0 if context is None else context.data_ptr(),
        u.data_ptr(),
        logabsdet.data_ptr(),
        0 if tape is None else tape.values.data_ptr(),
        threads,
    )
    return u, logabsdet, handle, tape, tile


class _Tape:
    """Memory for what a gradient needs: that of an earlier one, where it is large enough."""

    def __init__(self, run: Run, like: Tensor, size: int) -> None:
        try:
            self.values = run.spare.pop()
        except IndexError:
            self.values = like.new_empty(0)
        if self.values.dtype is not like.dtype or not size <= len(self.values) <= 2 * size:
            self.values = like.new_empty(size)
        self._run = weakref.ref(run)

    def __del__(self) -> None:
        run = self._run()
        if run is not None and not run.spare:
            run.spare.append(self.values)


class _Stack(torch.autograd.Function):
    """`tensors`: the parameters, or (with a `start`) the one vector that holds them from there on."""

    @staticmethod
    def forward(
        ctx: Any,
        run: Run,
        described: Any,
        parameters: list[Tensor],
        start: int | None,
        x: Tensor,
        context: Tensor | None,
        *tensors: Tensor,
    ) -> Any:
        u, logabsdet, ctx.handle, ctx.tape, ctx.tile = _evaluate(run, described, x, context, False, True)
        ctx.run, ctx.parameters, ctx.start, ctx.fixed = run, parameters, start, run.fixed
        ctx.length = 0 if start is None else tensors[0].numel()
        ctx.save_for_backward(x, None if context is None else context.contiguous())
        return u, logabsdet

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, context = ctx.saved_tensors
        parameters = ctx.parameters
        sizes = [p.numel() for p in parameters]
        used = sum(sizes)
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            found = _differentiable(ctx.run, x, context, parameters, grads)
            if ctx.start is None:
                return None, None, None, None, *found
            pairs = zip(found[2:], parameters, strict=True)
            whole = [p.new_zeros(p.numel()) if g is None else g.reshape(-1) for g, p in pairs]
            padding = (ctx.start, ctx.length - ctx.start - used)
            return None, None, None, None, *found[:2], F.pad(torch.cat(whole), padding)
        grad_u, grad_log = (g.contiguous() for g in grads)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        grad_context = None
        if context is not None and ctx.needs_input_grad[5]:
            grad_context = torch.zeros_like(context, memory_format=torch.contiguous_format)
        partial = ctx.start is not None and used < ctx.length
        flat = x.new_zeros(ctx.length) if partial else x.new_empty(used)
        place = flat.data_ptr() + (ctx.start or 0) * flat.element_size()
        addresses = [place + offset * flat.element_size() for offset in accumulate([0, *sizes[:-1]])]
        kernels_for(x).stack_backward(
            ctx.handle,
            ctx.tile,
            len(x),
            0 if context is None else context.data_ptr(),
            grad_u.data_ptr(),
            grad_log.data_ptr(),
            ctx.tape.values.data_ptr(),
            grad_x.data_ptr(),
            0 if grad_context is None else grad_context.data_ptr(),
            ctx.run.by_layer(addresses),
            torch.get_num_threads(),
        )
        if ctx.start is not None:
            return None, None, None, None, grad_x, grad_context, flat
        views = [g.view_as(p) for g, p in zip(flat.split(sizes), parameters, strict=True)]
        return None, None, None, None, grad_x, grad_context, *views


def _differentiable(
    run: Run, x: Tensor, context: Tensor | None, parameters: Sequence[Tensor], grads: tuple[Tensor, ...]
) -> list[Tensor | None]:
    """The gradients by the modules themselves, so that they can be differentiated again."""
    inputs = [x, context, *parameters]
    with torch.enable_grad(), use_native(False):
        out = chain(run.layers, x, context)
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        found = torch.autograd.grad(out, wanted, grads, create_graph=True, allow_unused=True)
    by_id = {id(t): g for t, g in zip(wanted, found, strict=True)}
    return [None if t is None else by_id.get(id(t)) for t in inputs]
