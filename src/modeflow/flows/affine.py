"""Flows made of shifts and affine maps: NICE, RealNVP, MAF, IAF."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from modeflow.densities.base import Density
from modeflow.densities.bases import Logistic
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, split_mask, stack
from modeflow.nets import MADE, ResidualMLP
from modeflow.transforms import (
    AdditiveElementwise,
    AffineElementwise,
    ConditionalAffine,
    Coupling,
    Inverse,
    MaskedAutoregressive,
    Transform,
)

__all__ = ["IAF", "MAF", "NICE", "RealNVP", "inverse_autoregressive", "masked_affine"]


@recipe("realnvp", "Dinh et al. 2017, arXiv:1605.08803")
def RealNVP(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 8,
    hidden_features: int = 64,
    blocks: int = 2,
    dropout: float = 0.0,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    r"""Affine coupling flow (RealNVP) for vectors: both directions cost one pass.

    .. math:: u_a = x_a, \qquad u_b = x_b \odot e^{s(x_a, c)} + t(x_a, c)

    Arguments:
        features: dimension D of the data.
        context_features: width of the context, 0 for none.
        layers: number of coupling layers.
        hidden_features, blocks, dropout: the residual conditioner.
        mixing: between layers, ``"lu"`` (permutation and LU linear), ``"permutation"``, ``"reverse"``.
        context_affine: first an affine map per context: ``"full"`` (location, scale, correlations),
            ``"diagonal"``, ``"none"``, or ``"auto"`` (full up to 64 features).
        seed: of the permutations.

    Reference:
        Dinh et al., *Density estimation using Real NVP*, 2017, https://arxiv.org/abs/1605.08803
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features)

    def conditioner(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden_features, context, blocks, dropout=dropout)

    def layer(i: int) -> Transform:
        mask = split_mask(features, i)
        return Coupling(mask, AffineElementwise(), conditioner, context_features)

    return stack(features, context_features, layers, layer, mixing, context_affine, seed)


@recipe("maf", "Papamakarios et al. 2017, arXiv:1705.07057", sample="D passes")
def MAF(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 5,
    hidden_features: Sequence[int] = (64, 64),
    mixing: str = "reverse",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    r"""Masked autoregressive flow: density in one pass, sampling in D passes.

    .. math:: u_d = x_d e^{s_d(x_{<d}, c)} + t_d(x_{<d}, c)

    Arguments:
        features: dimension D of the data.
        context_features: width of the context, 0 for none.
        layers: number of autoregressive layers.
        hidden_features: widths of the hidden layers of each MADE.
        mixing: between layers, ``"reverse"`` (as published), ``"permutation"`` or ``"lu"``.
        context_affine: first an affine map per context: ``"full"`` (location, scale, correlations),
            ``"diagonal"``, ``"none"``, or ``"auto"`` (full up to 64 features).
        seed: of the permutations.

    Reference:
        Papamakarios et al., *Masked Autoregressive Flow for Density Estimation*, 2017,
        https://arxiv.org/abs/1705.07057
    """
    return masked_affine(features, context_features, layers, hidden_features, mixing, context_affine, seed)


def masked_affine(
    features: int,
    context_features: int,
    layers: int,
    hidden_features: Sequence[int] | int,
    mixing: str,
    context_affine: str,
    seed: int,
    base: Density | None = None,
) -> Flow:
    """`MAF` over a base of one's own (standard normal if None)."""
    widths = (hidden_features,) if isinstance(hidden_features, int) else tuple(hidden_features)
    check_sizes(features=features, layers=layers, **{"hidden_features": min(widths, default=1)})

    def layer(i: int) -> Transform:
        elementwise = AffineElementwise()
        made = MADE(features, elementwise.n_params, widths, context_features)
        return MaskedAutoregressive(made, elementwise, context_features)

    return stack(features, context_features, layers, layer, mixing, context_affine, seed, base)


@recipe("nice", "Dinh et al. 2014, arXiv:1410.8516")
def NICE(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 6,
    hidden_features: int = 64,
    blocks: int = 2,
    mixing: str = "permutation",
    context_affine: str = "auto",
    base: str = "normal",
    seed: int = 0,
) -> Flow:
    r"""Additive coupling flow with a diagonal scaling at the end (NICE): both directions cost one pass.

    .. math:: u_a = x_a, \qquad u_b = x_b + t(x_a, c), \qquad \log|\det| = \sum_d s_d

    Warning:
        Its volume change is the same everywhere: it shears, and cannot stretch one region more than
        another.

    Arguments:
        features: dimension D of the data.
        context_features: width of the context, 0 for none.
        layers: number of coupling layers (three or more, so that every feature meets every other).
        hidden_features, blocks: the residual conditioner.
        mixing: between layers, ``"permutation"``, ``"reverse"`` or ``"lu"``.
        context_affine: as in `RealNVP`.
        base: ``"normal"`` or ``"logistic"``.
        seed: of the permutations.

    Reference:
        Dinh et al., *NICE: Non-linear Independent Components Estimation*, 2014,
        https://arxiv.org/abs/1410.8516
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features)
    bases = {"normal": StandardNormal, "logistic": Logistic}
    if base not in bases:
        raise ConfigError(f"base must be 'normal' or 'logistic', received {base!r}")

    def conditioner(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden_features, context, blocks)

    def layer(i: int) -> Transform:
        return Coupling(split_mask(features, i), AdditiveElementwise(), conditioner, context_features)

    noise, scaling = bases[base](features), [ConditionalAffine(features)]
    return stack(features, context_features, layers, layer, mixing, context_affine, seed, noise, scaling)


@recipe("iaf", "Kingma et al. 2016, arXiv:1606.04934", log_prob="D passes")
def IAF(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 5,
    hidden_features: Sequence[int] = (64, 64),
    mixing: str = "reverse",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    r"""Inverse autoregressive flow: sampling in one pass, density in D passes.

    .. math:: x_d = u_d e^{s_d(u_{<d}, c)} + t_d(u_{<d}, c)

    The layers are those of `MAF` read in the other direction: made for variational posteriors, where what
    is scored is what was drawn (`rsample_and_log_prob` costs one pass a layer).

    Arguments: as in `MAF`.

    Reference:
        Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016,
        https://arxiv.org/abs/1606.04934
    """
    widths = (hidden_features,) if isinstance(hidden_features, int) else tuple(hidden_features)
    check_sizes(features=features, layers=layers, **{"hidden_features": min(widths, default=1)})

    def layer(i: int) -> Transform:
        return inverse_autoregressive(features, context_features, widths)

    return stack(features, context_features, layers, layer, mixing, context_affine, seed)


def inverse_autoregressive(features: int, context_features: int, widths: Sequence[int]) -> Transform:
    """One layer of `IAF`, for a flow of one's own."""
    elementwise = AffineElementwise()
    made = MADE(features, elementwise.n_params, tuple(widths), context_features)
    return Inverse(MaskedAutoregressive(made, elementwise, context_features))
