"""Cases of the conformance table: recurrences, indexed layers, surjections, rival bases, code flows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modeflow.densities import Flow, GaussianMixtureBase, RecurrentDensity, ResampledBase, StandardNormal
from modeflow.flows import AEF, CIF, NSF, TAN, Funnel, GMMBaseFlow, NAFDense, NoisyAEF, ResampledFlow, SurVAE
from modeflow.latents import VampPrior, build_posterior
from modeflow.nets import ResidualMLP
from modeflow.testing import DensityCase, TransformCase, triangular
from modeflow.transforms import (
    Abs,
    Composite,
    Coupling,
    DenseSigmoidalElementwise,
    Leaky,
    LULinear,
    Max,
    OrderedToReal,
    PositiveToReal,
    RecurrentShift,
    Slice,
    Sort,
    Subset,
)

ALL = torch.ones(5, dtype=torch.bool)
FIRST = torch.tensor([True, False, False])
SMALL: dict[str, Any] = {"layers": 2, "hidden_features": 16}


def any_seed() -> int:
    return int(torch.randint(1_000_000, ()))


def net(inputs: int, outputs: int, context: int) -> ResidualMLP:
    return ResidualMLP(inputs, outputs, 16, context, blocks=1)


def positive(x: Tensor) -> Tensor:
    return torch.nn.functional.softplus(x) + 1e-3


def ordered(x: Tensor) -> Tensor:
    return torch.cat((x[:, :1], positive(x[:, 1:])), 1).cumsum(1)


def structure_of_subset() -> Tensor:
    both = torch.tensor([True, False, True])
    return torch.eye(3).bool() | (both[:, None] & both[None, :])


TRANSFORMS: dict[str, TransformCase] = {
    "coupling-dense-sigmoidal-3": TransformCase(
        lambda: Coupling(FIRST, DenseSigmoidalElementwise(3), net), 3
    ),
    "coupling-dense-sigmoidal-deep-2": TransformCase(
        lambda: Coupling(FIRST[:2], DenseSigmoidalElementwise(2, 3), net), 2
    ),
    "leaky-3": TransformCase(lambda: Leaky(0.5), 3, structure=torch.eye(3).bool(), compiles=True),
    "recurrent-shift-1": TransformCase(
        lambda: RecurrentShift(8), 1, volume_preserving=True, idle=("recurrence.gru",), scale=1.0
    ),
    "recurrent-shift-4": TransformCase(
        lambda: RecurrentShift(8), 4, volume_preserving=True, structure=triangular(4), scale=1.0
    ),
    "recurrent-shift-3-context": TransformCase(
        lambda: RecurrentShift(8, 2),
        3,
        2,
        structure=triangular(3),
        context_outputs=ALL[:3],
        volume_preserving=True,
        scale=1.0,
    ),
    "subset-3": TransformCase(
        lambda: Subset(3, torch.tensor([2, 0]), LULinear(2)), 3, structure=structure_of_subset()
    ),
    "positive-to-real-3": TransformCase(
        PositiveToReal, 3, structure=torch.eye(3).bool(), domain=positive, compiles=True
    ),
    "ordered-to-real-3": TransformCase(OrderedToReal, 3, domain=ordered),
}


def sliced(context: int = 0) -> Flow:
    layers = Slice(FIRST, NSF(2, 1 + context, bins=4, blocks=1, **SMALL), context)
    return Flow(layers, NSF(1, context, bins=4, blocks=1, **SMALL), context, (3,))


def largest() -> Flow:
    return Flow(Max(2), StandardNormal(1), 0, (2,))


def of_signs() -> Flow:
    return Flow(Composite([Abs(), PositiveToReal(), LULinear(2)]), StandardNormal(2))


def in_order() -> Flow:
    return Flow(Composite([Sort(), OrderedToReal(), LULinear(2)]), StandardNormal(2))


class Vamp(VampPrior):
    """With its encoder, which elsewhere the model holds."""

    def __init__(self, posterior: str) -> None:
        encoder = build_posterior(posterior, 2, 3, (8,))
        super().__init__(encoder, torch.randn(3, 3))
        self.encoder = encoder


DENSITIES: dict[str, DensityCase] = {
    "gaussian-mixture-2": DensityCase(lambda: GaussianMixtureBase(2, 3), 2),
    "gaussian-mixture-5": DensityCase(lambda: GaussianMixtureBase(5, 3), 5),
    "vamp-2": DensityCase(lambda: Vamp("gaussian"), 2),
    "vamp-2-full": DensityCase(lambda: Vamp("full-gaussian"), 2),
    "gmm-base-2-context": DensityCase(
        lambda: GMMBaseFlow(2, 2, components=3, bins=4, blocks=1, seed=any_seed(), **SMALL), 2, 2
    ),
    "resampled-1": DensityCase(lambda: ResampledBase(1, 2, (8,)), 1, scale=2.0),
    "resampled-2": DensityCase(lambda: ResampledBase(2, 3, (8,)), 2, scale=2.0),
    "resampled-4": DensityCase(lambda: ResampledBase(4, 10, (8,)), 4, scale=2.0),
    "resampled-flow-2": DensityCase(lambda: ResampledFlow(2, bins=4, seed=any_seed(), **SMALL), 2),
    "recurrent-1": DensityCase(lambda: RecurrentDensity(1, 0, 8, 3), 1, idle=("recurrence.gru",)),
    "recurrent-2": DensityCase(lambda: RecurrentDensity(2, 0, 8, 3), 2, scale=1.0),
    "recurrent-3-context": DensityCase(lambda: RecurrentDensity(3, 2, 8, 3), 3, 2, scale=1.0),
    "tan-2": DensityCase(lambda: TAN(2, components=3, **SMALL), 2),
    "tan-lam-2": DensityCase(lambda: TAN(2, conditional="lam", components=3, seed=any_seed(), **SMALL), 2),
    "tan-3-context": DensityCase(lambda: TAN(3, 2, components=3, **SMALL), 3, 2),
    "naf-dense-2": DensityCase(lambda: NAFDense(2, layers=1, units=2, hidden_features=8, blocks=1), 2),
    "naf-dense-2-context": DensityCase(
        lambda: NAFDense(2, 2, layers=1, units=2, coupling=True, hidden_features=8, blocks=1), 2, 2
    ),
    "aef-2": DensityCase(lambda: AEF(2, bins=4, seed=any_seed(), **SMALL), 2),
    "aef-1": DensityCase(lambda: AEF(1, bins=4, seed=any_seed(), **SMALL), 1),
    "aef-5-context": DensityCase(lambda: AEF(5, 2, latent=2, bins=4, seed=3, **SMALL), 5, 2),
    "aef-noisy-2": DensityCase(lambda: NoisyAEF(2, latent=1, noise=1.0, bins=4, seed=any_seed(), **SMALL), 2),
    "cif-2": DensityCase(lambda: CIF(2, bins=4, blocks=1, seed=any_seed(), **SMALL), 2),
    "cif-3-context": DensityCase(lambda: CIF(3, 2, bins=4, blocks=1, seed=any_seed(), **SMALL), 3, 2),
    "slice-3": DensityCase(sliced, 3),
    "slice-3-context": DensityCase(lambda: sliced(2), 3, 2),
    "max-2": DensityCase(largest, 2, cells=480),
    "abs-2": DensityCase(of_signs, 2, cells=480),
    "sort-2": DensityCase(in_order, 2, cells=480),
    "survae-2-augment": DensityCase(lambda: SurVAE(2, bins=4, blocks=1, seed=any_seed(), **SMALL), 2),
    "survae-2-abs": DensityCase(
        lambda: SurVAE(2, symmetry="abs", bins=4, blocks=1, seed=any_seed(), **SMALL), 2, cells=480
    ),
    "survae-2-sort-context": DensityCase(
        lambda: SurVAE(2, 2, symmetry="sort", bins=4, blocks=1, seed=any_seed(), **SMALL), 2, 2, cells=480
    ),
    "survae-2-permute": DensityCase(
        lambda: SurVAE(2, symmetry="permute", bins=4, blocks=1, seed=any_seed(), **SMALL), 2
    ),
    "funnel-2": DensityCase(lambda: Funnel(2, bins=4, blocks=1, seed=any_seed(), **SMALL), 2),
    "funnel-1": DensityCase(lambda: Funnel(1, bins=4, blocks=1, seed=any_seed(), **SMALL), 1),
    "funnel-5-context": DensityCase(
        lambda: Funnel(5, 2, latent=3, bins=4, blocks=1, seed=any_seed(), **SMALL), 5, 2
    ),
    "funnel-mlp-3": DensityCase(
        lambda: Funnel(3, kind="mlp", latent=1, bins=4, blocks=1, seed=any_seed(), **SMALL), 3
    ),
}
