"""Rival answers to data on islands: another base instead of a latent state."""

from __future__ import annotations

from modeflow.densities.base import Density
from modeflow.densities.bases import StudentT
from modeflow.densities.flow import Flow
from modeflow.densities.mixtures import GaussianMixtureBase
from modeflow.densities.resampled import ResampledBase
from modeflow.flows.recipes import recipe
from modeflow.flows.spline import spline_layer
from modeflow.flows.stack import check_sizes, stack

__all__ = ["GMMBaseFlow", "ResampledFlow", "StudentFlow"]


def _over(
    base: Density,
    features: int,
    context_features: int,
    layers: int,
    hidden_features: int,
    blocks: int,
    bins: int,
    mixing: str,
    context_affine: str,
    seed: int,
) -> Flow:
    """The coupling layers of an `NSF` over another base."""
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, bins=bins)
    layer = spline_layer(features, context_features, hidden_features, blocks, bins)
    return stack(features, context_features, layers, layer, mixing, context_affine, seed, base)


@recipe("gmm-base", "Izmailov et al. 2020, arXiv:1912.13025")
def GMMBaseFlow(
    features: int,
    context_features: int = 0,
    *,
    components: int = 8,
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Coupling NSF over a learned Gaussian mixture: all modes share one map.

    Arguments:
        features, context_features: widths of data and context.
        components: Gaussians of the base, with diagonal covariances.
        layers, hidden_features, blocks, bins, mixing, context_affine, seed: as in `NSF`.

    Reference:
        Izmailov et al., *Semi-Supervised Learning with Normalizing Flows*, 2020,
        https://arxiv.org/abs/1912.13025
    """
    base = GaussianMixtureBase(features, components)
    return _over(
        base, features, context_features, layers, hidden_features, blocks, bins, mixing, context_affine, seed
    )


@recipe("resampled-base", "Stimper et al. 2022, arXiv:2110.15828", density="estimate")
def ResampledFlow(
    features: int,
    context_features: int = 0,
    *,
    truncation: int = 20,
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Coupling NSF over a base from which a learned rule rejects draws.

    Exact for one and two features; beyond, the constant of the base is estimated.

    Arguments:
        features, context_features: widths of data and context.
        truncation: draws after which one is accepted in any case.
        layers, hidden_features, blocks, bins, mixing, context_affine, seed: as in `NSF`.

    Reference:
        Stimper et al., *Resampling Base Distributions of Normalizing Flows*, 2022,
        https://arxiv.org/abs/2110.15828
    """
    return _over(
        ResampledBase(features, truncation),
        features,
        context_features,
        layers,
        hidden_features,
        blocks,
        bins,
        mixing,
        context_affine,
        seed,
    )


@recipe("student-base", "Alexanderson and Henter 2020, arXiv:2006.06599")
def StudentFlow(
    features: int,
    context_features: int = 0,
    *,
    degrees_of_freedom: float = 10.0,
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Coupling NSF over Student-t noise with learned degrees of freedom: heavy tails.

    Arguments:
        features, context_features: widths of data and context.
        degrees_of_freedom: at the start.
        layers, hidden_features, blocks, bins, mixing, context_affine, seed: as in `NSF`.

    Reference:
        Alexanderson and Henter, *Robust model training and generalisation with Studentising flows*, 2020,
        https://arxiv.org/abs/2006.06599
    """
    base = StudentT(features, degrees_of_freedom)
    return _over(
        base, features, context_features, layers, hidden_features, blocks, bins, mixing, context_affine, seed
    )
