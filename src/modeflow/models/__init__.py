"""Recipes of latent-variable models by the literature's name."""

from modeflow.models.continuous import VAE, ContinuousNVF
from modeflow.models.images import ImageModel, ImageNVF, ImageVAE
from modeflow.models.nvf import NVF

__all__ = ["NVF", "VAE", "ContinuousNVF", "ImageModel", "ImageNVF", "ImageVAE"]
