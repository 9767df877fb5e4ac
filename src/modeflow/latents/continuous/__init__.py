"""A latent in R^L: the density is a bound, by draws of z."""

from modeflow.latents.continuous.model import ContinuousLatentModel
from modeflow.latents.continuous.objective import ContinuousELBO, MCMCLikelihood
from modeflow.latents.continuous.options import ContinuousOptions, ImageContinuous
from modeflow.latents.continuous.start import GeodesicStart

__all__ = [
    "ContinuousELBO",
    "ContinuousLatentModel",
    "ContinuousOptions",
    "GeodesicStart",
    "ImageContinuous",
    "MCMCLikelihood",
]
