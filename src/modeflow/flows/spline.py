"""Neural spline flows, coupling and autoregressive."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from modeflow.densities.flow import Flow
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, split_mask, stack
from modeflow.nets import ResidualMADE, ResidualMLP
from modeflow.transforms import (
    Coupling,
    MaskedAutoregressive,
    RQSplineElementwise,
    Transform,
)

__all__ = ["NSF", "spline_layer"]


@recipe("nsf-coupling", "Durkan et al. 2019, arXiv:1906.04032", coupling=True)
@recipe("nsf-autoregressive", "Durkan et al. 2019, arXiv:1906.04032", sample="D passes", coupling=False)
def NSF(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    tail_bound: float = 3.0,
    coupling: bool = True,
    dropout: float = 0.0,
    mixing: str = "lu",
    context_affine: str = "auto",
    context_gate: bool = False,
    seed: int = 0,
) -> Flow:
    """Neural spline flow: monotone rational-quadratic splines with linear tails.

    With ``coupling=True`` both directions cost one pass per layer; with ``coupling=False``
    (autoregressive) the density costs one pass and sampling D.

    Warning:
        Outside ``[-tail_bound, tail_bound]`` a spline is the identity: standardise the data.

    Arguments:
        features: dimension D of the data.
        context_features: width of the context, 0 for none.
        layers: number of spline layers.
        hidden_features, blocks, dropout: the residual conditioner.
        bins: bins of each spline.
        tail_bound: half-width of the interval the splines act on.
        coupling: coupling (True) or masked autoregressive (False) layers.
        mixing: between layers, ``"lu"`` (permutation and LU linear), ``"permutation"``, ``"reverse"``.
        context_affine: first an affine map per context: ``"full"`` (location, scale, correlations),
            ``"diagonal"``, ``"none"``, or ``"auto"`` (full up to 64 features).
        context_gate: let the context also gate every residual block (slower; as in the paper's code).
        seed: of the permutations.

    Reference:
        Durkan et al., *Neural Spline Flows*, 2019, https://arxiv.org/abs/1906.04032
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, bins=bins)
    layer = spline_layer(
        features, context_features, hidden_features, blocks, bins, tail_bound, coupling, dropout, context_gate
    )
    return stack(features, context_features, layers, layer, mixing, context_affine, seed)


def spline_layer(
    features: int,
    context_features: int = 0,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    tail_bound: float = 3.0,
    coupling: bool = True,
    dropout: float = 0.0,
    context_gate: bool = False,
) -> Callable[[int], Transform]:
    """Layer number i of an `NSF`, as a function of i; its arguments are those of `NSF`."""

    def conditioner(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(
            inputs, outputs, hidden_features, context, blocks, dropout=dropout, gate=context_gate
        )

    def layer(i: int) -> Transform:
        spline = RQSplineElementwise(bins, tail_bound)
        if coupling:
            return Coupling(split_mask(features, i), spline, conditioner, context_features)
        made = ResidualMADE(
            features,
            spline.n_params,
            hidden_features,
            context_features,
            blocks,
            dropout=dropout,
            gate=context_gate,
        )
        return MaskedAutoregressive(made, spline, context_features)

    return layer
