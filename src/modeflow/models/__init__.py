"""Recipes of latent-variable models by the literature's name."""

from modeflow.models.coded_companions import VQVAE, VQVAE2, DiffusionBridgeVQVAE, DiscreteVAE
from modeflow.models.companions import (
    LAE,
    LIDVAE,
    SVAE,
    VAE,
    VLAE,
    FlowVAE,
    LatentFlow,
)
from modeflow.models.images import IMAGE_LATENTS, ImageModel, ImageNVF, ImageVAE
from modeflow.models.likelihoods import IMAGE_LIKELIHOODS, LikelihoodOptions
from modeflow.models.registry import COMPANIONS, Companion
from modeflow.models.table_likelihoods import TABLE_LIKELIHOODS, DecoderOptions
from modeflow.models.tables import LATENTS, TREE_FLOW, ContinuousNVF, DiscreteNVF, TableModel, TreeNVF

__all__ = [
    "COMPANIONS",
    "IMAGE_LATENTS",
    "IMAGE_LIKELIHOODS",
    "LAE",
    "LATENTS",
    "LIDVAE",
    "SVAE",
    "TABLE_LIKELIHOODS",
    "TREE_FLOW",
    "VAE",
    "VLAE",
    "VQVAE",
    "VQVAE2",
    "Companion",
    "ContinuousNVF",
    "DecoderOptions",
    "DiffusionBridgeVQVAE",
    "DiscreteNVF",
    "DiscreteVAE",
    "FlowVAE",
    "ImageModel",
    "ImageNVF",
    "ImageVAE",
    "LatentFlow",
    "LikelihoodOptions",
    "TableModel",
    "TreeNVF",
]
