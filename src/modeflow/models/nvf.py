"""Normalizing flow with variational latent representation, discrete latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modeflow.errors import ConfigError
from modeflow.flows import build_flow
from modeflow.latents import (
    CategoricalEncoder,
    CategoricalPrior,
    DiscreteLatentModel,
    build_objective,
)

__all__ = ["NVF"]


def NVF(
    features: int,
    n_states: int = 8,
    *,
    flow: str = "nsf-coupling",
    flow_options: dict[str, Any] | None = None,
    prior: str = "learned",
    objective: str = "truncated",
    encoder_features: Sequence[int] = (64, 64),
    epsilon: float | None = None,
    explore: float | None = None,
    temperature: float | None = None,
    final_temperature: float | None = None,
    anneal_steps: int | None = None,
    kl_warmup_steps: int | None = None,
    hold_steps: int | None = None,
) -> DiscreteLatentModel:
    r"""NVF with a discrete latent: ``p(x) = Σ_k π_k p(x | z = k)``, each term a conditional flow.

    Arguments:
        features: dimension D of the data.
        n_states: K; with 1 the model is the plain flow.
        flow, flow_options: the conditional flow, by its name in `modeflow.flows.FLOWS`.
        prior: ``"learned"`` or ``"uniform"``.
        objective: ``"truncated"``, ``"marginal"``, ``"elbo-sum"`` or ``"elbo"`` (the paper's), see
            `modeflow.latents.objectives`.
        encoder_features: hidden widths of the encoder q(z|x).
        epsilon: encoder mass below which "truncated" leaves a state out, in ``[0, 1)``.
        explore: states that "truncated" adds at random, per row, on average.
        hold_steps: optimiser steps for which rows keep the states they start in ("truncated", "marginal").
        temperature, final_temperature, anneal_steps: of the Gumbel-softmax sample of "elbo".
        kl_warmup_steps: optimiser steps over which the weight of the KL term of both ELBOs rises to one.
            Options are the objective's default where None; one that it has no use for is refused.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    if not isinstance(n_states, int) or isinstance(n_states, bool) or n_states < 1:
        raise ConfigError(f"n_states must be an integer of 1 or more, received {n_states!r}")
    if prior not in ("learned", "uniform"):
        raise ConfigError(f"prior must be 'learned' or 'uniform', received {prior!r}")
    options = {
        "epsilon": epsilon,
        "explore": explore,
        "hold_steps": hold_steps,
        "temperature": temperature,
        "final_temperature": final_temperature,
        "anneal_steps": anneal_steps,
        "kl_warmup_steps": kl_warmup_steps,
    }
    loss = build_objective(objective, **{k: v for k, v in options.items() if v is not None})
    likelihood = build_flow(flow, features, n_states if n_states > 1 else 0, flow_options)
    states = CategoricalPrior(n_states, learned=prior == "learned")
    if n_states == 1:
        return DiscreteLatentModel(states, likelihood, None, None)
    encoder = CategoricalEncoder(features, n_states, encoder_features)
    return DiscreteLatentModel(states, likelihood, encoder, loss)
