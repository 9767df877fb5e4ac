"""What a temperature does to each kind of noise; the table of constructors tests that none ignores it."""

from __future__ import annotations

import pytest
import torch

from modeflow.densities import (
    AutoregressiveDensity,
    Diffusion,
    Flow,
    GaussianDecoder,
    GaussianMixtureBase,
    Logistic,
    ResampledBase,
    StandardNormal,
    StudentT,
    Uniform,
    ZukoDensity,
)
from modeflow.errors import ConfigError
from modeflow.flows import CIF, NSF, FunnelImage, SurVAE
from modeflow.models import DiscreteNVF
from modeflow.testing import perturb
from modeflow.transforms import LULinear


def draw(density, temperature, n=50, context=None):
    return density.sample(n, context, torch.Generator().manual_seed(0), temperature)


@pytest.mark.parametrize("make", [StandardNormal, Logistic, StudentT])
def test_noise_around_nought_is_multiplied(make):
    base = make(3).double()
    assert torch.allclose(draw(base, 0.3), 0.3 * draw(base, 1.0), rtol=1e-12)
    assert not draw(base, 0.0).any()


def test_noise_around_a_mean_moves_towards_it():
    c = torch.randn(2)
    decoder = perturb(GaussianDecoder(3, 2, (8,)), 0.3)
    chain = perturb(AutoregressiveDensity(1, 2, "gaussian"), 0.3)
    for density in (decoder, chain):
        still = draw(density, 0.0, context=c)
        assert torch.allclose(still, still[:1].expand_as(still))
        assert torch.allclose(
            draw(density, 0.25, context=c), 0.75 * still + 0.25 * draw(density, 1.0, context=c)
        )


def test_a_mixture_keeps_its_weights():
    base = GaussianMixtureBase(2, 3)
    still = draw(base, 0.0, 400)
    nearest = torch.cdist(still, base.mean.detach())
    assert nearest.min(1).values.max() < 1e-6
    assert (nearest.argmin(1).bincount() > 80).all()  # a third each: fails by chance below 1e-5


def test_a_binary_entry_is_sharpened():
    density = AutoregressiveDensity(1, conditional="bernoulli")
    with torch.no_grad():
        density.net.final.bias.fill_(0.4)
    assert draw(density, 0.0).all()
    p = torch.sigmoid(torch.tensor(0.8))  # p^2 / (p^2 + q^2), the odds squared
    n = 20_000
    assert abs(draw(density, 0.5, n).mean() - p) < 4.5 * (p * (1 - p) / n) ** 0.5  # by chance below 1e-5


def test_layers_that_draw_gaussians_follow():
    # At 0 nothing is left to chance in a CIF or a funnel; a SurVAE draws signs, which have no spread.
    for flow in (CIF(2, layers=1), FunnelImage((1, 4, 4), levels=1, steps=1, hidden_channels=8)):
        flow = perturb(flow, 0.1)
        still = draw(flow, 0.0)
        assert torch.allclose(still, still[:1].expand_as(still), atol=1e-5)
    signs = draw(perturb(SurVAE(1, symmetry="abs", layers=1), 0.1), 0.0)
    assert torch.allclose(signs.abs(), signs.abs()[:1].expand_as(signs)) and len(signs.unique()) == 2


def test_the_mode_of_what_is_proposed_is_the_mode_of_a_resampled_base():
    assert not draw(ResampledBase(2), 0.0).any()


def test_what_has_no_use_for_it_refuses_by_name():
    zuko = pytest.importorskip("zuko")
    for density, name in (
        (Uniform(2), "Uniform"),
        (Flow(LULinear(2), Uniform(2)), "Uniform"),
        (ZukoDensity(zuko.flows.NICE(2), 2), "ZukoDensity"),
        (Diffusion(2, sampler="pc"), "'pc'"),
    ):
        with pytest.raises(ConfigError, match=f"{name} has no use for a temperature"):
            density.sample(2, temperature=0.5)
        assert density.sample(2, temperature=1.0).shape == (2, 2)


def test_the_latent_has_its_own():
    model = DiscreteNVF(2, 3, flow_options={"layers": 1})
    with torch.no_grad():
        model.prior.logits.copy_(torch.tensor([0.0, 1.0, 0.0]))
    _, states = model.sample_with_states(300, torch.Generator().manual_seed(0), prior_temperature=0.05)
    assert (states == 1).all()
    x, states = model.sample_with_states(60, torch.Generator().manual_seed(0), temperature=0.0)
    assert len(states.unique()) == 3  # not touched by the temperature of the flow
    for k in range(3):
        assert torch.allclose(x[states == k], x[states == k][:1], atol=1e-5)
    with pytest.raises(ConfigError, match="leave prior_temperature at 1"):
        model.sample_with_states(2, state=1, prior_temperature=0.5)
    with pytest.raises(ConfigError, match="one state"):
        DiscreteNVF(2, 1).sample_with_states(2, prior_temperature=0.5)
    assert draw(NSF(2, layers=1), 0.0).shape == (50, 2)
