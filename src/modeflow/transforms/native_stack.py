"""Runs of layers that one native call evaluates: permutations, LU linear layers, spline couplings.

The kernel does what the modules do, on tiles of rows that stay in cache, without the overhead of hundreds of
small operations. A `Composite` cuts itself into such runs and single layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.native import applies, kernels, use_native
from modeflow.nets.mlp import ResidualMLP
from modeflow.transforms.base import Transform, chain
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.elementwise import RQSplineElementwise
from modeflow.transforms.linear import LULinear, Permutation

__all__ = ["Run", "cut"]

#: Beyond these, matrix products of a tuned library outweigh what one call saves.
MAX_FEATURES, MAX_HIDDEN = 128, 128
#: Rows that go through all layers together. Not chosen by the number of threads: sums would depend on it.
_ROWS = 64


def _fits(transform: Transform) -> bool:
    if type(transform) is Permutation:
        return len(transform.order) <= MAX_FEATURES
    if type(transform) is LULinear:
        return transform.features <= MAX_FEATURES
    if type(transform) is not Coupling or type(transform.elementwise) is not RQSplineElementwise:
        return False
    net = transform.conditioner
    return (
        type(net) is ResidualMLP
        and net.initial.out_features <= MAX_HIDDEN
        and net.activation is F.relu
        and not net.gated
        and len(transform.order) <= MAX_FEATURES  # type: ignore[arg-type]
    )


def _linears(net: ResidualMLP) -> list[torch.nn.Linear]:
    blocks = [layer for block in net.blocks for layer in (block.linear1, block.linear2)]
    return [net.initial, *blocks, net.final]  # type: ignore[list-item]


class Run:
    """Layers that go together, of which at least one is a coupling.

    Arguments:
        layers: in the order of the density.
        features: D. context_features: width of the context of every coupling.
    """

    def __init__(self, layers: list[Transform], features: int, context_features: int) -> None:
        self.layers, self.features, self.context_features = layers, features, context_features
        slots = [_slots(layer) for layer in layers]
        self._sizes = [len(each) for each in slots]
        self._slots = [slot for each in slots for slot in each]
        self.nets = [t.conditioner for t in layers if isinstance(t, Coupling) and t.conditioner.dropped]
        # What the kernel is told of the parameters, as long as they lie where they lay; and, where they are
        # one block of a vector (`modeflow.training.flat`), that vector and the place in it.
        self._known: tuple[tuple[int, ...], Any, tuple[Tensor, int] | None] = ((), None, None)

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
        return not any(net.training for net in self.nets)

    def described(self, parameters: Sequence[Tensor]) -> tuple[Any, tuple[Tensor, int] | None]:
        """Layers and constants as the kernel reads them (None where it cannot take them), and the block."""
        places = tuple([p.data_ptr() for p in parameters])
        if places != self._known[0]:
            fit = applies(*parameters) and all(p.is_contiguous() for p in parameters)
            each = [_described(t, a) for t, a in zip(self.layers, self.by_layer(places), strict=True)]
            told = ([e[0] for e in each], [e[1] for e in each]) if fit else None
            self._known = (places, told, _block(parameters))
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
        if not self.usable(x, context) or (inverse and grad):
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

    def close() -> None:
        couplings = [t for t in group if isinstance(t, Coupling)]
        if couplings:
            parts.append(Run(list(group), len(couplings[0].order), couplings[0].context_features))  # type: ignore[arg-type]
        else:
            parts.extend(group)
        group.clear()

    context: int | None = None
    for transform in transforms:
        fits = _fits(transform)
        if isinstance(transform, Coupling) and fits:
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


def _slots(layer: Transform) -> list[tuple[dict[str, Any], str]]:
    """Where the parameters of a layer are found, in the order of the kernel."""
    if isinstance(layer, LULinear):
        return [(layer._parameters, name) for name in ("lower", "upper", "raw_diagonal", "bias")]
    if isinstance(layer, Coupling):
        linears = _linears(layer.conditioner)  # type: ignore[arg-type]
        return [(linear._parameters, name) for linear in linears for name in ("weight", "bias")]
    return []


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


def _described(layer: Transform, addresses: list[int]) -> tuple[list[int], list[float]]:
    if isinstance(layer, Permutation):
        return [0, layer.order.data_ptr(), 0, 0, 0, 0, 0], []
    if isinstance(layer, LULinear):
        return [1, 0, 0, 0, 0, 0, 0, *addresses], [layer.eps]
    assert isinstance(layer, Coupling)
    spline, net = layer.elementwise, layer.conditioner
    assert isinstance(spline, RQSplineElementwise) and isinstance(net, ResidualMLP)
    sizes = [layer.n_kept, layer.n_moved, net.initial.out_features, len(net.blocks), spline.bins]
    return [2, layer.order.data_ptr(), *sizes, *addresses], list(spline.constants[1:])  # type: ignore[operator]


def _evaluate(
    run: Run, described: Any, x: Tensor, context: Tensor | None, inverse: bool, keep: bool
) -> tuple[Tensor, Tensor, Any, Tensor | None, int]:
    x = x.contiguous()
    context = None if context is None else context.contiguous()
    threads = torch.get_num_threads()
    rows = len(x)
    tile = min(_ROWS, (rows + 15) // 16 * 16)
    handle = kernels.make_stack(run.features, run.context_features, *described)
    u, logabsdet = torch.empty_like(x), x.new_empty(rows)
    tape = x.new_empty(-(-rows // tile) * kernels.stack_tape(handle, tile)) if keep else None
    kernels.stack_run(
        handle,
        inverse,
        tile,
        rows,
        x.data_ptr(),
        0 if context is None else context.data_ptr(),
        u.data_ptr(),
        logabsdet.data_ptr(),
        0 if tape is None else tape.data_ptr(),
        threads,
    )
    return u, logabsdet, handle, tape, tile


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
        ctx.run, ctx.parameters, ctx.start = run, parameters, start
        ctx.length = 0 if start is None else tensors[0].numel()
        ctx.save_for_backward(x, context)
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
        if context is not None:
            grad_context = torch.zeros_like(context, memory_format=torch.contiguous_format)
        partial = ctx.start is not None and used < ctx.length
        flat = x.new_zeros(ctx.length) if partial else x.new_empty(used)
        place = flat.data_ptr() + (ctx.start or 0) * flat.element_size()
        addresses = [place + offset * flat.element_size() for offset in accumulate([0, *sizes[:-1]])]
        kernels.stack_backward(
            ctx.handle,
            ctx.tile,
            len(x),
            grad_u.data_ptr(),
            grad_log.data_ptr(),
            ctx.tape.data_ptr(),
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
