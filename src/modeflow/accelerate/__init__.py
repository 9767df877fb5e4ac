"""Which layers run natively, and how.

A layer describes itself (`native_description`) in terms of what the kernels know: a `Permute`, an `LU`, a
`ContextAffine`, or a `Conditioned` layer with its elementwise map and its network. This room names no layer
and no network. A `Plan` joins neighbours that are described into runs, each of which one native call
evaluates, and looks in every call whether the layers are still what they were. Subclasses, hooks,
parametrisations, methods replaced on an object and types unknown stay with PyTorch.
"""

from modeflow.accelerate.autoregressive import native_autoregressive_inverse
from modeflow.accelerate.elementwise import kernel_takes, native_elementwise
from modeflow.accelerate.layers import LU, Conditioned, ContextAffine, Description, Permute
from modeflow.accelerate.maps import AdditiveMap, AffineMap, LogisticMixtureMap, Map, SplineMap
from modeflow.accelerate.plain import description_of, plain, unhooked
from modeflow.accelerate.plan import Plan
from modeflow.accelerate.slots import buffer, constant, parameter
from modeflow.accelerate.tree import (
    native_evidence,
    native_gaussian,
    native_gaussian_gradients,
    native_ratios,
)

__all__ = [
    "LU",
    "AdditiveMap",
    "AffineMap",
    "Conditioned",
    "ContextAffine",
    "Description",
    "LogisticMixtureMap",
    "Map",
    "Permute",
    "Plan",
    "SplineMap",
    "buffer",
    "constant",
    "description_of",
    "kernel_takes",
    "native_autoregressive_inverse",
    "native_elementwise",
    "native_evidence",
    "native_gaussian",
    "native_gaussian_gradients",
    "native_ratios",
    "parameter",
    "plain",
    "unhooked",
]
