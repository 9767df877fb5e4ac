"""Semi-amortised refinement and the gaps of inference, on the linear-Gaussian model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modeflow import NVF
from modeflow.densities import GaussianDecoder, StandardNormal
from modeflow.densities.sphere import UniformSphere
from modeflow.errors import ConfigError, DataError
from modeflow.latents import (
    POSTERIORS,
    ContinuousLatentModel,
    Refinement,
    build_posterior,
    inference_gaps,
)
from modeflow.latents.langevin import ChainPosterior
from modeflow.latents.posteriors import DiagonalGaussian, FullGaussian
from modeflow.models import VAE
from modeflow.testing import perturb

#: Of posteriors by chains z is learned by these, and by no bound.
OWN_BOUND = [
    name for name, kind in POSTERIORS.items() if not (issubclass(kind, ChainPosterior) or kind.point)
]
DOUBLE = torch.float64
D, L = 3, 2
W = torch.tensor([[1.5, 1.2], [0.8, 1.1], [1.0, 0.4]], dtype=DOUBLE)
PRECISION = torch.eye(L, dtype=DOUBLE) + W.T @ W


class Said(nn.Module):
    """The exact posterior, or the best diagonal one, with the mean and log-scale moved by `off`."""

    def __init__(self, full: bool, off: float) -> None:
        super().__init__()
        self.full, self.off = full, off

    def forward(self, x: Tensor) -> DiagonalGaussian | FullGaussian:
        mean = x @ torch.linalg.solve(PRECISION, W.T).T.to(x) + self.off
        if not self.full:
            return DiagonalGaussian(mean, (self.off - 0.5 * PRECISION.diagonal().log()).to(x).expand_as(mean))
        factor = torch.linalg.cholesky(torch.linalg.inv(PRECISION)).to(x)
        log_scale = factor.diagonal().log() + self.off
        below = (factor / factor.diagonal().unsqueeze(1)).expand(len(x), -1, -1)
        return FullGaussian(mean, log_scale.expand_as(mean), below)


def model_of(full: bool = False, off: float = 0.0, dtype=DOUBLE) -> ContinuousLatentModel:
    likelihood = GaussianDecoder(D, L, (), scale=1.0).double()
    with torch.no_grad():
        likelihood.net.final.weight.copy_(W)
        likelihood.net.final.bias.zero_()
    return ContinuousLatentModel(StandardNormal(L), likelihood, Said(full, off), draws=8).to(dtype).eval()


def some_rows(n: int = 60, dtype=DOUBLE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, L, generator=generator, dtype=DOUBLE)
    return (z @ W.T + torch.randn(n, D, generator=generator, dtype=DOUBLE)).to(dtype)


def divergence(model: ContinuousLatentModel, x: Tensor, q) -> Tensor:
    """``KL(q || p(z | x))`` in closed form, ``(B,)``."""
    exact = torch.distributions.MultivariateNormal(
        x @ torch.linalg.solve(PRECISION, W.T).T.to(x), precision_matrix=PRECISION.to(x)
    )
    scale = q.factor if isinstance(q, FullGaussian) else torch.diag_embed(q.log_scale.exp())
    return torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(q.location, scale_tril=scale.tril()), exact
    )


#: What the best diagonal Gaussian misses (Hadamard).
LEFT = float(0.5 * (PRECISION.diagonal().log().sum() - torch.linalg.slogdet(PRECISION)[1]))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("full", [False, True])
def test_the_gaps_are_those_of_the_closed_forms(full, dtype):
    model, x = model_of(full, off=0.3, dtype=dtype), some_rows(dtype=dtype)
    whole = divergence(model, x, model.amortised_posterior(x)).mean()
    left = 0.0 if full else LEFT
    found = inference_gaps(model, x, draws=256)
    # Of the same rows, so that only draws are noisy: 60 rows of 256.
    assert abs(found.approximation.value - left) < 0.03
    assert abs(found.amortisation.value - (float(whole) - left)) < 0.1
    assert float(whole) - left > 0.5 and (full or LEFT > 0.1)
    assert 0 < found.amortisation.standard_error < 0.3 * found.amortisation.value
    covariance = W @ W.T + torch.eye(D, dtype=DOUBLE)
    exact = torch.distributions.MultivariateNormal(torch.zeros(D, dtype=DOUBLE), covariance)
    assert abs(found.log_prob.value - float(exact.log_prob(x.double()).mean())) < 0.03
    if full:
        assert found.approximation.value == pytest.approx(0, abs=1e-3)
        assert found.log_prob.value == pytest.approx(found.best.value, abs=1e-3)
    assert (found.rows, found.draws, found.steps) == (60, 256, 200)
    assert "60 rows" in str(found) and found.to_dict()["best"]["value"] == found.best.value


def test_what_is_the_posterior_stays_it_and_the_best_of_a_family_stays_there():
    x = some_rows(20)
    exact = model_of(full=True)
    q = exact.amortised_posterior(x)
    refined = Refinement(steps=5)(exact, x, q)
    assert torch.allclose(refined.location, q.location, atol=1e-6)
    assert torch.allclose(refined.factor, q.factor, atol=1e-6)
    best = model_of()
    kl = divergence(best, x, Refinement(steps=100)(best, x, best.amortised_posterior(x)))
    assert ((kl - LEFT) > -1e-9).all() and float((kl - LEFT).mean()) < 0.04


@pytest.mark.parametrize("off", [0.2, -0.5])
def test_steps_come_closer_one_after_the_other(off):
    model, x = model_of(off=off), some_rows(30)
    q = model.amortised_posterior(x)
    lost = [float(divergence(model, x, q).mean())]
    lost += [float(divergence(model, x, Refinement(steps=n)(model, x, q)).mean()) for n in (5, 20, 100)]
    assert lost[0] > lost[1] > lost[2] > lost[3] > LEFT
    assert lost[3] - LEFT < 0.02


def test_a_model_that_refines_does_so_where_it_is_evaluated_alone():
    x = some_rows(40)
    plain, refining = model_of(off=-0.4), model_of(off=-0.4)
    refining.refinement = Refinement(steps=15)
    with torch.no_grad():
        assert (refining.elbo(x, 64) > plain.elbo(x, 64)).all()
        assert refining.log_prob(x).mean() > plain.log_prob(x).mean() + 0.05
        assert torch.equal(refining.validation_log_prob(x), plain.validation_log_prob(x))
        # A row is refined alike in every batch, and in every call.
        whole = refining.log_prob(x)
        assert torch.allclose(whole[7:9], refining.log_prob(x[7:9]), atol=1e-9)
        refining.chunk_rows = 11
        assert torch.allclose(whole, refining.log_prob(x), atol=1e-9)
    with torch.inference_mode():
        assert torch.allclose(whole, refining.log_prob(x.clone()), atol=1e-9)
    torch.manual_seed(0)
    a = plain.train().objective(x).value
    torch.manual_seed(0)
    assert torch.equal(a, refining.train().objective(x).value)
    assert all(p.grad is None for p in refining.parameters())


@pytest.mark.parametrize("name", OWN_BOUND)
def test_every_posterior_is_refined(name):
    latent = 2
    made = perturb(build_posterior(name, latent, D, (8,)), 0.5, seed=1)
    decoder = perturb(GaussianDecoder(D, latent, (8,)), 0.3, seed=2)
    prior = UniformSphere(latent) if POSTERIORS[name].support == "sphere" else StandardNormal(latent)
    model = ContinuousLatentModel(prior, decoder, made).double().eval()
    x = some_rows(30)
    q = model.amortised_posterior(x)
    again = q.of_numbers(*q.numbers())
    z = q.rsample_and_log_prob()[0].detach()
    assert torch.allclose(again.log_prob(z), q.log_prob(z), atol=1e-9)
    found = inference_gaps(model, x, Refinement(steps=20, draws=1), draws=32)
    # The Laplace posterior is no best Gaussian, but hardly worse.
    assert found.amortisation.value > (-0.01 if name == "laplace" else 0.02)
    assert found.approximation.value > -0.05


def test_in_one_line_and_what_is_refused():
    assert VAE(D, 2, refine_steps=7).refinement.steps == 7
    assert VAE((1, 8, 8), 2, levels=2, halvings=1, refine_steps=3).refinement.steps == 3
    assert VAE(D, 2).refinement is None
    with pytest.raises(ConfigError, match="refine_steps must be an integer of 0 or more"):
        VAE(D, 2, refine_steps=-1)
    for more in ({"refine_steps": 3}, {"objective": "iwae"}, {"gradient": "total"}):
        with pytest.raises(ConfigError, match=f"learned by chains, which have no use for {next(iter(more))}"):
            VAE(D, 2, posterior="langevin", **more)
    with pytest.raises(ConfigError, match="learning_rate must be above 0"):
        Refinement(learning_rate=0.0)
    with pytest.raises(DataError, match="at least one row"):
        inference_gaps(model_of(), some_rows(0))
    single = inference_gaps(model_of(), some_rows(1), Refinement(steps=2), 2)
    assert math.isnan(single.best.standard_error) and single.to_dict()["best"]["standard_error"] is None
    x = some_rows(120).float().numpy()
    options = {"encoder_features": (8,), "draws": 2}
    fitted = NVF(latent="continuous", likelihood="gaussian", max_epochs=2, latent_options=options).fit(x)
    found = fitted.gaps(x[:50], steps=20, draws=64)
    assert found.elbo.value == pytest.approx(fitted.bounds(x[:50])["elbo"].value, abs=0.5)
    assert found.amortisation.value > 0 and found.rows == 50
    with pytest.raises(ConfigError, match="of a continuous latent"):
        NVF(2, max_epochs=1, flow="nsf-coupling", flow_options={"layers": 1}).fit(x).gaps(x)
