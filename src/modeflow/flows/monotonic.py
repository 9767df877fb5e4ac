"""Autoregressive flows of monotone networks and polynomials: NAF, its dense form, and SOS."""

from __future__ import annotations

from torch import nn

from modeflow.densities.flow import Flow
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, split_mask, stack
from modeflow.nets import ResidualMADE, ResidualMLP
from modeflow.transforms import (
    Coupling,
    DenseSigmoidalElementwise,
    Elementwise,
    MaskedAutoregressive,
    SigmoidalElementwise,
    SquaresElementwise,
    Transform,
)

__all__ = ["NAF", "SOS", "NAFDense"]


def _build(
    elementwise: Elementwise,
    features: int,
    context_features: int,
    layers: int,
    hidden_features: int,
    blocks: int,
    coupling: bool,
    mixing: str,
    context_affine: str,
    seed: int,
) -> Flow:
    check_sizes(features=features, layers=layers, hidden_features=hidden_features)

    def conditioner(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden_features, context, blocks)

    def layer(i: int) -> Transform:
        if coupling:
            return Coupling(split_mask(features, i), elementwise, conditioner, context_features)
        made = ResidualMADE(features, elementwise.n_params, hidden_features, context_features, blocks)
        return MaskedAutoregressive(made, elementwise, context_features)

    return stack(features, context_features, layers, layer, mixing, context_affine, seed)


@recipe("naf", "Huang et al. 2018, arXiv:1804.00779", sample="D passes, bisections")
def NAF(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 5,
    units: int = 8,
    hidden_features: int = 64,
    blocks: int = 2,
    coupling: bool = False,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Neural autoregressive flow with deep sigmoidal layers (NAF-DSF).

    Density in one pass. Sampling costs D passes and a bisection in each (with ``coupling=True`` one pass
    and one bisection a layer).

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers. units: sigmoids of each entry.
        hidden_features, blocks: the residual conditioner.
        coupling: couple halves instead of going feature by feature.
        mixing, context_affine, seed: as in `NSF`.

    Reference:
        Huang et al., *Neural Autoregressive Flows*, 2018, https://arxiv.org/abs/1804.00779
    """
    return _build(
        SigmoidalElementwise(units),
        features,
        context_features,
        layers,
        hidden_features,
        blocks,
        coupling,
        mixing,
        context_affine,
        seed,
    )


@recipe("naf-dense", "Huang et al. 2018, arXiv:1804.00779", sample="D passes, bisections")
def NAFDense(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 5,
    units: int = 4,
    depth: int = 2,
    hidden_features: int = 64,
    blocks: int = 2,
    coupling: bool = False,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Neural autoregressive flow with deep dense sigmoidal layers (NAF-DDSF). Costs as those of `NAF`.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers. units, depth: of the monotone network of each entry.
        hidden_features, blocks: the residual conditioner.
        coupling: couple halves instead of going feature by feature.
        mixing, context_affine, seed: as in `NSF`.

    Reference:
        Huang et al., *Neural Autoregressive Flows*, 2018, https://arxiv.org/abs/1804.00779
    """
    return _build(
        DenseSigmoidalElementwise(units, depth),
        features,
        context_features,
        layers,
        hidden_features,
        blocks,
        coupling,
        mixing,
        context_affine,
        seed,
    )


@recipe("sos", "Jaini et al. 2019, arXiv:1905.02325", sample="D passes, bisections")
def SOS(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 4,
    terms: int = 3,
    degree: int = 2,
    hidden_features: int = 64,
    blocks: int = 2,
    coupling: bool = False,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    """Sum-of-squares polynomial flow, linear beyond five standard deviations. Costs as those of `NAF`.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers. terms, degree: squares in each sum and their degree.
        hidden_features, blocks: the residual conditioner.
        coupling: couple halves instead of going feature by feature.
        mixing, context_affine, seed: as in `NSF`.

    Reference:
        Jaini et al., *Sum-of-Squares Polynomial Flow*, 2019, https://arxiv.org/abs/1905.02325
    """
    return _build(
        SquaresElementwise(terms, degree),
        features,
        context_features,
        layers,
        hidden_features,
        blocks,
        coupling,
        mixing,
        context_affine,
        seed,
    )
