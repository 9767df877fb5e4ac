"""The inverse of a masked autoregressive layer by the native kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.native import kernels_for
from modeflow.nets.stepwise import Layers
from modeflow.transforms.native_elementwise import Kernel

__all__ = ["native_autoregressive_inverse"]


def native_autoregressive_inverse(layers: Layers, kernel: Kernel, u: Tensor) -> tuple[Tensor, Tensor]:
    """``(x, logabsdet)`` of the inverse.

    Arguments:
        layers: the conditioner; tensors of it and `u` must pass `modeflow.native.applies`.
        kernel: the map of each feature.
        u: noise, ``(B, D)``.
    """
    keep: list[Tensor] = []

    def address(t: Tensor | None) -> int:
        if t is None:
            return 0
        keep.append(t.detach().contiguous())
        return keep[-1].data_ptr()

    def described(linear: torch.nn.Linear, until: Tensor | None) -> list[int]:
        rows, columns = linear.weight.shape
        return [address(linear.weight), address(linear.bias), rows, columns, address(until)]

    u = u.contiguous()
    x, logabsdet = torch.empty_like(u), u.new_empty(u.shape[0])
    kernels_for(u).autoregressive_inverse(
        layers.features,
        layers.residual,
        [described(layer, until) for layer, until in zip(layers.hidden, layers.until, strict=True)],
        described(layers.final, None),
        address(layers.context_first),
        address(layers.context_final),
        *kernel,
        u.shape[0],
        u.data_ptr(),
        x.data_ptr(),
        logabsdet.data_ptr(),
        torch.get_num_threads(),
    )
    return x, logabsdet
