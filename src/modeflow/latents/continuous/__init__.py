"""A latent in R^L: the density is a bound, by draws of z."""

from modeflow.latents.continuous.gaps import Gap, Gaps, inference_gaps
from modeflow.latents.continuous.model import ContinuousLatentModel
from modeflow.latents.continuous.objective import (
    ContinuousELBO,
    ContinuousObjective,
    MCMCLikelihood,
    power_mean,
)
from modeflow.latents.continuous.options import ContinuousOptions, ImageContinuous
from modeflow.latents.continuous.refine import Refinement
from modeflow.latents.continuous.start import GeodesicStart
from modeflow.latents.continuous.weighted import (
    CONTINUOUS_OBJECTIVES,
    CUBO,
    IWAE,
    RenyiBound,
    WakePhase,
    WakeSleep,
)

__all__ = [
    "CONTINUOUS_OBJECTIVES",
    "CUBO",
    "IWAE",
    "ContinuousELBO",
    "ContinuousLatentModel",
    "ContinuousObjective",
    "ContinuousOptions",
    "Gap",
    "Gaps",
    "GeodesicStart",
    "ImageContinuous",
    "MCMCLikelihood",
    "Refinement",
    "RenyiBound",
    "WakePhase",
    "WakeSleep",
    "inference_gaps",
    "power_mean",
]
