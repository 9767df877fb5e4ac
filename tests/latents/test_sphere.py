"""Posteriors on the sphere: against quadrature, closed forms, finite differences and counts."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import ive
from torch import Tensor

from modeflow.densities import UniformSphere
from modeflow.densities.sphere import log_area
from modeflow.errors import ConfigError
from modeflow.latents import POSTERIORS, build_posterior
from modeflow.latents.bessel import log_iv, log_vmf_normaliser, mean_length
from modeflow.latents.polar import Cosine, LogCosine, _invert, _slope, draw_angle
from modeflow.latents.spherical import PowerSpherical, VonMisesFisher
from modeflow.models import SVAE, VAE
from modeflow.testing import perturb

DOUBLE = torch.float64
KINDS = {"vmf": VonMisesFisher, "power-spherical": PowerSpherical}
DIMENSIONS = [2, 3, 5, 40]
KAPPAS = [1e-3, 0.3, 4.0, 80.0, 3000.0]


def angles(kind, kappa: float, m: int, count: int = 40_000) -> tuple[Tensor, Tensor]:
    """Angles to the pole, evenly spaced, and what q puts on each (the area of its ring included)."""
    edges = torch.linspace(0, math.pi, count + 1, dtype=DOUBLE)
    theta = 0.5 * (edges[1:] + edges[:-1])
    pole = torch.zeros(1, m, dtype=DOUBLE)
    pole[:, 0] = 1
    z = torch.zeros(count, m, dtype=DOUBLE)
    z[:, 0], z[:, 1] = torch.cos(theta), torch.sin(theta)
    q = kind(pole.expand(count, m), torch.full((count,), kappa, dtype=DOUBLE))
    ring = log_area(m - 1) + (m - 2) * torch.sin(theta).log() if m > 2 else math.log(2)
    return theta, (q.log_prob(z) + ring).exp() * math.pi / count


@pytest.mark.parametrize("m", DIMENSIONS)
@pytest.mark.parametrize("name", KINDS)
def test_density_divergence_and_moments_against_quadrature(name, m):
    for kappa in KAPPAS:
        theta, mass = angles(KINDS[name], kappa, m)
        assert abs(float(mass.sum()) - 1) < 1e-6
        pole = torch.nn.functional.one_hot(torch.zeros(1, dtype=torch.long), m).to(DOUBLE)
        q = KINDS[name](pole, torch.tensor([kappa], dtype=DOUBLE))
        if m > 2:
            log_q = mass.log() - math.log(math.pi / len(mass)) - log_area(m - 1) - (m - 2) * theta.sin().log()
        else:
            log_q = mass.log() - math.log(math.pi / len(mass)) - math.log(2)
        kl = float((mass * (log_q + log_area(m))).nan_to_num(0.0).sum())
        assert abs(float(q.kl(UniformSphere(m))) - kl) < 1e-6 * max(1, kl)
        first, second = (float(each) for each in q.cosines())
        assert abs(first - float((mass * theta.cos()).sum())) < 1e-6
        assert abs(second - float((mass * theta.cos().square()).sum())) < 1e-6


@pytest.mark.parametrize("m", DIMENSIONS)
@pytest.mark.parametrize("name", KINDS)
def test_without_concentration_nothing_is_known(name, m):
    pole = torch.eye(m, dtype=DOUBLE)[:1]
    kl = [
        float(KINDS[name](pole, torch.tensor([k], dtype=DOUBLE)).kl(UniformSphere(m))) for k in (1e-2, 1e-6)
    ]
    assert 0 < kl[0] < 1e-3 and abs(kl[1]) < 1e-11


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 4.5, 60.0, 400.0])
def test_bessel_functions_in_log_space(order):
    kappa = torch.tensor([1e-3, 0.5, 7.0, 300.0, 2e4], dtype=DOUBLE)
    scaled = torch.from_numpy(ive(order, kappa.numpy()))
    usual = scaled > 1e-250
    assert torch.allclose((log_iv(order, kappa) - kappa)[usual], scaled.log()[usual], rtol=1e-13)
    # I_{v-1} - I_{v+1} = (2 v / κ) I_v, where it underflows too.
    if order >= 1:
        below, here, above = (log_iv(order + d, kappa) for d in (-1, 0, 1))
        residual = 1 - (above - below).exp() - 2 * order / kappa * (here - below).exp()
        assert residual.abs().max() < 1e-9


@pytest.mark.parametrize("m", [*DIMENSIONS, 600])
def test_derivatives_of_the_normaliser_by_finite_differences(m):
    kappa = torch.tensor([0.02, 0.7, 9.0, 500.0], dtype=DOUBLE) * math.sqrt(m)
    for function in (log_vmf_normaliser, mean_length):
        at = kappa.clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(at, m).sum(), at)
        step = 1e-4 * kappa
        difference = (function(kappa + step, m) - function(kappa - step, m)) / (2 * step)
        assert torch.allclose(slope, difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("m", [2, 3, 64, 300])
def test_where_the_density_is_narrow_the_slope_keeps_its_digits(m):
    """Against mpmath to 50 digits: the slope is a difference of numbers near one."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(50):
        for kappa in (1e3, 2e4, 1e5, 1e6, 1e8):
            at = torch.tensor([kappa], dtype=DOUBLE, requires_grad=True)
            length = mean_length(at, m)
            (slope,) = torch.autograd.grad(length.sum(), at)
            known = mpmath.besseli(mpmath.mpf(m) / 2, kappa) / mpmath.besseli(mpmath.mpf(m) / 2 - 1, kappa)
            assert abs(length.item() / float(known) - 1) < 1e-12
            assert abs(slope.item() / float(1 - known**2 - (m - 1) * known / kappa) - 1) < 1e-7


def test_in_three_dimensions_the_angle_has_a_closed_form():
    u = torch.linspace(1e-6, 1 - 1e-6, 501, dtype=DOUBLE)
    for kappa in (1e-2, 1.0, 30.0, 5e3):
        one, other = (torch.full((501,), kappa, dtype=DOUBLE, requires_grad=True) for _ in range(2))
        theta = draw_angle(u, one, 3, Cosine)
        fall = -torch.log1p(u * torch.expm1(-2 * other)) / other  # 1 - w
        closed = 2 * torch.asin((0.5 * fall).sqrt())
        assert torch.allclose(theta, closed, rtol=1e-10)
        found, expected = (torch.autograd.grad(a.sum(), k)[0] for a, k in ((theta, one), (closed, other)))
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9 / kappa)


@pytest.mark.parametrize("tilt", [Cosine, LogCosine])
def test_the_closed_form_is_what_quadrature_inverts(tilt):
    u = torch.cat(
        [torch.linspace(1e-6, 1 - 1e-6, 201, dtype=DOUBLE), torch.tensor([1e-9, 1 - 1e-9], dtype=DOUBLE)]
    )
    for kappa in (1e-3, 1.0, 30.0, 49.9, 50.1, 5e3):
        many = torch.full_like(u, kappa)
        many.requires_grad_()
        exact, found = draw_angle(u, many, 3, tilt), _invert(u, many.detach(), 3, tilt)
        (slope,) = torch.autograd.grad(exact.sum(), many)
        by_integral = _slope(exact.detach(), many.detach(), 3, tilt)
        assert torch.allclose(slope, by_integral, rtol=1e-6, atol=1e-9 / kappa), kappa
        assert torch.allclose(exact, found, rtol=1e-9), kappa
        if kappa < 10:  # near the other pole too, where a cosine has lost the digits of the angle
            assert torch.allclose(math.pi - exact, math.pi - found, rtol=1e-4), kappa


@pytest.mark.parametrize("tilt", [Cosine, LogCosine])
@pytest.mark.parametrize("m", [2, 3, 10, 200])
def test_the_angle_has_its_distribution_and_derivative(tilt, m):
    u = torch.linspace(0.001, 0.999, 101, dtype=DOUBLE)
    for kappa in (0.05, 2.0, 60.0, 2000.0):
        at = torch.full((101,), kappa, dtype=DOUBLE, requires_grad=True)
        theta = draw_angle(u, at, m, tilt)
        assert (theta.diff() > 0).all()
        step = 1e-4 * kappa
        higher, lower = (draw_angle(u, at.detach() + s, m, tilt) for s in (step, -step))
        difference = (higher - lower) / (2 * step)
        (slope,) = torch.autograd.grad(theta.sum(), at)
        assert torch.allclose(slope, difference, rtol=1e-5, atol=1e-7 / kappa)
    if tilt is LogCosine:  # cos θ = 2 t - 1, t of a Beta: at its quantiles
        from scipy.stats import beta

        b = (m - 1) / 2
        t = torch.from_numpy(beta(b + 2000.0, b).cdf(((1 + theta.detach().cos()) / 2).numpy()))
        assert torch.allclose(1 - t, u, atol=1e-8)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("m", [2, 3, 8])
@pytest.mark.parametrize("name", KINDS)
def test_draws_lie_on_the_sphere_with_their_density_and_mean(name, m, dtype):
    # 2 m scores of a normal below five, in 12 cases: a false alarm in 30,000.
    torch.manual_seed(0)
    n = 20_000
    q_of = perturb(build_posterior(name, m, 3, (8,)), 0.5, seed=3).to(dtype)
    x = torch.randn(1, 3, dtype=dtype)
    q = q_of(x.expand(n, -1))
    z, log_q = q.rsample_and_log_prob()
    assert (z.norm(dim=1) - 1).abs().max() < (1e-12 if dtype == DOUBLE else 1e-5)
    assert torch.allclose(q.log_prob(z), log_q, atol=1e-8 if dtype == DOUBLE else 2e-3, rtol=1e-4)
    mean, spread = q_of(x).moments()
    assert ((z.mean(0) - mean[0]).abs() < 5 * spread[0] / math.sqrt(n) + 1e-6).all()
    assert torch.allclose(z.std(0), spread[0], rtol=0.05)
    assert torch.allclose(q.centre().norm(dim=1), torch.ones(n, dtype=dtype))


def test_the_gradient_of_an_average_is_that_of_the_average():
    """E w f: the draws' derivative by κ and μ against that of the closed mean of z, A(κ) μ."""
    # Five standard errors of 12,000 draws: a false alarm in a million.
    torch.manual_seed(1)
    n, target = 12_000, torch.tensor([0.3, -0.8, 0.5, 0.1], dtype=DOUBLE)
    raw = torch.tensor([0.5, -0.2, 0.7, 0.4], dtype=DOUBLE, requires_grad=True)
    kappa = torch.tensor(6.0, dtype=DOUBLE, requires_grad=True)
    many, mu = kappa.expand(n), torch.nn.functional.normalize(raw, dim=0)
    wide = mu.expand(n, -1)
    z, _ = VonMisesFisher(wide, many).rsample_and_log_prob()
    per_draw, per_mu = torch.autograd.grad((z @ target).sum(), (many, wide), retain_graph=True)
    closed = mean_length(kappa.unsqueeze(0), 4)[0] * (mu @ target)
    by_kappa, by_raw = torch.autograd.grad(closed, (kappa, raw), retain_graph=True)
    error = float(per_draw.std()) / math.sqrt(n)
    assert abs(float(per_draw.mean() - by_kappa)) < 5 * error and error < 0.2 * abs(float(by_kappa))
    (found,) = torch.autograd.grad(mu @ per_mu.mean(0), raw)
    assert torch.allclose(found, by_raw, atol=5 * float(per_mu.std()) / math.sqrt(n))


def test_the_uniform_sphere_is_a_density_and_the_prior_of_these_alone():
    prior = UniformSphere(4).double()
    z = prior.sample(5000, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(z.norm(dim=1), torch.ones(5000, dtype=DOUBLE))
    assert z.mean(0).abs().max() < 5 * 0.5 / math.sqrt(5000)  # the variance of each is 1/4
    assert torch.allclose(prior.log_prob(z), torch.full((5000,), -math.log(2 * math.pi**2), dtype=DOUBLE))
    for options, word in [
        ({"posterior": "vmf", "prior": "normal"}, "on the sphere"),
        ({"latent_features": 1}, "features=2"),
    ]:
        with pytest.raises(ConfigError, match=word):
            SVAE(3, **options)
    with pytest.raises(ConfigError, match="in space"):
        VAE(3, prior="sphere", posterior="iaf")
    # Raised to any power a uniform density stays what it is.
    plain, cold = (SVAE(3, 3).draw(4, torch.Generator().manual_seed(0), t)[1] for t in (1.0, 0.1))
    assert torch.equal(plain, cold)


@pytest.mark.parametrize("name", KINDS)
def test_a_model_on_the_sphere(name):
    torch.manual_seed(0)
    model = SVAE(3, 4, posterior=name, draws=4)
    x = torch.randn(20, 3)
    model.objective(x).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    whole = model.log_prob(x)
    assert torch.allclose(whole[3:5], model.log_prob(x[3:5]), atol=1e-5)  # its noise is the row's own
    assert torch.allclose(model.blend(x, x.flip(0), 0.3).norm(dim=1), torch.ones(20), atol=1e-5)
    _, z = model.draw(6)
    assert torch.allclose(z.norm(dim=1), torch.ones(6), atol=1e-5)
    assert model.latent_cost(x).shape == (20,) and POSTERIORS[name].closed_kl
