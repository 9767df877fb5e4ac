"""Cases of the conformance table: differential equations, contractions, score-based models."""

from __future__ import annotations

from typing import Any

import torch

from modeflow.densities import DiffusionBridge
from modeflow.flows import FFJORD, ResidualFlow, ScoreSDE
from modeflow.nets import ConcatSquash, ContractiveMLP
from modeflow.testing import DensityCase, TransformCase
from modeflow.transforms import ODE, Contractive

ALL = torch.ones(3, dtype=torch.bool)
GRID = torch.linspace(0, 1, 17)
SMALL: dict[str, Any] = {"hidden_features": (16,)}


def ode(features: int, context: int = 0, **options: Any) -> ODE:
    return ODE(ConcatSquash(features, (16,), context), features, context, GRID, **options)


def contractive(features: int, context: int = 0) -> Contractive:
    return Contractive(ContractiveMLP(features, (16, 16), context, 0.9), features, context)


TRANSFORMS: dict[str, TransformCase] = {
    # A step of 1/16 leaves an error of about 1e-7.
    "ode-1": TransformCase(lambda: ode(1), 1, inverse_error=1e-6),
    "ode-3": TransformCase(lambda: ode(3), 3, inverse_error=1e-6),
    "ode-2-context": TransformCase(
        lambda: ode(2, 2), 2, 2, context_outputs=ALL[:2], inverse_error=1e-6, scale=0.4
    ),
    "ode-midpoint-2": TransformCase(lambda: ode(2, method="midpoint"), 2, inverse_error=1e-3),
    "contractive-1": TransformCase(lambda: contractive(1), 1),
    "contractive-3": TransformCase(lambda: contractive(3), 3),
    "contractive-2-context": TransformCase(lambda: contractive(2, 2), 2, 2, context_outputs=ALL[:2]),
}

DENSITIES: dict[str, DensityCase] = {
    "ffjord-1": DensityCase(lambda: FFJORD(1, **SMALL), 1),
    "ffjord-2": DensityCase(lambda: FFJORD(2, steps=6, **SMALL), 2, cells=120),
    "ffjord-3-context": DensityCase(lambda: FFJORD(3, 2, steps=6, **SMALL), 3, 2),
    "residual-2": DensityCase(lambda: ResidualFlow(2, layers=2, **SMALL), 2),
    "residual-3-context": DensityCase(lambda: ResidualFlow(3, 2, layers=2, **SMALL), 3, 2),
    "residual-8": DensityCase(lambda: ResidualFlow(8, layers=2, **SMALL), 8),
    "score-2": DensityCase(lambda: ScoreSDE(2, steps=12, hidden_features=16, blocks=1), 2, cells=80),
    "score-ve-2": DensityCase(
        lambda: ScoreSDE(2, kind="ve", steps=30, hidden_features=16, blocks=1), 2, cells=80
    ),
    "bridge-2": DensityCase(
        lambda: DiffusionBridge(2, steps=4, hidden_features=16, blocks=1), 2, scale=0.1, cells=80
    ),
    "score-3-context": DensityCase(
        lambda: ScoreSDE(3, 2, kind="subvp", steps=8, hidden_features=16, blocks=1), 3, 2
    ),
}
