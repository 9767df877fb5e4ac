"""Conformance checks for transforms and densities, ours and other people's.

A check raises `AssertionError` with one line that says what is wrong, by how much, and what was allowed.

    from modeflow.testing import check_density, check_transform

    check_transform(lambda: MyLayer(features=3), event_shape=3)
    check_density(lambda: MyFlow(features=2, context_features=1), event_shape=2, context_features=1)

Every check builds the module anew, moves its parameters away from their start (a layer that starts as
the identity proves nothing) and runs it in evaluation mode.
"""

from modeflow.testing.densities import DENSITY_CHECKS, DensityCase, check_density
from modeflow.testing.tools import jacobian, perturb, triangular
from modeflow.testing.transforms import TRANSFORM_CHECKS, TransformCase, check_transform

__all__ = [
    "DENSITY_CHECKS",
    "TRANSFORM_CHECKS",
    "DensityCase",
    "TransformCase",
    "check_density",
    "check_transform",
    "jacobian",
    "perturb",
    "triangular",
]
