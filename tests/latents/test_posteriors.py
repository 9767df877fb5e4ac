"""Posteriors of a continuous z: densities, draws, divergences, and the bounds that they give."""

from __future__ import annotations

import math

import pytest
import torch
from cases_posteriors import POSTERIOR_CASES
from torch import Tensor

from modeflow import NVF, load_estimator
from modeflow.densities import GaussianDecoder, StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows import NSF
from modeflow.latents import (
    POSTERIORS,
    ContinuousELBO,
    ContinuousLatentModel,
    approximate,
    build_posterior,
    laplace,
)
from modeflow.models import VAE, ContinuousNVF
from modeflow.testing import perturb
from small_images import small_images

DOUBLE = torch.float64
# Those by chains are not fitted by a bound: the laws of their chains are in `test_langevin.py`.
BOUNDED = [name for name in POSTERIORS if not (POSTERIOR_CASES[name].apart or POSTERIOR_CASES[name].chains)]
NAMES = [name for name in POSTERIORS if not POSTERIOR_CASES[name].apart]
D = 3


def test_every_posterior_has_its_tests():
    assert set(POSTERIOR_CASES) == set(POSTERIORS)
    with pytest.raises(ConfigError, match="did you mean 'full-gaussian'"):
        build_posterior("full-gausian", 2, D)


def posterior(name: str, latent: int = 2, dtype: torch.dtype = DOUBLE):
    """Far from its start, as a function of rows; one that looks at p(x, z) is given a decoder."""
    made = perturb(build_posterior(name, latent, D, (8,)), 0.3, seed=1).to(dtype).eval()
    decoder = perturb(GaussianDecoder(D, latent, (8,)), 0.3, seed=2).to(dtype).eval()
    return lambda x: made.approximate(x, decoder, StandardNormal(latent).to(dtype))


def rows(n: int = 5, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).to(dtype)


@pytest.mark.parametrize("latent", [1, 2, 4])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_a_draw_comes_with_its_density(name, dtype, latent):
    q = posterior(name, latent, dtype)(rows(dtype=dtype))
    z, log_q = q.rsample_and_log_prob()
    assert z.shape == (5, latent) and log_q.shape == (5,)
    assert torch.allclose(q.log_prob(z), log_q, atol=1e-9 if dtype == DOUBLE else 1e-3)


@pytest.mark.parametrize("latent", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_that_of_the_map_from_noise(name, latent, monkeypatch):
    q_of, x = posterior(name, latent), rows(1)
    noise = torch.randn(1, latent, dtype=DOUBLE)

    def given(e: Tensor) -> None:
        for module in (approximate, laplace):
            monkeypatch.setattr(module, "standard_normal", lambda like: e)

    def draw(e: Tensor) -> Tensor:
        given(e)
        return q_of(x).rsample_and_log_prob()[0][0]

    jacobian = torch.autograd.functional.jacobian(draw, noise)[:, 0]
    expected = StandardNormal(latent).double().log_prob(noise) - torch.linalg.slogdet(jacobian)[1]
    given(noise)
    assert torch.allclose(q_of(x).rsample_and_log_prob()[1], expected, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_mass_is_one(name):
    q_of, x = posterior(name), rows(1)
    centre, spread = q_of(x).moments()
    sides = [
        torch.linspace(-12, 12, 241, dtype=DOUBLE) * s + c for c, s in zip(centre[0], spread[0], strict=True)
    ]
    grid = torch.cartesian_prod(*sides)
    area = (sides[0][1] - sides[0][0]) * (sides[1][1] - sides[1][0])
    mass = q_of(x.expand(len(grid), -1)).log_prob(grid).exp().sum() * area
    assert abs(float(mass) - 1) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_divergence_and_moments_against_draws(name):
    # Six and four scores of a normal beyond five: a false alarm in a million.
    n = 40_000
    q_of, x = posterior(name), rows(1)
    q = q_of(x.expand(n, -1))
    z, log_q = q.rsample_and_log_prob()
    prior = StandardNormal(2).double()
    each = q_of(x).kl(prior)
    assert (each is not None) == POSTERIORS[name].closed_kl
    if each is not None:
        sampled = log_q - prior.log_prob(z)
        assert abs(float(sampled.mean() - each.sum())) < 5 * float(sampled.std()) / math.sqrt(n)
    assert q_of(x).kl(perturb(NSF(2, layers=1), 0.1).double()) is None
    mean, spread = q_of(x).moments()
    assert torch.equal(mean, q_of(x).moments()[0])
    draws = 64 if not POSTERIORS[name].closed_kl else n
    assert ((z.mean(0) - mean[0]).abs() < 5 * z.std(0) / math.sqrt(draws)).all()
    assert torch.allclose(z.std(0), spread[0], rtol=0.02 if draws == n else 0.4)


def linear_model(name: str, **options) -> tuple[Tensor, ContinuousLatentModel]:
    """x | z ~ N(W z, I): the exact posterior is a Gaussian whose dimensions hang together."""
    w = torch.tensor([[1.5, 1.2], [0.8, 1.1], [1.0, 0.4]], dtype=DOUBLE)
    likelihood = GaussianDecoder(D, 2, (), scale=1.0).double()
    with torch.no_grad():
        likelihood.net.final.weight.copy_(w)
        likelihood.net.final.bias.zero_()
    made = build_posterior(name, 2, D, (8,)).double()
    return w, ContinuousLatentModel(StandardNormal(2).double(), likelihood, made, **options)


def exact_log_prob(w: Tensor, x: Tensor) -> Tensor:
    covariance = w @ w.T + torch.eye(D, dtype=DOUBLE)
    return torch.distributions.MultivariateNormal(torch.zeros(D, dtype=DOUBLE), covariance).log_prob(x)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_grow_with_draws_and_stay_below_the_density(name):
    w, model = linear_model(name)
    perturb(model.encoder, 0.2, seed=4)
    x = exact_rows(w, 400)
    truth = exact_log_prob(w, x)
    with torch.no_grad():
        means = [float((model.eval().iwae(x, s) - truth).mean()) for s in (1, 4, 32, 256)]
    if POSTERIOR_CASES[name].gap == 1e-9:  # exact, whatever the network says
        assert max(map(abs, means)) < 1e-10
        return
    assert means[0] < means[1] < means[2] < means[3] < 0.01


def exact_rows(w: Tensor, n: int, seed: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    return z @ w.T + torch.randn(n, D, generator=generator, dtype=DOUBLE)


@pytest.mark.parametrize("name", BOUNDED)
def test_the_gap_that_is_left_is_that_of_the_family(name):
    """Trained at one row: the best diagonal Gaussian misses by the correlation, the others by nothing."""
    torch.manual_seed(0)
    w, model = linear_model(name)
    x = exact_rows(w, 1).expand(32, -1)
    optimiser = torch.optim.Adam(model.encoder.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 350)
    # One that is exact whatever its network says has nothing to learn.
    for _ in range(1 if POSTERIOR_CASES[name].gap == 1e-9 else 350):
        optimiser.zero_grad()
        model.objective(x).value.backward()
        optimiser.step()
        schedule.step()
    precision = torch.eye(2, dtype=DOUBLE) + w.T @ w
    left = 0.5 * (precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1])
    truth = exact_log_prob(w, x[:1])
    with torch.no_grad():
        q = model.approximate_posterior(x[:1].expand(4000, -1))
        z, log_q = q.rsample_and_log_prob()
        weights = model.likelihood_log_prob(x[:1].expand(4000, -1), z) + model.prior.log_prob(z) - log_q
    gap, error = float(truth - weights.mean()), float(weights.std()) / math.sqrt(4000)
    allowed = POSTERIOR_CASES[name].gap
    if allowed is None:
        assert left > 0.1
        assert abs(gap - float(left)) < 5 * error + 0.01
    else:
        assert gap < allowed + 3 * error and error < 0.002


@pytest.mark.parametrize("name", NAMES)
def test_models_take_it_by_its_name(name):
    x = rows(12, torch.float32)
    models = [VAE(D, 2, posterior=name, draws=4)]
    if not POSTERIOR_CASES[name].of_means:
        models.append(ContinuousNVF(D, 2, posterior=name, draws=4))
    for model in models:
        model.objective(x).value.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())
        model.eval()
        whole = model.log_prob(x)
        assert torch.allclose(whole[3:5], model.log_prob(x[3:5]), atol=1e-5)  # its noise is the row's own
        assert model.latent_cost(x).shape == (12,) and model.infer(x).shape == (12, 2)
    images = torch.randint(0, 2, (3, 1, 8, 8)).float()
    likelihood = "bernoulli" if POSTERIOR_CASES[name].of_means else "logistic"
    model = small_images("continuous", likelihood, {"posterior": name}, levels=2, halvings=1)
    assert model.log_prob(images).isfinite().all()


@pytest.mark.parametrize("name", BOUNDED)
def test_free_bits_need_a_closed_divergence(name):
    parts = {"prior": StandardNormal(1), "likelihood": GaussianDecoder(D, 1)}
    make = {**parts, "encoder": build_posterior(name, 1, D), "objective": ContinuousELBO(free_bits=0.1)}
    if POSTERIORS[name].closed_kl:
        ContinuousLatentModel(**make)
        return
    with pytest.raises(ConfigError, match="free_bits"):
        ContinuousLatentModel(**make)


@pytest.mark.parametrize("name", ["gaussian", "full-gaussian", "iaf", "planar", "laplace"])
def test_an_estimator_fits_keeps_and_encodes(name, tmp_path):
    x = rows(120).numpy()
    of_flow = {"flow": "nsf-coupling", "flow_options": {"layers": 1}}
    fitted = NVF(
        latent="continuous", latent_options={"posterior": name, "encoder_features": (8,), "draws": 2},
        max_epochs=2, random_state=0,
        **({"likelihood": "gaussian"} if POSTERIOR_CASES[name].of_means else of_flow),
    ).fit(x)  # fmt: skip
    again = load_estimator(fitted.save(tmp_path / "m.safetensors"))
    assert (again.score_samples(x) == fitted.score_samples(x)).all()
    mean, spread = fitted.encode(x, return_std=True)
    assert mean.shape == spread.shape == (120, 2) and (spread > 0).all()
