"""The same flow in every library that is installed, for `modeflow bench`.

Ten layers; couplings and autoregressive layers of rational-quadratic splines on [-3, 3] with residual
networks of two blocks (zuko: four hidden layers), LU linear layers between (zuko has none). Each is timed
with the fastest optimiser setting that it allows (fused Adam), and clipping of gradients.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CASES", "CONTESTANTS", "Case", "Timed", "installed"]


@dataclass(frozen=True)
class Case:
    """Sizes at which libraries are compared."""

    features: int
    hidden: int
    bins: int
    batch: int
    coupling: bool
    rows: int
    samples: int


CASES = {
    "coupling, small": Case(43, 32, 4, 128, True, 10_000, 10_000),
    "coupling, large": Case(6, 256, 8, 512, True, 10_000, 10_000),
    "autoregressive": Case(43, 32, 4, 512, False, 10_000, 1_000),
}

LAYERS = 10


@dataclass
class Timed:
    """What is timed: parameters, log-density and sampler of one library's flow."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Any]


def _modeflow(case: Case) -> Timed:
    from modeflow.flows import NSF

    flow = NSF(
        case.features, layers=LAYERS, hidden_features=case.hidden, bins=case.bins, coupling=case.coupling
    )
    return Timed(flow, flow.log_prob, flow.sample)


def _zuko(case: Case) -> Timed:
    import zuko

    flow = zuko.flows.NSF(
        case.features,
        transforms=LAYERS,
        bins=case.bins,
        hidden_features=(case.hidden,) * 4,
        **({"passes": 2} if case.coupling else {}),
    )
    return Timed(flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,)))


def _nflows(case: Case) -> Timed:
    from nflows import distributions, flows, transforms
    from nflows import nn as nets

    layers: list[Any] = []
    for i in range(LAYERS):
        layers += [
            transforms.RandomPermutation(case.features),
            transforms.LULinear(case.features, identity_init=True),
        ]
        if case.coupling:
            mask = torch.ones(case.features)
            mask[i % 2 :: 2] = -1
            layers.append(
                transforms.PiecewiseRationalQuadraticCouplingTransform(
                    mask,
                    lambda a, b: nets.nets.ResidualNet(a, b, hidden_features=case.hidden, num_blocks=2),
                    num_bins=case.bins,
                    tails="linear",
                    tail_bound=3.0,
                )
            )
        else:
            layers.append(
                transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                    case.features,
                    case.hidden,
                    num_bins=case.bins,
                    tails="linear",
                    tail_bound=3.0,
                    num_blocks=2,
                )
            )
    base = distributions.StandardNormal([case.features])
    flow = flows.Flow(transforms.CompositeTransform(layers), base)
    return Timed(flow, flow.log_prob, flow.sample)


def _normflows(case: Case) -> Timed:
    import normflows as nf

    kind = (
        nf.flows.CoupledRationalQuadraticSpline
        if case.coupling
        else nf.flows.AutoregressiveRationalQuadraticSpline
    )
    layers: list[Any] = []
    for _ in range(LAYERS):
        layers += [
            kind(case.features, 2, case.hidden, num_bins=case.bins, tail_bound=3),
            nf.flows.LULinearPermute(case.features),
        ]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(case.features, trainable=False), layers)
    return Timed(flow, flow.log_prob, flow.sample)


#: Name, what must be installed, how it is built. The second is the first again: the noise of the method.
CONTESTANTS: dict[str, tuple[str, Callable[[Case], Timed]]] = {
    "modeflow": ("modeflow", _modeflow),
    "modeflow again": ("modeflow", _modeflow),
    "modeflow, PyTorch": ("modeflow", _modeflow),
    "zuko": ("zuko", _zuko),
    "nflows": ("nflows", _nflows),
    "normflows": ("normflows", _normflows),
}


def installed() -> list[str]:
    """The contestants that can run here."""
    return [name for name, (package, _) in CONTESTANTS.items() if importlib.util.find_spec(package)]
