"""The table of everything that is tested: one line per transform, network and density.

Adding a line here tests a model against every check of `modeflow.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import cases_continuous
import cases_images
import cases_surjections
from modeflow.densities import (
    AutoregressiveCodes,
    AutoregressiveDensity,
    BernoulliDecoder,
    Beside,
    Density,
    Feature,
    Logistic,
    Preprocessed,
    StandardNormal,
    StudentT,
)
from modeflow.flows import IAF, MAF, NAF, NICE, NSF, SOS, MAFMoG, PlanarFlow, RadialFlow, RealNVP
from modeflow.models import DiscreteNVF, TreeNVF
from modeflow.nets import MADE, MLP, ResidualMADE, ResidualMLP
from modeflow.testing import DensityCase, TransformCase, triangular
from modeflow.transforms import (
    AdditiveElementwise,
    AffineElementwise,
    Columns,
    Composite,
    ConditionalAffine,
    Coupling,
    Elementwise,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    Planar,
    Radial,
    RQSplineElementwise,
    SigmoidalElementwise,
    SquaresElementwise,
    Standardize,
    Transform,
)
from small_trees import SomeFeatures

DOUBLE = torch.float64
ALL = torch.ones(5, dtype=torch.bool)
SMALL: dict[str, Any] = {"layers": 2, "hidden_features": 16, "blocks": 1}


def any_seed() -> int:
    """A seed for a recipe, from the global generator: a second build draws other permutations."""
    return int(torch.randint(1_000_000, ()))


def dense(inputs: int, outputs: int, context: int) -> nn.Module:
    return ResidualMLP(inputs, outputs, 16, context, blocks=1)


def keep(*kept: bool) -> Tensor:
    return torch.tensor(kept)


def coupling(mask: Tensor, elementwise: Elementwise, context: int = 0) -> Callable[[], Transform]:
    return lambda: Coupling(mask, elementwise, dense, context)


def coupling_structure(mask: Tensor) -> Tensor:
    """Kept features depend on themselves; moved ones on themselves and on all kept."""
    return torch.eye(len(mask)).bool() | (~mask[:, None] & mask[None, :])


def autoregressive(
    features: int, elementwise: Elementwise, context: int = 0, residual: bool = False
) -> Callable[[], Transform]:
    def factory() -> Transform:
        made = (
            ResidualMADE(features, elementwise.n_params, 16, context, blocks=1)
            if residual
            else MADE(features, elementwise.n_params, (16, 16), context)
        )
        return MaskedAutoregressive(made, elementwise, context)

    return factory


def standardize(features: int) -> Standardize:
    x = torch.randn(100, features, dtype=DOUBLE) * torch.linspace(0.5, 3, features) + 2.0
    return Standardize(features).fit(x)


def columns() -> Columns:
    """A bound below, two bounds, a bound above, and a far row in the last."""
    x = torch.randn(300, 4, dtype=DOUBLE)
    x[:, 0], x[:, 1], x[:, 2] = x[:, 0].exp(), torch.sigmoid(x[:, 1]) * 4 - 1, -x[:, 2].exp() + 3
    x[0, 3] = 1e4
    inf = torch.inf
    low, high = torch.tensor([0, -1, -inf, -inf]), torch.tensor([inf, 3, 3, inf])
    return Columns(4).fit(x, edges=(low, high))


def composite(context: int) -> Composite:
    return Composite(
        [
            ConditionalAffine(3, context),
            Permutation.random(3),
            coupling(keep(True, False, False), RQSplineElementwise(4), context)(),
            LULinear(3),
            autoregressive(3, AffineElementwise(), context)(),
        ]
    )


A, B, C = AdditiveElementwise(), AffineElementwise(), RQSplineElementwise(5, tail_bound=3.0)
M2, M5, MIX = keep(True, False), keep(True, True, False, False, False), keep(False, True, False, True, True)
NONE = keep(False)

# Masked away altogether where there is one feature: no gradient can reach it.
ONE = ("conditioner.hidden.0.weight", "conditioner.initial.weight")

TRANSFORMS: dict[str, TransformCase] = {
    "standardize-3": TransformCase(
        lambda: standardize(3), 3, result_dtype=DOUBLE, structure=torch.eye(3).bool()
    ),
    "columns-4": TransformCase(columns, 4, result_dtype=DOUBLE, structure=torch.eye(4).bool()),
    "affine-3": TransformCase(lambda: ConditionalAffine(3), 3, structure=torch.eye(3).bool(), compiles=True),
    "affine-3-context": TransformCase(
        lambda: ConditionalAffine(3, 2),
        3,
        2,
        structure=torch.eye(3).bool(),
        context_outputs=ALL[:3],
        compiles=True,
    ),
    "affine-full-3": TransformCase(
        lambda: ConditionalAffine(3, full=True), 3, structure=torch.ones(3, 3).tril().bool(), compiles=True
    ),
    "affine-full-3-context": TransformCase(
        lambda: ConditionalAffine(3, 2, full=True),
        3,
        2,
        structure=torch.ones(3, 3).tril().bool(),
        context_outputs=ALL[:3],
        compiles=True,
    ),
    "coupling-sigmoidal-3": TransformCase(
        coupling(keep(True, False, False), SigmoidalElementwise(3)),
        3,
        structure=coupling_structure(keep(True, False, False)),
    ),
    "coupling-squares-3": TransformCase(
        coupling(keep(True, False, False), SquaresElementwise(2, 2)),
        3,
        structure=coupling_structure(keep(True, False, False)),
    ),
    "planar-3": TransformCase(lambda: Planar(3), 3),
    "planar-2-context": TransformCase(lambda: Planar(2, 2), 2, 2, context_outputs=ALL[:2]),
    "radial-3": TransformCase(lambda: Radial(3), 3),
    "radial-1": TransformCase(lambda: Radial(1), 1),
    "radial-2-context": TransformCase(lambda: Radial(2, 2), 2, 2, context_outputs=ALL[:2]),
    "permutation-5": TransformCase(lambda: Permutation.random(5), 5, volume_preserving=True, compiles=True),
    "reverse-3": TransformCase(
        lambda: Permutation.reverse(3), 3, structure=torch.eye(3).flip(0).bool(), volume_preserving=True
    ),
    "lu-1": TransformCase(lambda: LULinear(1), 1),
    "lu-2": TransformCase(lambda: LULinear(2), 2, structure=torch.ones(2, 2).bool()),
    "lu-5": TransformCase(lambda: LULinear(5), 5, structure=torch.ones(5, 5).bool(), compiles=True),
    # -- couplings
    "coupling-additive-2": TransformCase(
        coupling(M2, A), 2, structure=coupling_structure(M2), volume_preserving=True
    ),
    "coupling-affine-1": TransformCase(coupling(NONE, B), 1),
    "coupling-affine-1-context": TransformCase(coupling(NONE, B, 2), 1, 2, context_outputs=ALL[:1]),
    "coupling-affine-2": TransformCase(coupling(M2, B), 2, structure=coupling_structure(M2), compiles=True),
    "coupling-affine-5-mixed": TransformCase(
        coupling(MIX, B, 3), 5, 3, structure=coupling_structure(MIX), context_outputs=~MIX, compiles=True
    ),
    "coupling-spline-1": TransformCase(coupling(NONE, C), 1, compiles=True),
    "coupling-spline-1-context": TransformCase(coupling(NONE, C, 1), 1, 1, context_outputs=ALL[:1]),
    "coupling-spline-2": TransformCase(coupling(M2, C), 2, structure=coupling_structure(M2), compiles=True),
    "coupling-spline-2-context": TransformCase(
        coupling(M2, C, 2), 2, 2, structure=coupling_structure(M2), context_outputs=~M2, compiles=True
    ),
    "coupling-spline-5": TransformCase(coupling(M5, C), 5, structure=coupling_structure(M5)),
    "coupling-spline-5-mixed": TransformCase(
        coupling(MIX, C, 2), 5, 2, structure=coupling_structure(MIX), context_outputs=~MIX
    ),
    # -- autoregressive
    "maf-affine-1": TransformCase(autoregressive(1, B), 1, idle=ONE),
    "maf-affine-1-context": TransformCase(autoregressive(1, B, 2), 1, 2, context_outputs=ALL[:1], idle=ONE),
    "maf-affine-2": TransformCase(autoregressive(2, B), 2, structure=triangular(2)),
    "maf-affine-5": TransformCase(autoregressive(5, B), 5, structure=triangular(5)),
    "maf-affine-5-context": TransformCase(
        autoregressive(5, B, 3), 5, 3, structure=triangular(5), context_outputs=ALL
    ),
    "maf-spline-1-context": TransformCase(
        autoregressive(1, C, 2, True), 1, 2, context_outputs=ALL[:1], idle=ONE
    ),
    "maf-spline-2": TransformCase(autoregressive(2, C, 0, True), 2, structure=triangular(2)),
    "maf-spline-5-context": TransformCase(
        autoregressive(5, C, 2, True), 5, 2, structure=triangular(5), context_outputs=ALL
    ),
    "maf-linear-3": TransformCase(
        lambda: MaskedAutoregressive(MADE(3, 2, (), 1), AffineElementwise(), 1),
        3,
        1,
        structure=triangular(3),
        context_outputs=ALL[:3],
    ),
    "iaf-affine-3-context": TransformCase(
        lambda: Inverse(autoregressive(3, B, 2)()), 3, 2, structure=triangular(3), context_outputs=ALL[:3]
    ),
    "composite-3": TransformCase(lambda: composite(0), 3),
    "composite-3-context": TransformCase(lambda: composite(2), 3, 2, context_outputs=ALL[:3]),
}


@dataclass(frozen=True)
class NetCase:
    """A conditioner ``(B, features) [, (B, context)] -> (B, *shape)``; `masked` if it is a MADE."""

    factory: Callable[[], nn.Module]
    features: int
    shape: tuple[int, ...]
    context_features: int = 0
    masked: bool = False


NETS: dict[str, NetCase] = {
    "mlp-3": NetCase(lambda: MLP(3, 4, (8,)), 3, (4,)),
    "mlp-0-context": NetCase(lambda: MLP(0, 4, (8,), 2), 0, (4,), 2),
    "mlp-linear": NetCase(lambda: MLP(3, 4, (), 2), 3, (4,), 2),
    "residual-3": NetCase(lambda: ResidualMLP(3, 4, 8), 3, (4,)),
    "residual-3-context": NetCase(lambda: ResidualMLP(3, 4, 8, 2), 3, (4,), 2),
    "residual-0": NetCase(lambda: ResidualMLP(0, 4, 8), 0, (4,)),
    "residual-0-context": NetCase(lambda: ResidualMLP(0, 4, 8, 2), 0, (4,), 2),
    "made-1": NetCase(lambda: MADE(1, 2, (8,)), 1, (1, 2), masked=True),
    "made-1-context": NetCase(lambda: MADE(1, 2, (8,), 2), 1, (1, 2), 2, masked=True),
    "made-2": NetCase(lambda: MADE(2, 3, (16, 16)), 2, (2, 3), masked=True),
    "made-5": NetCase(lambda: MADE(5, 2, (32, 16)), 5, (5, 2), masked=True),
    "made-5-context": NetCase(lambda: MADE(5, 2, (32, 32), 3), 5, (5, 2), 3, masked=True),
    "made-5-linear": NetCase(lambda: MADE(5, 2, (), 1), 5, (5, 2), 1, masked=True),
    "residual-made-1": NetCase(lambda: ResidualMADE(1, 2, 8), 1, (1, 2), masked=True),
    "residual-made-1-context": NetCase(lambda: ResidualMADE(1, 2, 8, 2), 1, (1, 2), 2, masked=True),
    "residual-made-5": NetCase(lambda: ResidualMADE(5, 2, 32), 5, (5, 2), masked=True),
    "residual-made-5-context": NetCase(lambda: ResidualMADE(5, 2, 32, 3), 5, (5, 2), 3, masked=True),
}


def nsf(features: int, context: int = 0, **options: Any) -> Callable[[], Density]:
    return lambda: NSF(features, context, bins=4, seed=any_seed(), **{**SMALL, **options})


def realnvp(features: int, context: int = 0, **options: Any) -> Callable[[], Density]:
    return lambda: RealNVP(features, context, seed=any_seed(), **{**SMALL, **options})


def maf(features: int, context: int = 0, **options: Any) -> Callable[[], Density]:
    sizes = {"layers": 2, "hidden_features": (16, 16), **options}
    return lambda: MAF(features, context, seed=any_seed(), **sizes)


def nvf(features: int, n_states: int = 3, **options: Any) -> Callable[[], Density]:
    def factory() -> Density:
        recipe = {"bins": 4, "seed": any_seed(), **SMALL}
        return DiscreteNVF(features, n_states, flow_options=recipe, encoder_features=(16,), **options)

    return factory


def mixed_states(levels: Sequence[int], n_states: int = 3) -> Callable[[], Density]:
    def factory() -> Density:
        recipe = {"bins": 4, "seed": any_seed(), **SMALL}
        sizes: dict[str, Any] = {"encoder_features": (16,), "code_features": 8}
        return DiscreteNVF([Feature(levels=n) for n in levels], n_states, flow_options=recipe, **sizes)

    return factory


def tree(features: int, **options: Any) -> Callable[[], Density]:
    return lambda: TreeNVF(features, 4, flow_options={"bins": 4, "seed": any_seed(), **SMALL}, **options)


def preprocessed(context: int) -> Density:
    return Preprocessed(standardize(2), nsf(2, context)())


def beside(features: int) -> Density:
    """A flow beside a Gaussian and a t."""
    spread = torch.linspace(0.5, 1.5, features)
    whiten = torch.stack(
        [torch.diag(spread), torch.eye(features) + 0.3 * torch.ones(features, features).tril(-1)]
    )
    means = torch.stack([torch.full((features,), 1.0), torch.zeros(features)])
    weights, freedom = torch.tensor([0.3, 0.2]).log(), torch.tensor([torch.inf, 30.0])
    return Preprocessed(
        standardize(features), nsf(features)(), beside=Beside(weights, means, whiten, freedom)
    )


LAYERS_OF_ONE = ("hidden.0.weight", "initial.weight")
# The straight-through sample leaves out, in a small batch, nothing here: every part gets a gradient.
EYE3 = torch.eye(3)

DENSITIES: dict[str, DensityCase] = {
    "normal-1": DensityCase(lambda: StandardNormal(1), 1, compiles=True),
    "normal-2": DensityCase(lambda: StandardNormal(2), 2),
    "normal-5": DensityCase(lambda: StandardNormal(5), 5),
    "nsf-1": DensityCase(nsf(1), 1, compiles=True),
    "nsf-1-context": DensityCase(nsf(1, 2), 1, 2),
    "nsf-2": DensityCase(nsf(2), 2, compiles=True),
    "nsf-2-context": DensityCase(nsf(2, 2), 2, 2, compiles=True),
    "nsf-2-states": DensityCase(nsf(2, 3), 2, 3, contexts=EYE3),
    "nsf-2-plain": DensityCase(nsf(2, 1, context_affine="none", mixing="reverse"), 2, 1),
    "nsf-5": DensityCase(nsf(5), 5, compiles=True),
    "nsf-5-context": DensityCase(nsf(5, 2), 5, 2),
    "nsf-ar-1": DensityCase(nsf(1, coupling=False), 1, idle=LAYERS_OF_ONE),
    "nsf-ar-2": DensityCase(nsf(2, coupling=False), 2),
    "nsf-ar-2-context": DensityCase(nsf(2, 2, coupling=False), 2, 2),
    "nsf-ar-5-context": DensityCase(nsf(5, 2, coupling=False), 5, 2, scale=0.1),
    "beside-1": DensityCase(lambda: beside(1), 1, result_dtype=DOUBLE),
    "beside-2": DensityCase(lambda: beside(2), 2, result_dtype=DOUBLE),
    "realnvp-1-context": DensityCase(realnvp(1, 2), 1, 2),
    "realnvp-2": DensityCase(realnvp(2), 2, compiles=True),
    "realnvp-2-context": DensityCase(realnvp(2, 2, mixing="reverse"), 2, 2, compiles=True),
    "realnvp-5-context": DensityCase(realnvp(5, 2, mixing="permutation"), 5, 2),
    "maf-1": DensityCase(maf(1), 1, idle=LAYERS_OF_ONE),
    "maf-1-context": DensityCase(maf(1, 2), 1, 2, idle=LAYERS_OF_ONE),
    "maf-2": DensityCase(maf(2), 2),
    "maf-2-context": DensityCase(maf(2, 2, context_affine="none"), 2, 2),
    "maf-5": DensityCase(maf(5), 5),
    "maf-5-context": DensityCase(maf(5, 2, mixing="lu"), 5, 2),
    "logistic-2": DensityCase(lambda: Logistic(2), 2),
    "student-2": DensityCase(lambda: StudentT(2, 30.0), 2),
    "nice-2": DensityCase(lambda: NICE(2, seed=any_seed(), **SMALL), 2),
    "nice-5-context": DensityCase(lambda: NICE(5, 2, base="logistic", seed=any_seed(), **SMALL), 5, 2),
    "iaf-2": DensityCase(lambda: IAF(2, layers=2, hidden_features=(16, 16)), 2),
    "iaf-3-context": DensityCase(lambda: IAF(3, 2, layers=2, hidden_features=(16, 16)), 3, 2),
    "made-2": DensityCase(lambda: AutoregressiveDensity(2, hidden_features=(16,)), 2),
    "made-2-masks": DensityCase(lambda: AutoregressiveDensity(2, hidden_features=(16,), n_masks=3), 2),
    "made-mog-2": DensityCase(lambda: AutoregressiveDensity(2, 0, "mixture", (16,), 3), 2),
    "made-mog-3-context": DensityCase(lambda: AutoregressiveDensity(3, 2, "mixture", (16,), 3), 3, 2),
    "maf-mog-2": DensityCase(lambda: MAFMoG(2, layers=2, hidden_features=(16,), components=3), 2),
    "naf-2": DensityCase(lambda: NAF(2, units=3, seed=any_seed(), **SMALL), 2),
    "naf-3-context": DensityCase(lambda: NAF(3, 2, units=3, coupling=True, seed=any_seed(), **SMALL), 3, 2),
    "sos-2": DensityCase(lambda: SOS(2, terms=2, degree=1, seed=any_seed(), **SMALL), 2, scale=0.1),
    "planar-2": DensityCase(lambda: PlanarFlow(2, layers=3), 2),
    "radial-2": DensityCase(lambda: RadialFlow(2, layers=3), 2),
    "radial-3-context": DensityCase(lambda: RadialFlow(3, 2, layers=3), 3, 2),
    "preprocessed-2": DensityCase(lambda: preprocessed(0), 2, result_dtype=DOUBLE),
    "preprocessed-2-context": DensityCase(lambda: preprocessed(2), 2, 2, result_dtype=DOUBLE),
    "tree-1": DensityCase(tree(1, likelihood="leaves"), 1),
    "tree-2": DensityCase(tree(2, likelihood="leaves"), 2),
    "tree-3": DensityCase(tree(3, likelihood="leaves"), 3),
    "tree-flow-2": DensityCase(tree(2), 2),
    "tree-flow-2-of-3": DensityCase(
        lambda: SomeFeatures(tree(3, proposal=True, draws=1)(), 2), 2, idle=("proposal.",), cells=120
    ),
    "nvf-1": DensityCase(nvf(1), 1),
    "nvf-2-elbo": DensityCase(nvf(2), 2),
    "nvf-2-elbo-sum": DensityCase(nvf(2, objective="elbo-sum", prior="uniform"), 2),
    "nvf-2-marginal": DensityCase(nvf(2, objective="marginal"), 2),
    "nvf-2-truncated": DensityCase(nvf(2, objective="truncated"), 2),
    "nvf-2-one-state": DensityCase(nvf(2, n_states=1), 2),
    "nvf-5": DensityCase(nvf(5), 5),
    "bernoulli-2-context": DensityCase(
        lambda: BernoulliDecoder(MLP(2, 2, (8,)), (2,), 2), 2, 2, levels=(2, 2)
    ),
    "codes-3": DensityCase(lambda: AutoregressiveCodes((2, 3, 4), 0, 8), 3, levels=(2, 3, 4)),
    "codes-2-context": DensityCase(lambda: AutoregressiveCodes((2, 2), 2, 8), 2, 2, levels=(2, 2)),
    "nvf-codes-3": DensityCase(mixed_states((2, 3, 2)), 3, levels=(2, 3, 2)),
    "nvf-codes-3-one-state": DensityCase(mixed_states((2, 3, 2), 1), 3, levels=(2, 3, 2)),
    "nvf-mixed-3": DensityCase(mixed_states((2, 0, 3)), 3, levels=(2, 0, 3)),
}

for more in (cases_surjections, cases_continuous, cases_images):
    TRANSFORMS |= more.TRANSFORMS
    DENSITIES |= more.DENSITIES
