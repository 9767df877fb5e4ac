"""Elementwise maps by the native kernels, as differentiable functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeflow.native import applies, kernels_for, use_native

__all__ = ["Kernel", "kernel_takes", "native_elementwise"]

#: The same map in PyTorch: entries, parameters and whether inverse, to values and log-derivatives.
Reference = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]


class Kernel(NamedTuple):
    """A map as the kernels know it (`Map` in ``native/kernels.h``).

    Attributes:
        kind: 0 spline, 1 affine, 2 additive, 3 logistic mixture.
        pieces: bins or components.
        constants: tail bound, smallest width, height and slope; or soft bounds of log-scales.
    """

    kind: int
    pieces: int
    constants: tuple[float, ...]

    @property
    def n_params(self) -> int:
        """Parameters of each entry, as the kernels read them."""
        return (3 * self.pieces - 1, 2, 1, 3 * self.pieces + 2)[self.kind]


def kernel_takes(x: Tensor, params: Tensor, kernel: Kernel) -> bool:
    """Whether the kernel can take these; what does not fit it would read as it lies."""
    return applies(x, params) and params.shape == (*x.shape, kernel.n_params)


def _forward(x: Tensor, params: Tensor, kernel: Kernel, inverse: bool) -> tuple[Tensor, Tensor]:
    y, logderivative = torch.empty_like(x), torch.empty_like(x)
    kernels_for(x).elementwise(
        *kernel,
        inverse,
        x.numel(),
        x.data_ptr(),
        params.data_ptr(),
        y.data_ptr(),
        logderivative.data_ptr(),
        torch.get_num_threads(),
    )
    return y, logderivative


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: Tensor, kernel: Kernel, inverse: bool, reference: Reference
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, params)
        ctx.kernel, ctx.inverse, ctx.reference = kernel, inverse, reference
        return _forward(x, params, kernel, inverse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, params = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            return (*_differentiable(x, params, grads, ctx.inverse, ctx.reference), None, None, None)
        grad_y, grad_log = (g.contiguous() for g in grads)
        grad_x, grad_params = torch.empty_like(x), torch.empty_like(params)
        kernels_for(x).elementwise_backward(
            *ctx.kernel,
            ctx.inverse,
            x.numel(),
            x.data_ptr(),
            params.data_ptr(),
            grad_y.data_ptr(),
            grad_log.data_ptr(),
            grad_x.data_ptr(),
            grad_params.data_ptr(),
            torch.get_num_threads(),
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
    x: Tensor, params: Tensor, kernel: Kernel, inverse: bool, reference: Reference
) -> tuple[Tensor, Tensor]:
    """Values and log-derivatives of the entries ``x (...)`` with ``params (..., n_params)``.

    Tensors must pass `modeflow.native.applies`. `reference` is called where a gradient is differentiated
    again. A logistic mixture has no gradient of its inverse here.
    """
    x, params = x.contiguous(), params.contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or params.requires_grad):
        return _Elementwise.apply(x, params, kernel, inverse, reference)
    return _forward(x, params, kernel, inverse)
