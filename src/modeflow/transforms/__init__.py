"""Invertible layers, one file per mechanism. `forward` maps data to noise, `inverse` maps back."""

from modeflow.transforms.activations import set_activations
from modeflow.transforms.affine import ConditionalAffine, Standardize
from modeflow.transforms.autoregressive import MaskedAutoregressive
from modeflow.transforms.base import Composite, Inverse, Transform
from modeflow.transforms.cells import Cells
from modeflow.transforms.columns import Columns
from modeflow.transforms.contractive import Contractive
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.dense_sigmoidal import DenseSigmoidalElementwise
from modeflow.transforms.elementary import Planar, Radial
from modeflow.transforms.elementwise import (
    AdditiveElementwise,
    AffineElementwise,
    Elementwise,
    RQSplineElementwise,
)
from modeflow.transforms.identity import Identity
from modeflow.transforms.image import ActNorm, Flatten, Invertible1x1, Logit, Rescale, Squeeze
from modeflow.transforms.image_coupling import ImageCoupling, SigmoidAffineElementwise, TanhAffineElementwise
from modeflow.transforms.image_funnel import ConvFunnel
from modeflow.transforms.image_prior import ChannelPrior, GaussianPrior, MultiScale, SplitPrior
from modeflow.transforms.indexed import Indexed
from modeflow.transforms.linear import LULinear, Permutation
from modeflow.transforms.logistic_mixture import LogisticMixtureElementwise
from modeflow.transforms.monotonic import SigmoidalElementwise, SquaresElementwise
from modeflow.transforms.ode import ODE
from modeflow.transforms.parts import OrderedToReal, PositiveToReal, Subset
from modeflow.transforms.pixels import PixelBins, PixelGaussianize
from modeflow.transforms.recurrent import Leaky, RecurrentShift
from modeflow.transforms.spline import rational_quadratic_spline
from modeflow.transforms.surjections import (
    Abs,
    Augment,
    Max,
    MaxPool,
    Rounding,
    Slice,
    Sort,
    StochasticPermutation,
)

__all__ = [
    "ODE",
    "Abs",
    "ActNorm",
    "AdditiveElementwise",
    "AffineElementwise",
    "Augment",
    "Cells",
    "ChannelPrior",
    "Columns",
    "Composite",
    "ConditionalAffine",
    "Contractive",
    "ConvFunnel",
    "Coupling",
    "DenseSigmoidalElementwise",
    "Elementwise",
    "Flatten",
    "GaussianPrior",
    "Identity",
    "ImageCoupling",
    "Indexed",
    "Inverse",
    "Invertible1x1",
    "LULinear",
    "Leaky",
    "LogisticMixtureElementwise",
    "Logit",
    "MaskedAutoregressive",
    "Max",
    "MaxPool",
    "MultiScale",
    "OrderedToReal",
    "Permutation",
    "PixelBins",
    "PixelGaussianize",
    "Planar",
    "PositiveToReal",
    "RQSplineElementwise",
    "Radial",
    "RecurrentShift",
    "Rescale",
    "Rounding",
    "SigmoidAffineElementwise",
    "SigmoidalElementwise",
    "Slice",
    "Sort",
    "SplitPrior",
    "SquaresElementwise",
    "Squeeze",
    "Standardize",
    "StochasticPermutation",
    "Subset",
    "TanhAffineElementwise",
    "Transform",
    "rational_quadratic_spline",
    "set_activations",
]
