"""Latent-variable models made of four parts: prior, likelihood, posterior, objective."""

from modeflow.latents.base import STAGES, LatentModel, Schedule
from modeflow.latents.continuous import ContinuousELBO, ContinuousLatentModel
from modeflow.latents.discrete import DiscreteLatentModel, PrunedLogProb
from modeflow.latents.initialise_images import initialise_images
from modeflow.latents.islands import find_islands
from modeflow.latents.kbest import k_best
from modeflow.latents.objectives import (
    OBJECTIVES,
    GumbelELBO,
    Marginal,
    Objective,
    SummedELBO,
    Truncated,
    build_objective,
)
from modeflow.latents.posteriors import (
    POSTERIORS,
    Approximate,
    CategoricalEncoder,
    FlowPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    Posterior,
    build_posterior,
)
from modeflow.latents.priors import CategoricalPrior
from modeflow.latents.sequential import SequentialLatentModel, VectorQuantizer

__all__ = [
    "OBJECTIVES",
    "POSTERIORS",
    "STAGES",
    "Approximate",
    "CategoricalEncoder",
    "CategoricalPrior",
    "ContinuousELBO",
    "ContinuousLatentModel",
    "DiscreteLatentModel",
    "FlowPosterior",
    "FullGaussianPosterior",
    "GaussianPosterior",
    "GumbelELBO",
    "LatentModel",
    "Marginal",
    "Objective",
    "Posterior",
    "PrunedLogProb",
    "Schedule",
    "SequentialLatentModel",
    "SummedELBO",
    "Truncated",
    "VectorQuantizer",
    "build_objective",
    "build_posterior",
    "find_islands",
    "initialise_images",
    "k_best",
]
