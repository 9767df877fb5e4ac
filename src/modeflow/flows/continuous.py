"""Flows of differential equations and of contractions: FFJORD, residual flows, score-based models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modeflow.densities.diffusion import Diffusion
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, context_layers
from modeflow.nets import ConcatSquash, ContractiveMLP
from modeflow.transforms import ODE, Composite, ConditionalAffine, Contractive, LULinear

__all__ = ["FFJORD", "ResidualFlow", "ScoreSDE"]


@recipe(
    "ffjord",
    "Grathwohl et al. 2019, arXiv:1810.01367",
    density="estimate",
    log_prob="48 evaluations and traces",
    sample="48 evaluations",
)
def FFJORD(
    features: int,
    context_features: int = 0,
    *,
    hidden_features: Sequence[int] = (64, 64),
    steps: int = 12,
    method: str = "rk4",
    rtol: float = 1e-6,
    atol: float = 1e-6,
    adjoint: bool = False,
    trace: str = "exact",
    context_affine: str = "auto",
) -> Flow:
    """FFJORD: the flow of a neural ODE, one free-form network of all features and time.

    Its density is an estimate, for the steps of the solver decide (and beyond 64 features a random trace);
    `modeflow.transforms.ode.halve_steps` shows by how much. Needs the extra ``modeflow[ode]``.

    Arguments:
        features, context_features: widths of data and context.
        hidden_features: widths of the network.
        steps: of a fixed-step method; four evaluations of the network each with rk4.
        method, rtol, atol, adjoint, trace: see `modeflow.transforms.ODE`.
        context_affine: first an affine map per context, as in `NSF`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Grathwohl et al., *FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models*,
        2019, https://arxiv.org/abs/1810.01367
    """
    check_sizes(features=features, steps=steps, hidden_features=min(hidden_features, default=0))
    field = ConcatSquash(features, hidden_features, context_features)
    times = torch.linspace(0, 1, steps + 1)
    ode = ODE(field, features, context_features, times, method, rtol, atol, adjoint, trace)
    parts = context_layers(features, context_features, context_affine)
    # The affine maps around the solve need not be learned by it.
    parts += [LULinear(features), ode, LULinear(features)]
    return Flow(Composite(parts), StandardNormal(features), context_features)


@recipe(
    "residual",
    "Chen et al. 2019, arXiv:1906.02735",
    log_prob="1 pass, D products",
    sample="a fixed point a layer",
)
def ResidualFlow(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 8,
    hidden_features: Sequence[int] = (64, 64),
    coefficient: float = 0.97,
    exact_features: int = 6,
    context_affine: str = "auto",
) -> Flow:
    """Residual flow: layers ``x + g(x)`` with g a contraction, and an affine map between.

    Up to 64 features `log_prob` is exact in evaluation mode; while training with more than
    `exact_features`, the log-determinant is an unbiased estimate. Sampling iterates to a fixed point.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers. hidden_features: widths of g.
        coefficient: bound on the norm of every linear layer, below 1.
        exact_features: see `modeflow.transforms.Contractive`.
        context_affine: first an affine map per context, as in `NSF`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Chen et al., *Residual Flows for Invertible Generative Modeling*, 2019,
        https://arxiv.org/abs/1906.02735
    """
    check_sizes(features=features, layers=layers, hidden_features=min(hidden_features, default=0))
    if not 0 < coefficient < 1:
        raise ConfigError(f"coefficient must lie between 0 and 1, received {coefficient!r}")
    parts = context_layers(features, context_features, context_affine)
    for _ in range(layers):
        g = ContractiveMLP(features, hidden_features, context_features, coefficient)
        parts += [ConditionalAffine(features), Contractive(g, features, context_features, exact_features)]
    parts.append(LULinear(features))
    return Flow(Composite(parts), StandardNormal(features), context_features)


@recipe(
    "score-sde",
    "Song et al. 2021, arXiv:2011.13456",
    density="estimate",
    log_prob="80 evaluations and traces",
    sample="80 evaluations",
)
def ScoreSDE(
    features: int,
    context_features: int = 0,
    *,
    kind: str = "vp",
    hidden_features: int = 128,
    blocks: int = 3,
    weighting: str = "likelihood",
    sampler: str = "ode",
    steps: int = 20,
) -> Diffusion:
    """Score-based model of a stochastic differential equation, with the likelihood of its ODE.

    Trained by denoising; `log_prob` is that of the probability-flow ODE, an estimate for the steps of the
    solver decide, and samples follow it with ``sampler="ode"``. ``sampler="pc"`` runs the equation backwards
    with Langevin corrections, as published; those samples follow a slightly other density. Needs the extra
    ``modeflow[ode]``.

    Arguments:
        features, context_features: widths of data and context.
        kind: ``"vp"``, ``"subvp"`` or ``"ve"``.
        hidden_features, blocks: of the noise network.
        weighting: of the loss over time, ``"likelihood"`` or ``"noise"``.
        sampler: ``"ode"`` or ``"pc"``.
        steps: of the ODE.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, 2021,
        https://arxiv.org/abs/2011.13456
    """
    check_sizes(features=features, hidden_features=hidden_features, blocks=blocks, steps=steps)
    return Diffusion(features, context_features, kind, hidden_features, blocks, weighting, sampler, steps)
