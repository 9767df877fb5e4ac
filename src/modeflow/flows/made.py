"""Autoregressive densities as models of their own, and as the base of a MAF."""

from __future__ import annotations

from collections.abc import Sequence

from modeflow.densities.autoregressive import AutoregressiveDensity
from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.flows.affine import masked_affine
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, context_layers
from modeflow.transforms import Composite

__all__ = ["MADE", "MAFMoG"]


@recipe("made", "Germain et al. 2015, arXiv:1502.03509", sample="D passes")
def MADE(
    features: int,
    context_features: int = 0,
    *,
    conditional: str = "gaussian",
    hidden_features: Sequence[int] = (64, 64),
    components: int = 10,
    n_masks: int = 1,
    context_affine: str = "auto",
    seed: int = 0,
) -> Density:
    """MADE: every feature given those before it, by one masked network.

    Arguments:
        features: dimension D of the data.
        context_features: width of the context, 0 for none.
        conditional: ``"gaussian"``, ``"mixture"`` (MADE-MoG) or ``"bernoulli"`` (binary data).
        hidden_features: widths of the hidden layers.
        components: Gaussians of each conditional mixture.
        n_masks: orders and connectivities that share the weights; the density is their mixture.
        context_affine: first an affine map per context, as in `MAF` (not for binary data).
        seed: of the masks.

    Reference:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
        https://arxiv.org/abs/1502.03509
    """
    widths = (hidden_features,) if isinstance(hidden_features, int) else tuple(hidden_features)
    check_sizes(features=features, n_masks=n_masks, hidden_features=min(widths, default=0))
    density = AutoregressiveDensity(
        features, context_features, conditional, widths, components, n_masks, seed
    )
    first = context_layers(features, context_features, context_affine)
    if conditional == "bernoulli" or not first:
        return density
    return Flow(Composite(first), density, context_features)


@recipe("maf-mog", "Papamakarios et al. 2017, arXiv:1705.07057", sample="D passes")
def MAFMoG(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 5,
    hidden_features: Sequence[int] = (64, 64),
    components: int = 10,
    mixing: str = "reverse",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Masked autoregressive flow over a MADE with mixture conditionals (MAF-MoG).

    Arguments:
        components: Gaussians of each conditional mixture of the base; the others as in `MAF`.

    Reference:
        Papamakarios et al., *Masked Autoregressive Flow for Density Estimation*, 2017,
        https://arxiv.org/abs/1705.07057
    """
    widths = (hidden_features,) if isinstance(hidden_features, int) else tuple(hidden_features)
    base = AutoregressiveDensity(features, context_features, "mixture", widths, components)
    return masked_affine(features, context_features, layers, widths, mixing, context_affine, seed, base)
