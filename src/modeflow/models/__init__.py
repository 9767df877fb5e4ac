"""Recipes of latent-variable models by the literature's name."""

from modeflow.models.images import IMAGE_LATENTS, ImageModel, ImageNVF, ImageVAE
from modeflow.models.likelihoods import IMAGE_LIKELIHOODS, LikelihoodOptions
from modeflow.models.tables import LATENTS, TREE_FLOW, VAE, ContinuousNVF, DiscreteNVF, TableModel, TreeNVF

__all__ = [
    "IMAGE_LATENTS",
    "IMAGE_LIKELIHOODS",
    "LATENTS",
    "TREE_FLOW",
    "VAE",
    "ContinuousNVF",
    "DiscreteNVF",
    "ImageModel",
    "ImageNVF",
    "ImageVAE",
    "LikelihoodOptions",
    "TableModel",
    "TreeNVF",
]
