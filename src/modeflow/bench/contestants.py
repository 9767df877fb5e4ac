"""The same flow in every library that is installed, for `modeflow bench`.

Ten layers; couplings and autoregressive layers of rational-quadratic splines on [-3, 3] with residual
networks of two blocks (zuko and flowjax: as many dense layers, plain), LU linear layers between (zuko and
flowjax have none). Each is timed with the fastest optimiser setting that it allows (fused Adam; compiled as a
whole by XLA for flowjax), and clipping of gradients.
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
    """What is timed: parameters, log-density and sampler of one library's flow.

    A library outside PyTorch takes its own steps, and what it is given it keeps as `array` makes it.
    """

    module: nn.Module
    log_prob: Callable[[Any], Any]
    sample: Callable[[int], Any]
    step: Callable[[Any], None] | None = None
    array: Callable[[Tensor], Any] = lambda x: x
    flat: bool = False  # parameters in one buffer, as our trainer keeps them


def _modeflow(case: Case) -> Timed:
    from modeflow.flows import NSF

    flow = NSF(
        case.features, layers=LAYERS, hidden_features=case.hidden, bins=case.bins, coupling=case.coupling
    )
    return Timed(flow, flow.log_prob, flow.sample, flat=True)


def _zuko(case: Case) -> Timed:
    import zuko

    flow = zuko.flows.NSF(
        case.features,
        transforms=LAYERS,
        bins=case.bins,
        hidden_features=(case.hidden,) * 5,
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


def _flowjax(case: Case) -> Timed:
    import equinox as eqx
    import jax
    import optax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow
    from flowjax.train.losses import MaximumLikelihoodLoss
    from flowjax.train.train_utils import step as flowjax_step
    from paramax import NonTrainable

    recipe = coupling_flow if case.coupling else masked_autoregressive_flow
    flow = recipe(
        jax.random.key(0),
        base_dist=Normal(jax.numpy.zeros(case.features)),
        transformer=RationalQuadraticSpline(knots=case.bins + 1, interval=3),
        flow_layers=LAYERS,
        nn_width=case.hidden,
        nn_depth=5,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(1e-4))
    trained, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable)
    )
    state, loss = [trained, optimizer.init(trained)], MaximumLikelihoodLoss()
    log_prob = eqx.filter_jit(lambda f, x: f.log_prob(x))
    sample = eqx.filter_jit(lambda f, key, n: f.sample(key, (n,)))

    def step(x: Any) -> None:
        state[0], state[1], value = flowjax_step(
            state[0], static, x, optimizer=optimizer, opt_state=state[1], loss_fn=loss
        )
        jax.block_until_ready((state[0], value))

    return Timed(
        nn.Module(),
        lambda x: jax.block_until_ready(log_prob(flow, x)),
        lambda n: jax.block_until_ready(sample(flow, jax.random.key(1), n)),
        step,
        lambda x: jax.numpy.asarray(x.numpy()),
    )


#: Name, what must be installed, how it is built. The second is the first again: the noise of the method.
CONTESTANTS: dict[str, tuple[str, Callable[[Case], Timed]]] = {
    "modeflow": ("modeflow", _modeflow),
    "modeflow again": ("modeflow", _modeflow),
    "modeflow, PyTorch": ("modeflow", _modeflow),
    "zuko": ("zuko", _zuko),
    "nflows": ("nflows", _nflows),
    "normflows": ("normflows", _normflows),
    "flowjax": ("flowjax", _flowjax),
}


def installed() -> list[str]:
    """The contestants that can run here."""
    return [name for name, (package, _) in CONTESTANTS.items() if importlib.util.find_spec(package)]
