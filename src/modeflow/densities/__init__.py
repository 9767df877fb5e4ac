"""Everything with `log_prob` and `sample`."""

from modeflow.densities.adapters import NflowsDensity, NormflowsDensity, ZukoDensity
from modeflow.densities.autoregressive import AutoregressiveDensity
from modeflow.densities.base import Density, Loss
from modeflow.densities.bases import Logistic, StudentT, Uniform
from modeflow.densities.distribution import DensityDistribution
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.densities.preprocessed import Preprocessed

__all__ = [
    "AutoregressiveDensity",
    "Density",
    "DensityDistribution",
    "Flow",
    "Logistic",
    "Loss",
    "NflowsDensity",
    "NormflowsDensity",
    "Preprocessed",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "ZukoDensity",
]
