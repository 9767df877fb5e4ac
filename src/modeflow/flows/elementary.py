"""Planar and radial flows."""

from __future__ import annotations

from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes
from modeflow.transforms import Composite, ConditionalAffine, Planar, Radial, Transform

__all__ = ["PlanarFlow", "RadialFlow"]


def _build(kind: type[Planar] | type[Radial], features: int, context_features: int, layers: int) -> Flow:
    check_sizes(features=features, layers=layers)
    parts: list[Transform] = [ConditionalAffine(features, context_features, full=features <= 64)]
    parts += [kind(features, context_features) for _ in range(layers)]
    return Flow(Composite(parts), StandardNormal(features), context_features)


@recipe("planar", "Rezende and Mohamed 2015, arXiv:1505.05770", sample="1 scalar root a layer")
def PlanarFlow(features: int, context_features: int = 0, *, layers: int = 32) -> Flow:
    """Planar flow: each layer pushes along one direction. Density in closed form.

    Sampling solves one scalar equation a layer by bisection. For use as a variational posterior, where
    sampling must be the closed direction, wrap its transform in `Inverse`.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers; each is weak, so many are needed, and a learning rate of 5e-3 helps.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
    """
    return _build(Planar, features, context_features, layers)


@recipe("radial", "Rezende and Mohamed 2015, arXiv:1505.05770", sample="1 scalar root a layer")
def RadialFlow(features: int, context_features: int = 0, *, layers: int = 32) -> Flow:
    """Radial flow: each layer pulls towards or pushes away from one point. Density in closed form.

    Sampling solves one scalar equation a layer, as in `PlanarFlow`.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers; each is weak, so many are needed, and a learning rate of 5e-3 helps.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
    """
    return _build(Radial, features, context_features, layers)
