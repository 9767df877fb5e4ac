"""Flows with surjections: SurVAE and funnels."""

from __future__ import annotations

import torch
from torch import nn

from modeflow.densities.bounded import BoundedFlow
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError, nearest
from modeflow.flows.recipes import recipe
from modeflow.flows.spline import NSF, spline_layer
from modeflow.flows.stack import check_sizes, context_layers, stack_layers
from modeflow.nets import MLP, ResidualMLP
from modeflow.transforms import (
    Abs,
    AdditiveElementwise,
    Augment,
    Composite,
    Coupling,
    LULinear,
    OrderedToReal,
    PositiveToReal,
    RQSplineElementwise,
    Slice,
    Sort,
    StochasticPermutation,
    Subset,
    Transform,
)

__all__ = ["Funnel", "SurVAE"]

SYMMETRIES = ("augment", "abs", "sort", "permute", "none")


@recipe(
    "survae", "Nielsen et al. 2020, arXiv:2007.02731", density="lower bound", log_prob="1 pass a draw (16)"
)
def SurVAE(
    features: int,
    context_features: int = 0,
    *,
    symmetry: str = "augment",
    extra: int | None = None,
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    draws: int = 16,
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """A surjection, then a coupling NSF.

    ``"augment"`` appends noise dimensions (a lower bound; the flow then moves in a larger space, where
    islands need not be torn). ``"abs"`` makes the density even in every (standardised) feature and
    ``"sort"`` the same for every order of the features, both exactly. ``"permute"`` draws an order for
    every row (a lower bound). ``"none"`` is the coupling NSF.

    Arguments:
        features, context_features: widths of data and context.
        symmetry: the surjection.
        extra: dimensions that ``"augment"`` appends; as many as features if None.
        layers, hidden_features, blocks, bins, context_affine, seed: of the flow, as in `NSF`.
        draws: over which the `log_prob` of a lower bound averages.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Nielsen et al., *SurVAE Flows: Surjections to Bridge the Gap between VAEs and Flows*, 2020,
        https://arxiv.org/abs/2007.02731
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, bins=bins)
    if symmetry not in SYMMETRIES:
        raise ConfigError(
            f"symmetry must be one of {', '.join(SYMMETRIES)}; received {symmetry!r}"
            f"{nearest(str(symmetry), SYMMETRIES)}"
        )
    added = features if extra is None else extra
    check_sizes(extra=added)
    generator = torch.Generator().manual_seed(seed)
    affine = context_layers(features, context_features, context_affine)
    first: list[Transform] = []
    if symmetry == "augment":

        def encoder(inputs: int, outputs: int, context: int) -> nn.Module:
            return ResidualMLP(inputs, outputs, hidden_features, context, 1)

        first = [*affine, Augment(features, added, encoder, context_features)]
    elif symmetry == "abs":
        first = [Abs(), PositiveToReal(), *affine]
    elif symmetry == "sort":
        first = [Sort(), OrderedToReal(), *affine]
    elif symmetry == "permute":
        first = [StochasticPermutation(), *affine]
    else:
        first = affine
    width = features + added if symmetry == "augment" else features
    layer = spline_layer(width, context_features, hidden_features, blocks, bins)
    transform = Composite([*first, *stack_layers(width, layers, layer, "lu", generator)])
    base = StandardNormal(width)
    if transform.exactness == "exact":
        return Flow(transform, base, context_features, (features,))
    return BoundedFlow(transform, base, context_features, (features,), draws)


@recipe("funnel", "Klein et al. 2021, arXiv:2112.08069")
def Funnel(
    features: int,
    context_features: int = 0,
    *,
    latent: int | None = None,
    kind: str = "nsf",
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Funnel: a flow that drops features half-way and pays for them by a conditional density. Exact.

    A coupling (or, with ``kind="mlp"``, a linear map) mixes what is dropped into what is kept; a conditional
    NSF gives the density of the dropped features given what remains.

    Arguments:
        features, context_features: widths of data and context.
        latent: features that remain; half, rounded up, if None.
        kind: ``"nsf"`` or ``"mlp"``.
        layers: spline couplings, half of them before and half after the drop.
        hidden_features, blocks, bins, context_affine, seed: as in `NSF`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Klein et al., *Funnels: Exact maximum likelihood with dimensionality reduction*, 2021,
        https://arxiv.org/abs/2112.08069
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, bins=bins)
    if kind not in ("nsf", "mlp"):
        raise ConfigError(f"kind must be 'nsf' or 'mlp', received {kind!r}")
    size = (features + 1) // 2 if latent is None else latent
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= features:
        raise ConfigError(f"latent must be an integer from 1 to features ({features}), received {latent!r}")
    generator = torch.Generator().manual_seed(seed)
    before = layers // 2
    layer = spline_layer(features, context_features, hidden_features, blocks, bins)
    parts = context_layers(features, context_features, context_affine)
    parts += stack_layers(features, before, layer, "lu", generator)
    if size < features:
        parts += _drop(features, size, context_features, kind, hidden_features, blocks, bins, seed)
    inner = spline_layer(size, context_features, hidden_features, blocks, bins)
    parts += stack_layers(size, layers - before, inner, "lu", generator)
    return Flow(Composite(parts), StandardNormal(size), context_features, (features,))


def _drop(
    features: int,
    size: int,
    context_features: int,
    kind: str,
    hidden_features: int,
    blocks: int,
    bins: int,
    seed: int,
) -> list[Transform]:
    """The funnel itself: map the first `size` features given the others, then drop those."""
    keep = torch.arange(features) < size

    def net(inputs: int, outputs: int, context: int) -> nn.Module:
        if kind == "mlp":
            return MLP(inputs, outputs, (), context)
        return ResidualMLP(inputs, outputs, hidden_features, context, blocks)

    mixed: list[Transform]
    if kind == "mlp":
        linear = Subset(features, torch.arange(size), LULinear(size))
        mixed = [linear, Coupling(~keep, AdditiveElementwise(), net, context_features)]
    else:
        mixed = [Coupling(~keep, RQSplineElementwise(bins), net, context_features)]
    decoder = NSF(
        features - size,
        size + context_features,
        layers=2,
        hidden_features=hidden_features,
        blocks=blocks,
        bins=bins,
        seed=seed,
    )
    return [*mixed, Slice(keep, decoder, context_features)]
