"""Flows of other libraries behind modeflow's contract: same numbers, and fit for a latent model."""

from __future__ import annotations

import pytest
import torch

from modeflow.densities import NflowsDensity, NormflowsDensity, ZukoDensity
from modeflow.errors import ConfigError, ShapeError
from modeflow.latents import CategoricalEncoder, CategoricalPrior, DiscreteLatentModel, Marginal
from modeflow.testing import check_density


def zuko_flow(context=0):
    zuko = pytest.importorskip("zuko")
    return ZukoDensity(zuko.flows.NSF(2, context, transforms=2, hidden_features=(16,), bins=4), 2, context)


def nflows_flow(context=0):
    pytest.importorskip("nflows")
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        CompositeTransform,
        MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
        ReversePermutation,
    )

    layers = []
    for _ in range(2):
        spline = MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            2, 16, context_features=context or None, num_bins=4, tails="linear", tail_bound=3.0, num_blocks=1
        )
        layers += [ReversePermutation(2), spline]
    return NflowsDensity(Flow(CompositeTransform(layers), StandardNormal([2])), 2, context)


def normflows_flow(context=0):
    nf = pytest.importorskip("normflows")
    if context:
        pytest.skip("the conditional flows of normflows need a conditional layer")
    layers = [nf.flows.MaskedAffineAutoregressive(2, 16, num_blocks=1) for _ in range(2)]
    return NormflowsDensity(nf.NormalizingFlow(nf.distributions.DiagGaussian(2, trainable=False), layers), 2)


MAKERS = {"zuko": zuko_flow, "nflows": nflows_flow, "normflows": normflows_flow}


@pytest.mark.parametrize("name", ["zuko", "nflows"])
@pytest.mark.parametrize("context", [0, 2])
def test_they_pass_the_density_checks(name, context):
    MAKERS[name](context)
    # Mild parameters: harsh ones are beyond the inverses of some of them.
    check_density(lambda: MAKERS[name](context), 2, context, scale=0.05)


@pytest.mark.parametrize("name", MAKERS)
def test_the_numbers_are_those_of_the_library(name):
    density = MAKERS[name]().double()
    x = torch.randn(7, 2, dtype=torch.float64)
    with torch.no_grad():
        expected = density.flow().log_prob(x) if name == "zuko" else density.flow.log_prob(x)
        assert torch.equal(density.log_prob(x), expected)
    a = density.sample(5, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    b = density.sample(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())
    assert a.shape == (5, 2)


@pytest.mark.parametrize("name", ["zuko", "nflows"])
def test_they_serve_as_the_likelihood_of_a_latent_model(name):
    model = DiscreteLatentModel(
        CategoricalPrior(3), MAKERS[name](3), CategoricalEncoder(2, 3, (8,)), Marginal()
    )
    x = torch.randn(20, 2)
    loss = model.objective(x, None, 0).value
    loss.backward()
    assert torch.isfinite(loss)
    assert model.posterior(x).shape == (20, 3)
    assert model.sample(4).shape == (4, 2)


def test_misuse_is_named():
    with pytest.raises(ConfigError, match="wraps a torch module"):
        ZukoDensity("flow", 2)
    with pytest.raises(ShapeError, match="conditional"):
        zuko_flow(2).log_prob(torch.zeros(3, 2))
