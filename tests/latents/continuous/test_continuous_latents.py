"""The continuous latent against the linear-Gaussian model, where everything has a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modeflow.densities import Flow, StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows import NSF
from modeflow.latents import ContinuousELBO, ContinuousLatentModel, build_posterior
from modeflow.latents.posteriors import DiagonalGaussian
from modeflow.models import FlowVAE
from modeflow.testing import perturb
from modeflow.training import TrainConfig, Trainer
from modeflow.transforms import ConditionalAffine

DOUBLE = torch.float64
D = 3


class Linear(nn.Module):
    """q(z|x) = N(A x, diag(variance))."""

    closed_kl = True

    def __init__(self, matrix, variance):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.register_buffer("log_scale", 0.5 * variance.log())

    def forward(self, x):
        return DiagonalGaussian(x @ self.matrix.T, self.log_scale.expand(len(x), -1))


def linear_model(latent, seed=0, off=0.0, **options):
    """x | z ~ N(W z, I), z ~ N(0, I), the posterior mean and the best diagonal variance, moved by `off`."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(D, latent, generator=generator, dtype=DOUBLE)
    affine = ConditionalAffine(D, latent).double()
    with torch.no_grad():
        affine.table[:, :D] = w.T
    precision = torch.eye(latent, dtype=DOUBLE) + w.T @ w
    mean = torch.linalg.solve(precision, w.T)
    encoder = Linear(mean + off, 1 / precision.diagonal() * math.exp(off))
    likelihood = Flow(affine, StandardNormal(D).double(), latent)
    return w, ContinuousLatentModel(StandardNormal(latent).double(), likelihood, encoder, **options).eval()


def rows(n=50):
    return 1.5 * torch.randn(n, D, dtype=DOUBLE)


def exact_log_prob(w, x):
    covariance = w @ w.T + torch.eye(D, dtype=DOUBLE)
    return torch.distributions.MultivariateNormal(torch.zeros(D, dtype=DOUBLE), covariance).log_prob(x)


def exact_elbo(w, model, x):
    """-D/2 log 2π - (|x - W m|² + tr W C W') / 2 - KL, for q = N(m, C)."""
    q = model.approximate_posterior(x)
    mean, log_scale = q.location, q.log_scale
    variance = torch.exp(2 * log_scale)
    misfit = (x - mean @ w.T).square().sum(1) + (variance * w.square().sum(0)).sum(1)
    kl = 0.5 * (variance + mean.square() - 1 - 2 * log_scale).sum(1)
    return -0.5 * D * math.log(2 * math.pi) - 0.5 * misfit - kl


@pytest.mark.parametrize("draws", [1, 7])
def test_with_the_exact_posterior_the_bound_is_the_density(draws):
    w, model = linear_model(1, draws=draws)
    x = rows()
    assert torch.allclose(model.log_prob(x), exact_log_prob(w, x), atol=1e-10)
    assert torch.allclose(model.elbo(x), exact_log_prob(w, x), atol=1e-10)


def test_bounds_are_those_of_the_closed_forms():
    w, model = linear_model(2, off=0.1)
    x = rows(400)
    truth, elbo = exact_log_prob(w, x), exact_elbo(w, model, x)
    assert (elbo < truth).all()
    with torch.no_grad():
        weights = model.log_weights(x, 512)
        # The mean over draws of every row, against its closed form: 400 normal scores.
        score = (weights.mean(1) - elbo) / (weights.std(1) / math.sqrt(512))
        assert score.abs().max() < 5 and abs(float(score.mean())) < 4 / math.sqrt(400)
        means = [float((model.iwae(x, s) - truth).mean()) for s in (1, 4, 32, 512)]
    assert means[0] < means[1] < means[2] < means[3] < 0.005
    assert means[3] > -0.05


def test_a_row_has_one_value():
    _, model = linear_model(2, off=0.2)
    x = rows(30)
    whole = model.log_prob(x)
    assert torch.equal(whole, model.log_prob(x))
    assert torch.equal(whole[7:9], model.log_prob(x[7:9]))
    model.chunk_rows = 11
    with torch.no_grad():
        assert torch.equal(whole, model.log_prob(x))
    assert model.exactness == "lower bound"


def test_samples_have_the_moments_of_the_model():
    w, model = linear_model(2)
    x = model.sample(20_000, generator=torch.Generator().manual_seed(1))
    covariance = w @ w.T + torch.eye(D, dtype=DOUBLE)
    assert torch.allclose(torch.cov(x.T), covariance, atol=0.06 * float(covariance.max()))
    assert model.sample(0).shape == (0, D)


def test_free_bits_and_warmup():
    _, model = linear_model(2, off=0.2)
    x = rows(40)
    q = model.approximate_posterior(x)
    mean, log_scale = q.location, q.log_scale
    each = (0.5 * (torch.exp(2 * log_scale) + mean.square() - 1) - log_scale).mean(0)
    plain = model.objective(x)
    assert torch.allclose(plain.terms["kl"], each.sum())
    torch.manual_seed(0)
    before = ContinuousELBO()(model, x, None, None).value
    limit = float(each.max()) + 1.0
    torch.manual_seed(0)
    after = ContinuousELBO(free_bits=limit)(model, x, None, None).value
    assert torch.allclose(after - before, 2 * limit - each.sum())
    torch.manual_seed(0)
    early = ContinuousELBO(kl_warmup_steps=10)(model, x, None, 0).value
    assert torch.allclose(before - early, 0.9 * each.sum())
    # Weights of mean one: rows counted twice or never.
    weight = torch.tensor([2.0, 0.0] * 20, dtype=DOUBLE)
    assert torch.allclose(
        ContinuousELBO()(model, x, weight, None).terms["kl"], model.objective(x[::2]).terms["kl"]
    )


def test_a_linear_model_learns_the_principal_subspace():
    # PPCA: the optimum has the covariance of the data, up to what one latent can say.
    torch.manual_seed(0)
    direction = torch.tensor([2.0, -1.0, 0.5])
    x = torch.randn(4000, 1) * direction + torch.randn(4000, D)
    model = ContinuousLatentModel(
        StandardNormal(1),
        Flow(ConditionalAffine(D, 1), StandardNormal(D), 1),
        build_posterior("gaussian", 1, D, ()),
    )
    perturb(model, 0.1)
    Trainer(TrainConfig(max_epochs=60, learning_rate=3e-2, patience=None), quiet=True).fit(model, x)
    affine = model.likelihood.transform
    w, logscale = affine.table.detach()[0].split(D)
    assert logscale.abs().max() < 0.2
    cosine = torch.nn.functional.cosine_similarity(w, direction, dim=0).abs()
    assert cosine > 0.99 and abs(float(w.norm() / direction.norm()) - 1) < 0.1
    covariance = direction[:, None] * direction + torch.eye(D)
    best = torch.distributions.MultivariateNormal(torch.zeros(D), covariance).log_prob(x).mean()
    assert best - model.eval().log_prob(x).mean() < 0.02


def test_parts_that_do_not_fit():
    with pytest.raises(ConfigError, match="context_features"):
        ContinuousLatentModel(StandardNormal(2), NSF(3, 1, layers=1), build_posterior("gaussian", 2, 3))
    with pytest.raises(ConfigError, match="draws"):
        ContinuousLatentModel(
            StandardNormal(1), NSF(3, 1, layers=1), build_posterior("gaussian", 1, 3), draws=0
        )
    with pytest.raises(ConfigError, match="free_bits"):
        ContinuousELBO(free_bits=-1.0)


def test_the_mutual_information_is_that_of_a_mixture_of_posteriors():
    """Two places, far apart: q(z|x) says which, log 2 nats; and nothing, where all posteriors are alike."""
    _, model = linear_model(2)
    with torch.no_grad():
        model.encoder.net.log_scale.fill_(-4.0)
    x = rows(2).repeat(20, 1)
    found = model.measure(x)["continuous"]
    assert abs(found["mutual_information"] - math.log(2)) < 1e-6 and found["active"] >= 1
    alike = model.measure(x[:1].repeat(40, 1))["continuous"]
    assert abs(alike["mutual_information"]) < 1e-10 and alike["active"] == 0


def test_means_that_are_draws_make_no_number_active():
    """A flow posterior all but the same for every row: means of 64 draws vary by more than 0.01."""
    model = FlowVAE(4, 3, posterior="planar").eval()
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(0.05)  # not zero: rows quite the same would have the same draws
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    means, spread = model.read_spread(x)
    assert (means.var(0) > 0.01).all() and (spread.square().mean(0) > 0.8).all()
    assert model.measure(x)["continuous"]["active"] == 0
