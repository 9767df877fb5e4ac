"""Training a chain of layers without keeping the activations of all of them.

``"keep"`` stores what every layer needs for its gradient. ``"recompute"`` stores the inputs of segments of
about √n of n layers and runs each segment again on the way back. ``"invert"`` stores only what leaves the
chain: every layer is inverted on the way back, so that memory does not grow with depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from modeflow.accelerate.chain import chain
from modeflow.errors import ConfigError, nearest
from modeflow.nets.randomness import repeated, stream

__all__ = ["ACTIVATIONS", "chain_saving", "set_activations"]

ACTIVATIONS = ("keep", "recompute", "invert")


def set_activations(module: nn.Module, kind: str) -> None:
    """What every `Composite` within the module does with activations while it trains.

    Arguments:
        kind: ``"keep"``, ``"recompute"`` or ``"invert"``. With the last the gradient differs by the rounding
            of the inverses; layers that have none of their own (surjections, autoregressive and residual
            layers, dropout) are recomputed instead.

    Raises:
        ConfigError: for another kind.
    """
    if kind not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ConfigError(
            f"activations must be one of {known}; received {kind!r}{nearest(kind, ACTIVATIONS)}"
        )
    for part in module.modules():
        if isinstance(getattr(part, "activations", None), str):  # a chain of layers
            part.activations = kind  # type: ignore[assignment]


def chain_saving(
    layers: Sequence[Any], x: Tensor, context: Tensor | None, kind: str
) -> tuple[Tensor, Tensor]:
    """`chain`, forward, keeping less for the gradient; the same values."""
    total = x.new_zeros(x.shape[0])
    if kind == "recompute":
        size = math.isqrt(len(layers)) or 1
        segment: list[Any] = []
        for layer in [*layers, None]:
            apart = layer is None or _apart(layer)
            if segment and (apart or len(segment) == size):
                x, logabsdet = _recomputed(segment, x, context)
                total, segment = total + logabsdet, []
            if not apart:
                segment.append(layer)
            elif layer is not None:
                x, logabsdet = layer(x, context)
                total = total + logabsdet
        return x, total
    group: list[Any] = []
    for layer in [*layers, None]:
        if layer is not None and _invertible(layer):
            group.append(layer)
            continue
        if group:
            parameters = [p for member in group for p in member.parameters() if p.requires_grad]
            x, logabsdet = _Inverted.apply(tuple(group), x, context, *parameters)
            total = total + logabsdet
            group = []
        if layer is not None:
            x, logabsdet = layer(x, context) if _apart(layer) else _recomputed([layer], x, context)
            total = total + logabsdet
    return x, total


def _recomputed(layers: Sequence[Any], x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    own = stream(x.device) is not None
    result: tuple[Tensor, Tensor] = checkpoint(
        chain,
        layers,
        x,
        context,
        use_reentrant=False,
        preserve_rng_state=not own,  # of torch's generators
        context_fn=lambda: repeated(x.device),
    )
    return result


def _invertible(layer: Any) -> bool:
    """Whether a layer's inverse is one pass, and its second evaluation like its first."""
    dropping = any(
        isinstance(m, nn.Dropout | nn.Dropout2d) and m.p > 0 and m.training for m in layer.modules()
    )
    return layer.bijective and layer.one_pass_inverse and not dropping and not _apart(layer)


def _apart(layer: Any) -> bool:
    """Whether a layer is evaluated once: it holds chains of its own, or changes when evaluated."""
    return any(hasattr(m, "activations") or not getattr(m, "repeatable", True) for m in layer.modules())


class _Inverted(torch.autograd.Function):
    """Layers whose inputs are found again from their outputs."""

    @staticmethod
    def forward(
        ctx: Any, layers: tuple[Any, ...], x: Tensor, context: Tensor | None, *parameters: Tensor
    ) -> Any:
        x, total = chain(layers, x, context)
        ctx.layers = layers
        ctx.save_for_backward(x, context)
        # A chain of layers that change nothing returns its input, which cannot be an output of its own.
        return x.clone() if any(x is t for t in ctx.saved_tensors) else x, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_log: Tensor) -> Any:
        y, context = ctx.saved_tensors
        wanted = context is not None and ctx.needs_input_grad[2]
        on_context = torch.zeros_like(context) if wanted else None
        on_parameters: list[list[Tensor | None]] = []
        for layer in reversed(ctx.layers):
            parameters = [p for p in layer.parameters() if p.requires_grad]
            with torch.enable_grad():
                given = context.detach().requires_grad_() if wanted else context
                leaves, join, out, logabsdet = layer.again(y, given)
                pairs = [(t, g) for t, g in ((out, grad), (logabsdet, grad_log)) if t.requires_grad]
                inputs = [*leaves, *parameters, *([given] if wanted else [])]
                found = torch.autograd.grad(
                    [t for t, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True
                )
            n = len(leaves)
            on_parameters.append(list(found[n : n + len(parameters)]))
            if on_context is not None and found[-1] is not None:
                on_context += found[-1]
            with torch.no_grad():
                zeros = [
                    torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=False)
                ]
                grad, y = join(*zeros), join(*(leaf.detach() for leaf in leaves))
        flat = [g for each in reversed(on_parameters) for g in each]
        return None, grad if ctx.needs_input_grad[1] else None, on_context, *flat
