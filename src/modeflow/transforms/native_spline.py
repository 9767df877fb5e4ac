"""The native rational-quadratic spline as a differentiable function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modeflow.native import kernels

__all__ = ["native_spline"]

#: bins, tail bound, smallest width, height and slope, whether inverse
Settings = tuple[int, float, float, float, float, bool]


def _forward(x: Tensor, params: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    y, logderivative = torch.empty_like(x), torch.empty_like(x)
    kernels.spline(
        *settings,
        x.numel(),
        x.data_ptr(),
        params.data_ptr(),
        y.data_ptr(),
        logderivative.data_ptr(),
        torch.get_num_threads(),
    )
    return y, logderivative


class _Spline(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, params)
        ctx.settings = settings
        return _forward(x, params, settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, params = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            return (*_differentiable(x, params, grads, ctx.settings), None)
        grad_y, grad_log = (g.contiguous() for g in grads)
        grad_x, grad_params = torch.empty_like(x), torch.empty_like(params)
        kernels.spline_backward(
            *ctx.settings,
            x.numel(),
            x.data_ptr(),
            params.data_ptr(),
            grad_y.data_ptr(),
            grad_log.data_ptr(),
            grad_x.data_ptr(),
            grad_params.data_ptr(),
            torch.get_num_threads(),
        )
        return grad_x, grad_params, None


def _differentiable(
    x: Tensor, params: Tensor, grads: tuple[Tensor, ...], settings: Settings
) -> tuple[Tensor, Tensor]:
    from modeflow.transforms.spline import reference_spline

    _, bound, width, height, slope, inverse = settings
    with torch.enable_grad():
        # Views, so that differentiating once more still reaches what x and params came from.
        x_, params_ = x.view_as(x), params.view_as(params)
        out = reference_spline(x_, params_, inverse, bound, width, height, slope)
        needed = [t for t in (x_, params_) if t.requires_grad]
        found = iter(torch.autograd.grad(out, needed, grads, create_graph=True))
    return tuple(next(found) if t.requires_grad else torch.zeros_like(t) for t in (x_, params_))  # type: ignore[return-value]


def native_spline(x: Tensor, params: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """`rational_quadratic_spline` by the kernel; see there. Tensors must pass `modeflow.native.applies`."""
    x, params = x.contiguous(), params.contiguous()
    if torch.is_grad_enabled() and (x.requires_grad or params.requires_grad):
        return _Spline.apply(x, params, settings)
    return _forward(x, params, settings)
