"""Invertible layers, one file per mechanism. `forward` maps data to noise, `inverse` maps back."""

from modeflow.transforms.affine import ConditionalAffine, Standardize
from modeflow.transforms.autoregressive import MaskedAutoregressive
from modeflow.transforms.base import Composite, Inverse, Transform
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.elementary import Planar, Radial
from modeflow.transforms.elementwise import (
    AdditiveElementwise,
    AffineElementwise,
    Elementwise,
    RQSplineElementwise,
)
from modeflow.transforms.linear import LULinear, Permutation
from modeflow.transforms.monotonic import SigmoidalElementwise, SquaresElementwise
from modeflow.transforms.spline import rational_quadratic_spline

__all__ = [
    "AdditiveElementwise",
    "AffineElementwise",
    "Composite",
    "ConditionalAffine",
    "Coupling",
    "Elementwise",
    "Inverse",
    "LULinear",
    "MaskedAutoregressive",
    "Permutation",
    "Planar",
    "RQSplineElementwise",
    "Radial",
    "SigmoidalElementwise",
    "SquaresElementwise",
    "Standardize",
    "Transform",
    "rational_quadratic_spline",
]
