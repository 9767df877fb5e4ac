"""Runs of layers that one native call evaluates.

Permutations, LU linear layers, affine maps chosen by the context, couplings, autoregressive layers.

The kernel does what the modules do, on tiles of rows that stay in cache, without the overhead of hundreds of
small operations. A `Composite` is cut into such runs and single layers (`native_plan`).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.native import applies, kernels_for, native_kernels, use_native
from modeflow.transforms.autoregressive import MaskedAutoregressive
from modeflow.transforms.base import Transform, chain
from modeflow.transforms.native_layers import CONDITIONED, Part, features_of, fits

__all__ = ["Run", "cut"]

#: Rows that go through all layers together, and those where a network is wide: a weight once read then serves
#: more of them. Not chosen by the number of threads: sums would depend on it.
_ROWS, _WIDE_ROWS = 64, 128
#: Widest layers that one native call serves, by instruction set: beyond, matrix products of a tuned library
#: outweigh what the call saves.
MAX_WIDTH = {"avx512": 256, "avx2": 128, "base": 48}


class Run:
    """Layers that go together, of which at least one is a coupling, an autoregressive or an affine layer.

    Arguments:
        layers: in the order of the density.
        features: D. context_features: width of the context of those of these that have one.
    """

    def __init__(self, layers: list[Transform], features: int, context_features: int) -> None:
        self.layers, self.features, self.context_features = layers, features, context_features
        parts = [Part(layer) for layer in layers]
        self._parts = parts
        self._sizes = [len(part.slots) for part in parts]
        self._slots = [slot for part in parts for slot in part.slots]
        self._shapes = [shape for part in parts for shape in part.shapes]
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
        try:
            fixed: list[Any] = [tensors[name] for tensors, name in self._fixed]
            places = tuple([p.data_ptr() for p in parameters] + [t.data_ptr() for t in fixed])
        except (AttributeError, KeyError):  # what was there is gone: PyTorch says what it thinks of that
            return None, None
        if places != self._known[0]:
            addresses = self.by_layer(places[: len(parameters)])
            told = None
            if self._fit(parameters):
                each = [part.described(a) for part, a in zip(self._parts, addresses, strict=True)]
                told = [e[0] for e in each], [e[1] for e in each]
            self._known, self.fixed = (places, told, _block(parameters)), fixed
        return self._known[1:]

    def _fit(self, parameters: Sequence[Tensor]) -> bool:
        """Whether parameters, index and masks are of the shapes and types that the kernel reads."""
        shapes = all(tuple(p.shape) == shape for p, shape in zip(parameters, self._shapes, strict=True))
        if not shapes or not applies(*parameters) or not all(p.is_contiguous() for p in parameters):
            return False
        return all(part.fixed_fit(parameters[0].dtype) for part in self._parts)

    def by_layer(self, addresses: Sequence[int]) -> list[list[int]]:
        """Addresses of the parameters, for each layer."""
        following = iter(addresses)
        return [list(islice(following, size)) for size in self._sizes]

    def parameters(self) -> list[Tensor]:
        """All parameters, layer by layer in the order of the kernel."""
        return [parameters.get(name) for parameters, name in self._slots]  # type: ignore[misc]

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
        if grad and block is not None and _whole(parameters):
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
        found = [t for t in group if isinstance(t, CONDITIONED)]
        if found:
            parts.append(Run(list(group), features_of(found[0]), max(t.context_features for t in found)))
        else:
            parts.extend(group)
        group.clear()

    context: int | None = None
    for transform in transforms:
        known = fits(transform, widest)
        if known and group and features_of(transform) != features_of(group[0]):
            close()  # PyTorch says what it thinks of that
            context = None
        if known and transform.context_features:
            if context is not None and transform.context_features != context:
                close()
            context = transform.context_features
        if known:
            group.append(transform)
        else:
            close()
            context = None
            parts.append(transform)
    close()
    return parts


def _whole(parameters: Sequence[Tensor]) -> bool:
    """Whether the gradient of the vector is all that is asked of: none is held fixed, none has a hook."""
    return all(
        p.requires_grad and not p._backward_hooks and not p._post_accumulate_grad_hooks for p in parameters
    )


def _block(parameters: Sequence[Tensor]) -> tuple[Tensor, int] | None:
    """The vector that holds all parameters, one after the other, and where they begin; None without one."""
    flat: tuple[Tensor, int] | None = getattr(parameters[0], "_flat", None)
    if flat is None:
        return None
    vector, after = flat
    start = vector.data_ptr()
    for p in parameters:
        there, place = getattr(p, "_flat", (None, 0))
        # A parameter may have been given other storage since.
        if there is not vector or place != after or p.data_ptr() != start + after * p.element_size():
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
