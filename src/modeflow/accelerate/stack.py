"""A stack of layers by the native kernels, as a differentiable function.

The kernel does what the modules do, on tiles of rows that stay in cache, without the overhead of hundreds of
small operations.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.accelerate.block import Block
from modeflow.accelerate.chain import chain
from modeflow.native import use_native

__all__ = ["Spare", "Stack", "run_stack"]


_REQUIRES = attrgetter("requires_grad")
_HOOKS = attrgetter("_backward_hooks"), attrgetter("_post_accumulate_grad_hooks")


class Spare:
    """The tape of a gradient that is done with, for the next: fresh memory costs more than what it holds.

    At most one; in a list, because taking from it cannot be interrupted.
    """

    def __init__(self) -> None:
        self.tapes: list[Tensor] = []


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers as the kernel was told of them, for parameters that lie where they lay then.

    Attributes:
        native: the kernels' own description (`Stack` of ``native/bindings_stack.cpp``).
        layers: the modules, for a gradient of a gradient.
        tile: rows that go together.
        fixed: orders and masks, which must live as long as the description.
        sizes: numbers of each parameter.
        block: where they all lie in one vector (`modeflow.training.flat`).
        spare: memory.
    """

    native: Any
    layers: Sequence[nn.Module]
    tile: int
    fixed: Sequence[Tensor]
    sizes: Sequence[int]
    block: Block | None
    spare: Spare


def run_stack(
    stack: Stack, parameters: Sequence[Tensor], x: Tensor, context: Tensor | None, inverse: bool
) -> tuple[Tensor, Tensor]:
    """Output and logabsdet of all layers, with their gradients where those are asked for."""
    if torch.is_grad_enabled():
        if stack.block is not None and _whole(parameters):
            return _Run.apply(stack, parameters, stack.block, x, context, stack.block.vector)
        if any(t is not None and t.requires_grad for t in (x, context, *parameters)):
            return _Run.apply(stack, parameters, None, x, context, *parameters)
    stack.spare.tapes.clear()  # not training (any more): memory is given back
    return _Call(stack, x, context, False).forward(x, context, inverse)


def _whole(parameters: Sequence[Tensor]) -> bool:
    """Whether the gradient of the vector is all that is asked of: none is held fixed, none has a hook."""
    return all(map(_REQUIRES, parameters)) and not any(any(map(hooks, parameters)) for hooks in _HOOKS)


class _Tape:
    """Memory for what a gradient needs: that of an earlier one, where it is large enough."""

    def __init__(self, spare: Spare, like: Tensor, size: int) -> None:
        try:
            self.values = spare.tapes.pop()
        except IndexError:
            self.values = like.new_empty(0)
        if self.values.dtype is not like.dtype or not size <= len(self.values) <= 2 * size:
            self.values = like.new_empty(size)
        self._spare = weakref.ref(spare)

    def __del__(self) -> None:
        spare = self._spare()
        if spare is not None and not spare.tapes:
            spare.tapes.append(self.values)


class _Call:
    """One way there, and perhaps back, with the weights as they were at its beginning."""

    def __init__(self, stack: Stack, x: Tensor, context: Tensor | None, keep: bool) -> None:
        self.rows = len(x)
        self.tile = min(stack.tile, (self.rows + 15) // 16 * 16)
        self.packed = stack.native.pack(backward=keep, threads=torch.get_num_threads())
        self.tape: _Tape | None = None
        if keep:
            size = -(-self.rows // self.tile) * self.packed.tape_size(self.tile)
            self.tape = _Tape(stack.spare, x, size)

    def forward(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        context = None if context is None else context.contiguous()
        u, logabsdet = torch.empty_like(x), x.new_empty(self.rows)
        self.packed.forward(
            inverse=inverse,
            tile=self.tile,
            rows=self.rows,
            x=x.data_ptr(),
            context=_address(context),
            u=u.data_ptr(),
            logabsdet=logabsdet.data_ptr(),
            tape=0 if self.tape is None else self.tape.values.data_ptr(),
            threads=torch.get_num_threads(),
        )
        return u, logabsdet

    def backward(
        self,
        context: Tensor | None,
        grads: Sequence[Tensor],
        grad_x: Tensor,
        grad_context: Tensor | None,
        gradients: int,
    ) -> None:
        """Write the gradients of x and of the context, and those of the parameters to an address."""
        assert self.tape is not None
        grad_u, grad_log = (g.contiguous() for g in grads)
        self.packed.backward(
            tile=self.tile,
            rows=self.rows,
            context=_address(context),
            grad_u=grad_u.data_ptr(),
            grad_log=grad_log.data_ptr(),
            tape=self.tape.values.data_ptr(),
            grad_x=grad_x.data_ptr(),
            grad_context=_address(grad_context),
            gradients=gradients,
            threads=torch.get_num_threads(),
        )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


class _Run(torch.autograd.Function):
    """`tensors`: the parameters, or (with a `block`) the one vector that holds them."""

    @staticmethod
    def forward(
        ctx: Any,
        stack: Stack,
        parameters: Sequence[Tensor],
        block: Block | None,
        x: Tensor,
        context: Tensor | None,
        *tensors: Tensor,
    ) -> Any:
        ctx.call = _Call(stack, x, context, True)
        ctx.stack, ctx.parameters, ctx.block = stack, parameters, block
        ctx.save_for_backward(x, None if context is None else context.contiguous())
        return ctx.call.forward(x, context, False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, context = ctx.saved_tensors
        stack, block = ctx.stack, ctx.block
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            found = _differentiable(stack.layers, x, context, ctx.parameters, grads)
            if block is None:
                return None, None, None, *found
            pairs = zip(found[2:], stack.sizes, strict=True)
            whole = [x.new_zeros(n) if g is None else g.reshape(-1) for g, n in pairs]
            return None, None, None, *found[:2], block.spread(torch.cat(whole))
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        grad_context = None
        if context is not None and ctx.needs_input_grad[4]:
            grad_context = torch.zeros_like(context, memory_format=torch.contiguous_format)
        used = sum(stack.sizes)
        if block is not None and block.start is not None:
            length = block.vector.numel()
            flat = x.new_zeros(length) if used < length else x.new_empty(length)
            place = flat.data_ptr() + block.start * flat.element_size()
            ctx.call.backward(context, grads, grad_x, grad_context, place)
            return None, None, None, grad_x, grad_context, flat
        flat = x.new_empty(used)
        ctx.call.backward(context, grads, grad_x, grad_context, flat.data_ptr())
        if block is not None:
            return None, None, None, grad_x, grad_context, block.spread(flat)
        views = [g.view_as(p) for g, p in zip(flat.split(stack.sizes), ctx.parameters, strict=True)]
        return None, None, None, grad_x, grad_context, *views


def _differentiable(
    layers: Sequence[nn.Module],
    x: Tensor,
    context: Tensor | None,
    parameters: Sequence[Tensor],
    grads: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """The gradients by the modules themselves, so that they can be differentiated again."""
    inputs = [x, context, *parameters]
    with torch.enable_grad(), use_native(False):
        out = chain(layers, x, context)
        wanted = [t for t in inputs if t is not None and t.requires_grad]
        found = torch.autograd.grad(out, wanted, grads, create_graph=True, allow_unused=True)
    by_id = {id(t): g for t, g in zip(wanted, found, strict=True)}
    return [None if t is None else by_id.get(id(t)) for t in inputs]
