"""How a vector flow is stacked: an affine map per context, then layers with mixing between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.options import check_sizes
from modeflow.transforms import Composite, ConditionalAffine, LULinear, Permutation, Transform

__all__ = ["check_sizes", "context_layers", "split_mask", "stack", "stack_layers"]


def split_mask(features: int, layer: int) -> torch.Tensor:
    """Features that pass layer number `layer` unchanged: the first half and the second in turn.

    With one feature nothing passes: the layer then acts on it with parameters from the context alone.
    """
    mask = torch.zeros(features, dtype=torch.bool)
    if features > 1:
        half = features // 2
        mask[: half if layer % 2 == 0 else features - half] = True
    return mask


def mixing(kind: str, features: int, generator: torch.Generator) -> list[Transform]:
    """Layers that change the order or basis of the features between two flow layers."""
    if features == 1:
        # Nothing to mix, but the scale must be free: a spline is the identity outside its interval.
        return [LULinear(1)] if kind == "lu" else []
    if kind == "lu":
        return [Permutation.random(features, generator), LULinear(features)]
    if kind == "permutation":
        return [Permutation.random(features, generator)]
    if kind == "reverse":
        return [Permutation.reverse(features)]
    raise ConfigError(f"mixing must be 'lu', 'permutation' or 'reverse', received {kind!r}")


def context_layers(features: int, context_features: int, context_affine: str) -> list[Transform]:
    """The affine map that every context gets first: one layer, or none.

    Raises:
        ConfigError: for an unknown `context_affine`.
    """
    if context_affine not in ("auto", "full", "diagonal", "none"):
        raise ConfigError(
            f"context_affine must be 'auto', 'full', 'diagonal' or 'none', received {context_affine!r}"
        )
    if not context_features or context_affine == "none":
        return []
    # D²/2 numbers a state: affordable, and learnable, up to some 64 features.
    full = context_affine == "full" or (context_affine == "auto" and features <= 64)
    return [ConditionalAffine(features, context_features, full)]


def stack_layers(
    features: int,
    layers: int,
    layer: Callable[[int], Transform],
    mix: str,
    generator: torch.Generator,
) -> list[Transform]:
    """``layers x [mixing, layer] + [mixing]``; permutations are drawn from the generator.

    Raises:
        ConfigError: for an unknown `mix`.
    """
    parts: list[Transform] = []
    for i in range(layers):
        parts += [*mixing(mix, features, generator), layer(i)]
    return parts + mixing(mix, features, generator)


def stack(
    features: int,
    context_features: int,
    layers: int,
    layer: Callable[[int], Transform],
    mix: str,
    context_affine: str,
    seed: int,
    base: Density | None = None,
    last: Sequence[Transform] = (),
) -> Flow:
    """Build ``[affine per context] + layers x [mixing, layer] + [mixing] + last`` over a base.

    The affine map gives each context its own location, scale and (`"full"`) correlations; it is left out
    where there is no context. Permutations are drawn from `seed` and stored with the model. The base is a
    standard normal if None.

    Raises:
        ConfigError: for an unknown `mix` or `context_affine`.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = context_layers(features, context_features, context_affine)
    parts += [*stack_layers(features, layers, layer, mix, generator), *last]
    return Flow(Composite(parts), StandardNormal(features) if base is None else base, context_features)
