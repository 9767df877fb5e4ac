"""Invertible layers, one file per mechanism. `forward` maps data to noise, `inverse` maps back."""

from modeflow.transforms.affine import ConditionalAffine, Standardize
from modeflow.transforms.autoregressive import MaskedAutoregressive
from modeflow.transforms.base import Composite, Inverse, Transform
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
from modeflow.transforms.indexed import Indexed
from modeflow.transforms.linear import LULinear, Permutation
from modeflow.transforms.monotonic import SigmoidalElementwise, SquaresElementwise
from modeflow.transforms.ode import ODE
from modeflow.transforms.parts import OrderedToReal, PositiveToReal, Subset
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
    "AdditiveElementwise",
    "AffineElementwise",
    "Augment",
    "Composite",
    "ConditionalAffine",
    "Contractive",
    "Coupling",
    "DenseSigmoidalElementwise",
    "Elementwise",
    "Indexed",
    "Inverse",
    "LULinear",
    "Leaky",
    "MaskedAutoregressive",
    "Max",
    "MaxPool",
    "OrderedToReal",
    "Permutation",
    "Planar",
    "PositiveToReal",
    "RQSplineElementwise",
    "Radial",
    "RecurrentShift",
    "Rounding",
    "SigmoidalElementwise",
    "Slice",
    "Sort",
    "SquaresElementwise",
    "Standardize",
    "StochasticPermutation",
    "Subset",
    "Transform",
    "rational_quadratic_spline",
]
