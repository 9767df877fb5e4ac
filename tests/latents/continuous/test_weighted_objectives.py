"""Objectives of a continuous latent by weighted draws, where their expectations are integrals of two numbers.

With one z and two draws of it every expectation is an integral over two standard normal numbers, which
Gauss–Hermite quadrature does: that two estimators of a gradient agree on average is checked to rounding.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modeflow import NVF
from modeflow.densities import GaussianDecoder, StandardNormal
from modeflow.densities.sphere import UniformSphere
from modeflow.errors import ConfigError
from modeflow.latents import (
    CONTINUOUS_OBJECTIVES,
    CUBO,
    IWAE,
    POSTERIORS,
    ContinuousELBO,
    ContinuousLatentModel,
    RenyiBound,
    WakePhase,
    WakeSleep,
    approximate,
    build_posterior,
)
from modeflow.latents.continuous import power_mean
from modeflow.latents.langevin import ChainPosterior
from modeflow.latents.posteriors import DiagonalGaussian, FullGaussian
from modeflow.models import VAE, VLAE
from modeflow.testing import perturb

#: Of posteriors by chains z is learned by these, and by no bound.
OWN_BOUND = [
    name for name, kind in POSTERIORS.items() if not (issubclass(kind, ChainPosterior) or kind.point)
]
DOUBLE = torch.float64
D = 3
WEIGHTED = {
    "iwae": (IWAE, {}),
    "renyi": (RenyiBound, {"alpha": 0.4}),
    "renyi at one": (RenyiBound, {"alpha": 1.0}),
    "renyi beyond": (RenyiBound, {"alpha": 2.5}),
    "cubo": (CUBO, {"order": 1.8}),
    "wake": (WakePhase, {}),
}


class Linear(nn.Module):
    """q(z|x) = N(A x + b, diag s²), all learned."""

    def __init__(self, matrix: Tensor, variance: Tensor, off: float) -> None:
        super().__init__()
        self.matrix = nn.Parameter(matrix + off)
        self.bias = nn.Parameter(torch.full_like(variance, off))
        self.log_scale = nn.Parameter(0.5 * variance.log() + off)

    def forward(self, x: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(x @ self.matrix.T + self.bias, self.log_scale.expand(len(x), -1))


def linear_model(off: float = 0.0, latent: int = 1, objective=None, dtype=DOUBLE) -> ContinuousLatentModel:
    """x | z ~ N(W z, 1), z ~ N(0, I), q best of the diagonal ones, then moved by `off`."""
    w = torch.tensor([[1.5, 1.2], [0.8, 1.1], [1.0, 0.4]], dtype=DOUBLE)[:, :latent]
    likelihood = GaussianDecoder(D, latent, (), scale=1.0).double()
    with torch.no_grad():
        likelihood.net.final.weight.copy_(w)
        likelihood.net.final.bias.zero_()
    precision = torch.eye(latent, dtype=DOUBLE) + w.T @ w
    encoder = Linear(torch.linalg.solve(precision, w.T), 1 / precision.diagonal(), off)
    return ContinuousLatentModel(StandardNormal(latent), likelihood, encoder, objective, draws=8).to(dtype)


def some_rows(n: int = 20, dtype=DOUBLE) -> Tensor:
    return (1.5 * torch.randn(n, D, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)).to(dtype)


def weights_of(model: ContinuousLatentModel) -> Tensor:
    return model.likelihood.net.final.weight.detach()


def exact_log_prob(model: ContinuousLatentModel, x: Tensor) -> Tensor:
    w = weights_of(model)
    covariance = w @ w.T + torch.eye(D, dtype=x.dtype)
    return torch.distributions.MultivariateNormal(torch.zeros(D, dtype=x.dtype), covariance).log_prob(x)


def gradients(model: ContinuousLatentModel, value: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True, retain_graph=True)
    return {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)
    }


# -- the bounds


def test_a_power_mean_rises_with_its_power_and_is_smooth_where_it_is_computed_differently():
    logs = 3 * torch.randn(16, 50, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) - 400
    powers = [-3.0, -1.0, -1e-3, -1e-6, 0.0, 1e-6, 0.9e-3, 1.1e-3, 0.5, 1.0, 4.0]
    means = torch.stack([power_mean(logs, k) for k in powers])
    assert (means.diff(dim=0) > 0).all()
    # To the second order in k: m + k v / 2.
    middle, spread = logs.mean(0), logs.var(0, unbiased=False)
    assert torch.allclose(power_mean(logs, 1e-6), middle + 0.5e-6 * spread, rtol=0, atol=1e-9)
    below, above = power_mean(logs, 0.999e-3), power_mean(logs, 1.001e-3)
    assert torch.allclose(above - below, 1e-6 * spread, rtol=0.05, atol=1e-12)
    single = power_mean(logs.float() + 400, 1e-5)
    assert torch.allclose(single.double(), power_mean(logs + 400, 1e-5), atol=1e-5)


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
def test_with_the_exact_posterior_every_bound_is_the_density(dtype):
    model, x = linear_model(dtype=dtype).eval(), some_rows(dtype=dtype)
    truth = exact_log_prob(model, x)
    for found in (model.elbo(x), model.iwae(x), model.renyi(x, 0.3), model.renyi(x, 4.0), model.cubo(x, 3.0)):
        assert torch.allclose(found, truth, atol=1e-10 if dtype == DOUBLE else 1e-4)


def test_bounds_are_their_integrals():
    """With draws without end, by quadrature over z; each in its place below or above log p(x)."""
    model, x = linear_model(off=0.1).eval(), some_rows(6)
    truth = exact_log_prob(model, x)
    q = model.approximate_posterior(x)
    grid = torch.linspace(-12, 12, 4001, dtype=DOUBLE)

    def integral(power: float) -> Tensor:
        z = q.location + grid * q.log_scale.exp()  # (6, G)
        many = z.flatten().unsqueeze(1)
        joint = model.likelihood_log_prob(x.repeat_interleave(len(grid), 0), many) + model.prior.log_prob(
            many
        )
        noise = -0.5 * grid.square() - 0.5 * math.log(2 * math.pi)
        log_w = joint.view(6, -1) - (noise - q.log_scale)
        if power == 0:
            return (noise.exp() * log_w).sum(1) * (grid[1] - grid[0])
        return (torch.logsumexp(noise + power * log_w, 1) + (grid[1] - grid[0]).log()) / power

    exact = {k: integral(k) for k in (-1.0, 0.0, 0.5, 1.0, 2.0)}
    assert torch.allclose(exact[1.0], truth, atol=1e-9)
    assert (exact[-1.0] < exact[0.0]).all() and (exact[0.0] < exact[0.5]).all()
    assert (exact[0.5] < truth).all() and (truth < exact[2.0]).all()
    n = 20_000
    with torch.no_grad():
        many = x.repeat_interleave(n, 0)
        z, log_q = model.approximate_posterior(many).rsample_and_log_prob()
        draws = (model.likelihood_log_prob(many, z) + model.prior.log_prob(z) - log_q).view(6, n)
    for k, value in exact.items():
        found = power_mean(draws, k, dim=1)
        share = (k * draws).softmax(1)
        # Of the logarithm of a mean to the first order; 30 scores beyond 5: once in 60,000.
        error = draws.std(1) / math.sqrt(n) if k == 0 else (share - 1 / n).square().sum(1).sqrt() / abs(k)
        assert ((found - value).abs() < 5 * error).all()
    with torch.no_grad():
        assert torch.equal(model.renyi(x, 1.0, 50), model.elbo(x, 50))
        assert torch.equal(model.renyi(x, 0.0, 50), model.iwae(x, 50))
        assert torch.equal(model.cubo(x, 2.0, 50), model.renyi(x, -1.0, 50))


# -- the gradients


def held_noise(monkeypatch, noise: Tensor) -> None:
    """Draws of a Gaussian are from this, those of a row one behind the other."""
    monkeypatch.setattr(approximate, "standard_normal", lambda like: noise.to(like))


def quadrature(nodes: int = 80) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of standard normal numbers ``(N, 1)`` each, and their weights, which sum to one, ``(N,)``."""
    points, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    first, second = torch.cartesian_prod(points, points).T
    return first[:, None], second[:, None], torch.outer(weights, weights).flatten()


def expected_gradient(model, objective, x: Tensor, step, monkeypatch) -> dict[str, Tensor]:
    """Of a row, over two draws of z."""
    one, other, share = quadrature()
    held_noise(monkeypatch, torch.cat((one, other)))
    loss = objective(model, x.expand(len(share), -1), share * len(share), step)
    return gradients(model, loss.value)


@pytest.mark.parametrize("step", [None, 3])
@pytest.mark.parametrize("name", [*WEIGHTED, "elbo"])
def test_estimators_of_a_gradient_agree_on_average(name, step, monkeypatch):
    kind, options = WEIGHTED.get(name, (ContinuousELBO, {}))
    if step is not None:
        if kind in (CUBO, WakePhase):
            return
        options = {**options, "kl_warmup_steps": 10}  # β = 0.4
    model, x = linear_model(off=0.15), some_rows(1)
    other = "stl" if name == "elbo" else "dreg"
    plain, less = (
        expected_gradient(model, kind(train_draws=2, gradient=gradient, **options), x, step, monkeypatch)
        for gradient in ("total", other)
    )
    assert all(float(g.abs().max()) > 1e-3 for g in plain.values())
    for n, gradient in plain.items():
        assert torch.allclose(gradient, less[n], rtol=1e-6, atol=1e-7), n


@pytest.mark.parametrize("name", WEIGHTED)
def test_the_total_gradient_is_that_of_what_is_named(name, monkeypatch):
    kind, options = WEIGHTED[name]
    model, x = linear_model(off=0.2), some_rows(8)
    noise = torch.randn(3, 8, 1, generator=torch.Generator().manual_seed(6), dtype=DOUBLE)
    row_weight = torch.linspace(0.5, 1.5, 8, dtype=DOUBLE)
    held_noise(monkeypatch, noise.flatten(0, 1))
    loss = kind(train_draws=3, **options)(model, x, row_weight, None)
    found = gradients(model, loss.value)

    def log_weights(still: bool) -> tuple[Tensor, Tensor]:
        q, logs, log_qs = model.approximate_posterior(x), [], []
        for e in noise:
            z = q.location + q.log_scale.exp() * e
            z = z.detach() if still else z
            log_q = torch.distributions.Normal(q.location, q.log_scale.exp()).log_prob(z).sum(1)
            logs.append(model.likelihood_log_prob(x, z) + model.prior.log_prob(z) - log_q)
            log_qs.append(log_q)
        return torch.stack(logs), torch.stack(log_qs)

    power = 1 - options["alpha"] if kind is RenyiBound else 1.0
    moving, (still, log_q) = log_weights(False)[0], log_weights(True)
    climbed = -(row_weight * power_mean(moving, power)).mean()
    assert torch.allclose(loss.value, climbed) and torch.allclose(loss.terms["bound"], climbed)
    assert torch.allclose(loss.terms["nll"] + loss.terms["kl"], -(row_weight * moving.mean(0)).mean())
    of_likelihood = climbed if kind in (IWAE, RenyiBound) else -(row_weight * power_mean(still, 1.0)).mean()
    of_encoder = climbed
    if kind in (CUBO, WakePhase):
        n = options.get("order", 1.0)
        steep = (n - 1) / n if kind is CUBO else 1.0
        of_encoder = -(row_weight * steep * ((n * still).softmax(0).detach() * log_q).sum(0)).mean()
    expected = {n: g for n, g in gradients(model, of_likelihood).items() if not n.startswith("encoder")}
    expected |= {n: g for n, g in gradients(model, of_encoder).items() if n.startswith("encoder")}
    for n, gradient in expected.items():
        assert torch.allclose(found[n], gradient, atol=1e-10), n
    # What moves the likelihood is the same, however that to q is estimated.
    held_noise(monkeypatch, noise.flatten(0, 1))
    dreg = gradients(model, kind(train_draws=3, gradient="dreg", **options)(model, x, row_weight, None).value)
    assert all(torch.allclose(dreg[n], g) for n, g in expected.items() if not n.startswith("encoder"))


def test_the_gradient_of_an_upper_bound_is_its_own_with_draws_without_end():
    """CUBO in closed form by quadrature over z, differentiated; and the same gradient from 200,000 draws."""
    n, order = 200_000, 2.0
    model, x = linear_model(off=0.1), some_rows(1)
    q = model.approximate_posterior(x)
    grid = torch.linspace(-12, 12, 4001, dtype=DOUBLE)
    z = (q.location + grid * q.log_scale.exp()).detach().T
    joint = model.likelihood_log_prob(x.expand(len(z), -1), z) + model.prior.log_prob(z)
    log_q = torch.distributions.Normal(q.location, q.log_scale.exp()).log_prob(z).squeeze(1)
    bound = torch.logsumexp(order * joint + (1 - order) * log_q, 0) / order
    expected = gradients(model, bound)
    for gradient in ("total", "dreg"):
        torch.manual_seed(0)
        loss = CUBO(order, train_draws=n, gradient=gradient)(model, x, None, None)
        found = gradients(model, loss.value)
        for name in ("encoder.net.bias", "encoder.net.log_scale"):
            error = 0.02 if gradient == "total" else 0.005
            assert abs(float(found[name] - expected[name])) < error, (gradient, name)
            assert abs(float(expected[name])) > 0.05


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32])
@pytest.mark.parametrize("name", [*WEIGHTED, "elbo"])
def test_at_the_exact_posterior_the_gradient_to_q_is_zero_and_not_only_on_average(name, dtype):
    kind, options = WEIGHTED.get(name, (ContinuousELBO, {}))
    model, x = linear_model(dtype=dtype), some_rows(dtype=dtype)

    def of_encoder(gradient: str) -> float:
        torch.manual_seed(0)
        value = kind(train_draws=4, gradient=gradient, **options)(model, x, None, None).value
        found = gradients(model, value)
        return max(float(g.abs().max()) for n, g in found.items() if n.startswith("encoder"))

    assert of_encoder("stl" if name == "elbo" else "dreg") < (1e-13 if dtype == DOUBLE else 1e-5)
    assert of_encoder("total") > 0.01


def test_the_signal_of_the_total_gradient_drowns_as_draws_are_added():
    """Rainforth et al. 2018: its ratio of mean to noise falls like 1/sqrt(S), the other's rises."""
    model, x = linear_model(off=0.3), some_rows(1).expand(4000, -1)
    each = model.encoder.net.log_scale = nn.Parameter(model.encoder.net.log_scale.detach().expand(4000, -1))

    def signal(gradient: str, draws: int) -> float:
        torch.manual_seed(1)
        value = IWAE(train_draws=draws, gradient=gradient)(model, x, None, None).value
        (found,) = torch.autograd.grad(value, each)  # a gradient a row: 4,000 of one
        return float(found.mean().abs() / found.std())

    assert signal("dreg", 64) > 2 * signal("dreg", 4)
    assert signal("total", 64) < 0.6 * signal("total", 4)


@pytest.mark.parametrize("name", OWN_BOUND)
def test_the_density_of_a_draw_moves_with_it_and_with_what_it_is_of(name):
    """What sticking the landing takes off and leaves adds up, for every posterior."""
    latent = 3
    made = perturb(build_posterior(name, latent, D, (8,)), 0.3, seed=1).double()
    decoder = perturb(GaussianDecoder(D, latent, (8,)), 0.3, seed=2).double()
    prior = UniformSphere(latent) if POSTERIORS[name].support == "sphere" else StandardNormal(latent)
    q = made.approximate(some_rows(5), decoder, prior.double())
    z, log_q = q.rsample_and_log_prob()
    parameters = [p for p in made.parameters() if p.requires_grad]
    whole = torch.autograd.grad(log_q.sum(), parameters, retain_graph=True, allow_unused=True)
    again = torch.autograd.grad(q.log_prob(z).sum(), parameters, retain_graph=True, allow_unused=True)
    still = torch.autograd.grad(q.log_prob(z.detach()).sum(), parameters, allow_unused=True)
    assert max(float(g.abs().max()) for g in still if g is not None) > 1e-3
    for a, b in zip(whole, again, strict=True):
        assert (a is None) == (b is None) or float((a if b is None else b).abs().max()) < 1e-12
        assert a is None or b is None or torch.allclose(a, b, atol=1e-7)


# -- what they fit


def test_what_each_makes_of_a_posterior_that_it_cannot_be():
    """A diagonal q of a correlated posterior: the divergence decides whether it sits inside or covers."""
    x = some_rows(1).expand(64, -1)

    def spread(objective) -> Tensor:
        torch.manual_seed(0)
        model = linear_model(off=0.1, latent=2, objective=objective)
        optimiser = torch.optim.Adam(model.encoder.parameters(), lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 150)
        for _ in range(150):
            optimiser.zero_grad()
            model.objective(x).value.backward()
            optimiser.step()
            schedule.step()
        return torch.exp(2 * model.encoder.net.log_scale.detach())

    w = weights_of(linear_model(latent=2))
    precision = torch.eye(2, dtype=DOUBLE) + w.T @ w
    inside, covering = 1 / precision.diagonal(), torch.linalg.inv(precision).diagonal()
    assert (covering > 1.3 * inside).all()
    assert torch.allclose(spread(ContinuousELBO(gradient="stl")), inside, rtol=0.02)
    assert torch.allclose(spread(WakePhase(train_draws=32)), covering, rtol=0.1)
    assert torch.allclose(spread(WakeSleep(train_draws=32)), covering, rtol=0.1)
    assert torch.allclose(spread(WakeSleep(sleep_share=1.0, train_draws=1)), covering, rtol=0.15)
    assert (spread(CUBO(train_draws=32, gradient="dreg")) > 1.02 * covering).all()
    between = spread(RenyiBound(alpha=0.5, train_draws=32, gradient="dreg"))
    assert (between > 1.05 * inside).all() and (between < covering).all()


@pytest.mark.parametrize("name", OWN_BOUND)
def test_models_take_them_by_name(name):
    x = some_rows(12, torch.float32)
    for objective, kind in CONTINUOUS_OBJECTIVES.items():
        for gradient in kind.gradients:
            make = {"posterior": name, "objective": objective, "gradient": gradient, "train_draws": 2}
            if kind.alone and POSTERIORS[name].follows:
                with pytest.raises(ConfigError, match="made of the likelihood"):
                    VAE(D, 3, **make)
                continue
            model = perturb(VAE(D, 3, decoder_features=(8,), encoder_features=(8,), **make), 0.1)
            loss = model.objective(x, None, 0)
            loss.value.backward()
            parameters = [p for p in model.parameters() if p.requires_grad]
            assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters), (
                objective,
                gradient,
            )
            assert all(v.isfinite() and not v.requires_grad for v in loss.terms.values())


class Whole(nn.Module):
    """q(z|x) = N(A x + b, C Cᵀ), all learned."""

    def __init__(self, matrix: Tensor, covariance: Tensor) -> None:
        super().__init__()
        factor = torch.linalg.cholesky(covariance)
        self.matrix, self.bias = nn.Parameter(matrix), nn.Parameter(torch.zeros(len(matrix), dtype=DOUBLE))
        self.log_scale = nn.Parameter(factor.diagonal().log())
        self.below = nn.Parameter(factor / factor.diagonal().unsqueeze(1))

    def forward(self, x: Tensor) -> FullGaussian:
        shape = len(x), *self.below.shape
        location = x @ self.matrix.T + self.bias
        return FullGaussian(location, self.log_scale.expand(len(x), -1), self.below.expand(shape))


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_asleep_q_stands_still_at_the_posterior_and_nowhere_else(family, monkeypatch):
    """Dreams whose moments are those of p(x, z) to rounding: the gradient is then that of all dreams.

    It is zero at the exact posterior, and of a diagonal family at its mean and marginal variances.
    """
    torch.manual_seed(0)
    model = linear_model(latent=2, objective=WakeSleep(sleep_share=1.0))
    w = weights_of(model)
    covariance = torch.linalg.inv(torch.eye(2, dtype=DOUBLE) + w.T @ w)
    if family == "full":
        model.encoder.net = Whole(covariance @ w.T, covariance)
    else:
        with torch.no_grad():
            model.encoder.net.log_scale.copy_(0.5 * covariance.diagonal().log())
    noise = torch.randn(64, 2 + D, dtype=DOUBLE)
    noise = noise - noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / 64)).T
    z, e = noise.split([2, D], 1)
    monkeypatch.setattr(model.loss, "dream", lambda model, n: (z @ w.T + e, z))
    x = some_rows(8)

    def slopes() -> list[Tensor]:
        value = model.objective(x).value
        found = torch.autograd.grad(value, list(model.encoder.parameters()))
        return [g.tril(-1) if g.shape == (2, 2) else g for g in found]  # of C what counts is below

    assert max(float(g.abs().max()) for g in slopes()) < 1e-10
    for p in model.encoder.parameters():
        with torch.no_grad():
            p += 0.1
        assert max(float(g.abs().max()) for g in slopes()) > 1e-3
        with torch.no_grad():
            p -= 0.1


def test_dreams_are_draws_of_the_model_and_the_two_phases_add_up():
    torch.manual_seed(0)
    model = linear_model(off=0.1, latent=2)
    rows, z = WakeSleep().dream(model, 40_000)
    w = weights_of(model)
    both = torch.cat([z, rows], 1)
    exact = torch.cat([torch.eye(2, dtype=DOUBLE), w], 0)
    exact = exact @ exact.T + torch.diag(torch.tensor([0.0, 0, 1, 1, 1], dtype=DOUBLE))
    # Twenty numbers beyond five deviations: a false alarm in eighty thousand.
    deviation = torch.sqrt((exact.square() + torch.outer(exact.diagonal(), exact.diagonal())) / 40_000)
    assert ((torch.cov(both.T) - exact).abs() < 5 * deviation).all()
    x, dreams = some_rows(6), (rows[:6], z[:6])

    def of(objective) -> dict[str, Tensor]:
        objective.dream = lambda model, n: dreams
        model.loss = objective
        torch.manual_seed(1)
        loss = model.objective(x)
        assert torch.allclose(loss.value, loss.terms["bound"])  # what is shown
        return gradients(model, loss.value)

    for gradient in ("total", "dreg"):
        awake, asleep = (of(WakeSleep(share, 4, gradient)) for share in (0.0, 1.0))
        mixed, plain = of(WakeSleep(0.3, 4, gradient)), of(WakePhase(4, gradient))
        for name, value in mixed.items():
            assert torch.allclose(value, 0.7 * awake[name] + 0.3 * asleep[name], atol=1e-12)
            assert torch.allclose(awake[name], plain[name], atol=1e-12)
    with pytest.raises(ConfigError, match="sleep_share must lie from 0 to 1"):
        VAE(D, 2, objective="wake-sleep", sleep_share=1.5)
    with pytest.raises(ConfigError, match="no use for 'sleep_share'"):
        VAE(D, 2, objective="wake", sleep_share=0.5)


def test_in_one_line_and_in_an_estimator():
    assert VAE(D, 2, objective="renyi", alpha=0.5, gradient="dreg").loss.alpha == 0.5
    assert VLAE(D, 2, objective="iwae", train_draws=3).loss.train_draws == 3
    assert VAE((1, 8, 8), 2, levels=2, halvings=1, objective="wake").loss.gradient == "total"
    fitted = NVF(
        latent="continuous", likelihood="gaussian", max_epochs=2, random_state=0,
        latent_options={"objective": "cubo", "order": 3.0, "encoder_features": (8,), "draws": 2},
    ).fit(some_rows(120).numpy())  # fmt: skip
    assert np.isfinite(fitted.score_samples(some_rows(5).numpy())).all()
    assert fitted.model_.model.loss.power == 3.0
