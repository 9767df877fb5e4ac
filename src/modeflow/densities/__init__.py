"""Everything with `log_prob` and `sample`."""

from modeflow.densities.adapters import NflowsDensity, NormflowsDensity, ZukoDensity
from modeflow.densities.autoregressive import AutoregressiveDensity
from modeflow.densities.base import Density, Loss
from modeflow.densities.bases import Logistic, StudentT, Uniform
from modeflow.densities.beside import Beside
from modeflow.densities.bounded import BoundedFlow
from modeflow.densities.bridge import DiffusionBridge
from modeflow.densities.bridge_codes import BridgeCodes
from modeflow.densities.codes import AutoregressiveCodes
from modeflow.densities.decoders import BernoulliDecoder, GaussianDecoder, Predicting
from modeflow.densities.diffusion import Diffusion
from modeflow.densities.distribution import DensityDistribution
from modeflow.densities.features import Feature
from modeflow.densities.flow import Flow
from modeflow.densities.gaussian_mixture import GaussianMixture
from modeflow.densities.image_decoders import DiscretizedDecoder
from modeflow.densities.leaves import Leaves
from modeflow.densities.mixed_rows import MixedRows
from modeflow.densities.mixtures import GaussianMixtureBase
from modeflow.densities.normal import StandardNormal
from modeflow.densities.preprocessed import Preprocessed
from modeflow.densities.recurrent import RecurrentDensity
from modeflow.densities.resampled import ResampledBase
from modeflow.densities.sequences import GPT2Prior, IndependentCodes, MaskedCodes, SequencePrior
from modeflow.densities.sphere import UniformSphere

__all__ = [
    "AutoregressiveCodes",
    "AutoregressiveDensity",
    "BernoulliDecoder",
    "Beside",
    "BoundedFlow",
    "BridgeCodes",
    "Density",
    "DensityDistribution",
    "Diffusion",
    "DiffusionBridge",
    "DiscretizedDecoder",
    "Feature",
    "Flow",
    "GPT2Prior",
    "GaussianDecoder",
    "GaussianMixture",
    "GaussianMixtureBase",
    "IndependentCodes",
    "Leaves",
    "Logistic",
    "Loss",
    "MaskedCodes",
    "MixedRows",
    "NflowsDensity",
    "NormflowsDensity",
    "Predicting",
    "Preprocessed",
    "RecurrentDensity",
    "ResampledBase",
    "SequencePrior",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "UniformSphere",
    "ZukoDensity",
]
