"""Elementwise maps by the native kernels, as differentiable functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modeflow.accelerate.maps import Map
from modeflow.native import applies, kernels_for, use_native

__all__ = ["kernel_takes", "native_elementwise"]

#: The same map in PyTorch: entries, parameters and whether inverse, to values and log-derivatives.
Reference = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]


def kernel_takes(x: Tensor, params: Tensor, map_: Map) -> bool:
    """Whether the kernel can take these; what does not fit it would read as it lies."""
    return applies(x, params) and params.shape == (*x.shape, map_.n_params)


def _forward(x: Tensor, params: Tensor, native: Any, inverse: bool) -> tuple[Tensor, Tensor]:
    y, logderivative = torch.empty_like(x), torch.empty_like(x)
    kernels_for(x).elementwise(
        map=native,
        inverse=inverse,
        n=x.numel(),
        x=x.data_ptr(),
        params=params.data_ptr(),
        y=y.data_ptr(),
        logderivative=logderivative.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return y, logderivative


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: Tensor, native: Any, inverse: bool, reference: Reference
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, params)
        ctx.native, ctx.inverse, ctx.reference = native, inverse, reference
        return _forward(x, params, native, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, params = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            return (*_differentiable(x, params, grads, ctx.inverse, ctx.reference), None, None, None)
        grad_y, grad_log = (g.contiguous() for g in grads)
        grad_x, grad_params = torch.empty_like(x), torch.empty_like(params)
        kernels_for(x).elementwise_backward(
            map=ctx.native,
            inverse=ctx.inverse,
            n=x.numel(),
            x=x.data_ptr(),
            params=params.data_ptr(),
            grad_y=grad_y.data_ptr(),
            grad_log=grad_log.data_ptr(),
            grad_x=grad_x.data_ptr(),
            grad_params=grad_params.data_ptr(),
            threads=torch.get_num_threads(),
        )
        return grad_x, grad_params, None, None, None


def _differentiable(
    x: Tensor, params: Tensor, grads: tuple[Tensor, ...], inverse: bool, reference: Reference
) -> tuple[Tensor, ...]:
    with torch.enable_grad(), use_native(False):
        # Views, so that differentiating once more still reaches what x and params came from.
        x_, params_ = x.view_as(x), params.view_as(params)
        out = reference(x_, params_, inverse)
        needed = [t for t in (x_, params_) if t.requires_grad]
        found = iter(torch.autograd.grad(out, needed, grads, create_graph=True))
    return tuple(next(found) if t.requires_grad else torch.zeros_like(t) for t in (x_, params_))


def native_elementwise(
    x: Tensor, params: Tensor, map_: Map, inverse: bool, reference: Reference
) -> tuple[Tensor, Tensor]:
    """Values and log-derivatives of the entries ``x (...)`` with ``params (..., n_params)``.

    Tensors must be such that `kernel_takes` them. `reference` is called where a gradient is differentiated
    again. A logistic mixture has no gradient of its inverse here.
    """
    x, params = x.contiguous(), params.contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or params.requires_grad):
        return _Elementwise.apply(x, params, map_.native(), inverse, reference)
    return _forward(x, params, map_.native(), inverse)
