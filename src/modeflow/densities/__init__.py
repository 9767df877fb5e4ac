"""Everything with `log_prob` and `sample`."""

from modeflow.densities.base import Density, Loss
from modeflow.densities.distribution import DensityDistribution
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.densities.preprocessed import Preprocessed

__all__ = ["Density", "DensityDistribution", "Flow", "Loss", "Preprocessed", "StandardNormal"]
