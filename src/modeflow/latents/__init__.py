"""Latent-variable models made of four parts: prior, likelihood, posterior, objective."""

from modeflow.latents.discrete import DiscreteLatentModel, PrunedLogProb
from modeflow.latents.initialise import find_islands
from modeflow.latents.objectives import (
    OBJECTIVES,
    GumbelELBO,
    Marginal,
    Objective,
    SummedELBO,
    build_objective,
)
from modeflow.latents.posteriors import CategoricalEncoder
from modeflow.latents.priors import CategoricalPrior

__all__ = [
    "OBJECTIVES",
    "CategoricalEncoder",
    "CategoricalPrior",
    "DiscreteLatentModel",
    "GumbelELBO",
    "Marginal",
    "Objective",
    "PrunedLogProb",
    "SummedELBO",
    "build_objective",
    "find_islands",
]
