"""The inverse of a masked autoregressive layer by the native kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.accelerate.maps import Map
from modeflow.native import kernels, kernels_for
from modeflow.nets.stepwise import Layers

__all__ = ["native_autoregressive_inverse"]


def native_autoregressive_inverse(layers: Layers, map_: Map, u: Tensor) -> tuple[Tensor, Tensor]:
    """``(x, logabsdet)`` of the inverse.

    Arguments:
        layers: the conditioner; tensors of it and `u` must pass `modeflow.native.applies`.
        map_: the map of each feature.
        u: noise, ``(B, D)``.
    """
    keep: list[Tensor] = []

    def address(t: Tensor | None) -> int:
        if t is None:
            return 0
        keep.append(t.detach().contiguous())
        return keep[-1].data_ptr()

    def masked_dense(linear: nn.Linear, until: Tensor | None) -> object:
        outputs, inputs = linear.weight.shape
        return kernels.MaskedDense(
            inputs=inputs,
            outputs=outputs,
            weight=address(linear.weight),
            bias=address(linear.bias),
            until=address(until),
        )

    u = u.contiguous()
    x, logabsdet = torch.empty_like(u), u.new_empty(u.shape[0])
    network = kernels.Made(
        features=layers.features,
        residual=layers.residual,
        hidden=[masked_dense(layer, until) for layer, until in zip(layers.hidden, layers.until, strict=True)],
        final=masked_dense(layers.final, None),
        context_first=address(layers.context_first),
        context_final=address(layers.context_final),
    )
    kernels_for(u).autoregressive_inverse(
        network=network,
        map=map_.native(),
        rows=u.shape[0],
        u=u.data_ptr(),
        x=x.data_ptr(),
        logabsdet=logabsdet.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return x, logabsdet
