"""Langevin posteriors: the laws of their chains, what bounds with them, and rows that are not whole."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modeflow.densities import BernoulliDecoder, Flow, GaussianDecoder, StandardNormal
from modeflow.densities.steps import at, langevin_step
from modeflow.errors import ConfigError
from modeflow.latents import (
    ContinuousELBO,
    ContinuousLatentModel,
    Langevin,
    LangevinPosterior,
    build_posterior,
)
from modeflow.latents.langevin import (
    EncodedLangevinPosterior,
    curvature,
    log_joint_of,
)
from modeflow.latents.last_layer import AmortisedLangevinPosterior
from modeflow.models import LAE, VAE, LatentFlow
from modeflow.nets import MLP
from modeflow.testing import perturb
from modeflow.transforms import ActNorm

DOUBLE = torch.float64
D, L, SCALE = 3, 2, 0.8
NAN = float("nan")


def rows(n: int, seed: int = 2) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def linear() -> GaussianDecoder:
    decoder, numbers = GaussianDecoder(D, L, (), scale=SCALE).double(), 0.7 * rows(3, 4)
    with torch.no_grad():
        decoder.net.final.weight.copy_(numbers[:, :L])
        decoder.net.final.bias.copy_(numbers[:, L])
    return decoder


def exact(x: Tensor, seen: list[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Of `linear` and N(0, I): posterior means, the precision, ``log p`` of the columns that are seen."""
    net = linear().net.final
    w, b = (p.detach()[seen or [0, 1, 2]] for p in (net.weight, net.bias))
    x = x[:, seen or [0, 1, 2]]
    precision = torch.eye(L, dtype=DOUBLE) + w.T @ w / SCALE**2
    mean = ((x - b) @ w / SCALE**2) @ torch.linalg.inv(precision)
    covariance = w @ w.T + SCALE**2 * torch.eye(len(w), dtype=DOUBLE)
    return mean, precision, torch.distributions.MultivariateNormal(b, covariance).log_prob(x)


def agree(z: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Moments of draws ``(N, L)``: every score of a normal below five, a false alarm in 300,000."""
    n = len(z)
    assert ((z.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
    variances = covariance.diagonal().outer(covariance.diagonal()) + covariance.square()
    assert ((z.T.cov() - covariance).abs() < 5 * (variances / n).sqrt()).all()


@pytest.mark.parametrize("steps", [1, 5, 200])
def test_the_law_after_k_steps(steps):
    torch.manual_seed(0)
    x, eta, n = rows(1), 0.1, 8000
    posterior = LangevinPosterior(L, MLP, Langevin(steps, eta)).train()
    (z,) = posterior.chain(x.expand(n, -1), linear(), StandardNormal(L).double())
    mean, precision, _ = exact(x)
    a = torch.eye(L, dtype=DOUBLE) - eta * precision
    power = torch.linalg.matrix_power
    covariance = power(a, 2 * steps) + 2 * eta * sum(power(a, 2 * j) for j in range(steps))
    agree(z, mean[0] - power(a, steps) @ mean[0], covariance)
    if steps == 200:  # the stationary law of unadjusted steps
        wide = torch.linalg.inv(precision @ (torch.eye(L, dtype=DOUBLE) - eta * precision / 2))
        assert torch.allclose(covariance, wide, atol=1e-9)


def test_accepted_by_metropolis_the_law_is_the_posterior():
    torch.manual_seed(0)
    x = rows(1)
    posterior = LangevinPosterior(L, MLP, Langevin(60, 0.25, adjusted=True)).train()
    (z,) = posterior.chain(x.expand(8000, -1), linear(), StandardNormal(L).double())
    mean, precision, _ = exact(x)
    agree(z, mean[0], torch.linalg.inv(precision))


def test_a_step_that_is_not_given_finds_its_own():
    """From too small a one, and from one at which chains diverge, to the same; one that is given stays."""
    torch.manual_seed(0)
    x = rows(64)
    likelihood, prior = linear(), StandardNormal(L).double()
    mean, precision, _ = exact(x)
    found = []
    for eta in (0.1, 3.0):
        posterior = LangevinPosterior(L, MLP, Langevin(3, eta, adapts=True)).double().train()
        for _ in range(150):
            posterior.chain(x, likelihood, prior)
        found.append(float(posterior.log_step))
        before = posterior.log_step.clone()
        posterior.eval().chain(x, likelihood, prior)
        assert torch.equal(posterior.log_step, before)
    assert abs(found[0] - found[1]) < 0.2
    z = (
        mean
        + torch.linalg.solve_triangular(
            torch.linalg.cholesky(precision).mT, torch.randn(L, 64, dtype=DOUBLE), upper=True
        ).mT
    )
    log_joint = log_joint_of(x, likelihood, prior)
    size, ones = torch.tensor(found[0], dtype=DOUBLE).exp(), torch.ones(L, dtype=DOUBLE)
    rates = [
        float(langevin_step(log_joint, at(log_joint, z), size, ones, True).acceptance.mean())
        for _ in range(20)
    ]
    assert 0.35 < sum(rates) / 20 < 0.75  # z_K is not yet where the posterior is
    fixed = LangevinPosterior(L, MLP, Langevin(5, 0.1)).double().train()
    fixed.chain(x, likelihood, prior)
    assert float(fixed.log_step.exp()) == pytest.approx(0.1)
    assert VAE(D, L, posterior="langevin").encoder.langevin.adapts
    assert not VAE(D, L, posterior="langevin", langevin_step_size=0.01).encoder.langevin.adapts
    old = {k: v for k, v in VAE(D, L, posterior="langevin").state_dict().items() if "log_step" not in k}
    again = VAE(D, L, posterior="langevin", langevin_step_size=0.03)
    again.load_state_dict(old)  # a file of before it was adapted
    assert float(again.encoder.log_step.exp()) == pytest.approx(0.03)


# -- the last layer of an encoder -----------------------------------------------------------------


def moved_layers(g: Tensor, x: Tensor, eta: float, adjusted: bool, steps: int, chains: int = 3000) -> Tensor:
    """z of all rows after steps of Φ, ``(C, B L)``, of so many chains."""
    torch.manual_seed(0)
    lae = AmortisedLangevinPosterior(L, lambda n: MLP(D, n, (4,)))
    log_joint = lae.log_joint_of_layer(x, g, linear(), StandardNormal(L).double())
    place = at(log_joint, torch.randn(chains, L, g.shape[1], dtype=DOUBLE))
    size, ones = torch.tensor(eta, dtype=DOUBLE), torch.ones(L, g.shape[1], dtype=DOUBLE)
    for _ in range(steps):
        place = langevin_step(log_joint, place, size, ones, adjusted).place
    return (g @ place.x.mT).flatten(1)


def features(n: int, width: int) -> Tensor:
    g = torch.randn(n, width, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return g / g.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("adjusted", [True, False])
def test_of_independent_features_the_law_of_all_z_is_the_product_of_posteriors(adjusted):
    x, eta = rows(3), 0.1
    # Unadjusted the law is known where the features are orthonormal: every z moves by its own.
    g = features(3, 8) if adjusted else torch.linalg.qr(features(3, 8).T)[0].T
    z = moved_layers(g, x, eta, adjusted, 120 if adjusted else 60)
    mean, precision, _ = exact(x)
    inner = precision if adjusted else precision @ (torch.eye(L, dtype=DOUBLE) - eta * precision / 2)
    # Rows apart: covariances between them are zero.
    agree(z, mean.flatten(), torch.block_diag(*[torch.linalg.inv(inner)] * 3))


def test_of_more_rows_than_features_it_is_not():
    x, z = rows(3), moved_layers(features(3, 2), rows(3), 0.1, True, 60, 1000)
    _, precision, _ = exact(x)
    off = (z.T.cov() - torch.block_diag(*[torch.linalg.inv(precision)] * 3)).abs()
    assert off.max() > 0.1


def test_a_loss_moves_the_last_layer_and_no_optimiser_does():
    for adjusted in (True, False):
        torch.manual_seed(0)
        model, x = LAE(D, L, adjusted=adjusted, layer=True, draws=2), rows(16).float()
        q = model.encoder
        before, step = q.phi.clone(), float(q.log_step)
        model.train().objective(x).value.backward()
        assert not torch.equal(q.phi, before) and "encoder.phi" not in dict(model.named_parameters())
        assert torch.allclose(q.phi_mean, 0.99 * before + 0.01 * q.phi, atol=1e-6)
        assert (float(q.log_step) != step) == adjusted
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert torch.allclose(q.features_of(x).norm(dim=1), torch.ones(16), atol=1e-5)
        before = q.phi.clone()
        model.eval().objective(x)
        assert torch.equal(q.phi, before)


def test_the_scale_of_the_proposal_is_the_best_on_validation_rows():
    torch.manual_seed(0)
    model, x = perturb(LAE(D, L, layer=True, draws=2), 0.2, seed=1).double().eval(), rows(50)
    model.finish(x, x)
    best = float(model.elbo(x, 1).mean())
    for other in torch.linspace(math.log(0.01), 0, 13):
        model.encoder.log_tau.fill_(other)
        assert float(model.elbo(x, 1).mean()) <= best + 1e-12


# -- an encoder that learns where chains end ----------------------------------------------------------


def test_every_row_is_a_chain_of_its_own_and_the_encoder_learns_their_law():
    """Of a linear decoder p(z|x) is known: the chains have it, and the encoder's own loss leads to it."""
    torch.manual_seed(0)
    x = rows(1)
    mean, precision, _ = exact(x)
    covariance = torch.linalg.inv(precision)
    steps = Langevin(40, 0.25, adjusted=True)
    q = EncodedLangevinPosterior(L, lambda n: MLP(D, n, ()), steps).double().train()
    before = float(q.log_step)
    (z,) = q.chain(x.expand(8000, -1), linear(), StandardNormal(L).double())
    agree(z, mean[0], covariance)
    assert float(q.log_step) != before and not z.requires_grad
    adam = torch.optim.Adam(q.parameters(), 0.05)
    for _ in range(200):
        adam.zero_grad()
        loss = q.follow(x.expand(8000, -1), [z])
        loss.mean().backward()
        adam.step()
    found = q(x)
    # The best diagonal Gaussian of the forward divergence: marginal moments, not those given the others.
    assert torch.allclose(found.location[0], z.mean(0), atol=1e-2)
    assert torch.allclose(found.log_scale.exp()[0], z.std(0), atol=1e-2)


@pytest.mark.parametrize("adjusted", [True, False])
def test_only_training_adapts_the_step_and_a_row_has_a_chain_of_its_own(adjusted):
    torch.manual_seed(0)
    model, x = LAE(D, L, adjusted=adjusted, draws=2), rows(16).float()
    step = float(model.encoder.log_step)
    loss = model.train().objective(x)
    loss.value.backward()
    assert {"nll", "prior_nll", "encoder_nll"} == set(loss.terms)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    now = float(model.encoder.log_step)
    assert (now != step) == adjusted
    (all_rows,), (some,) = model.eval().chain(x), model.chain(x[3:5])
    assert torch.allclose(all_rows[3:5], some, atol=1e-5) and float(model.encoder.log_step) == now


# -- bounds ----------------------------------------------------------------------------------------


def test_the_curvature_is_that_of_autograd():
    model = perturb(LatentFlow(D, L, decoder_features=(8,)), 0.1, seed=3).double()
    x, z = rows(4), rows(4, 5)[:, :L]
    log_joint = log_joint_of(x, model.likelihood, model.prior)
    slope, factor = curvature(log_joint, z)
    for i in range(4):
        one = log_joint_of(x[i : i + 1], model.likelihood, model.prior)
        hessian = torch.autograd.functional.hessian(lambda z, one=one: one(z.unsqueeze(0)).sum(), z[i])
        values, vectors = torch.linalg.eigh(-hessian)
        expected = vectors @ torch.diag(values.abs().clamp_min(0.05)) @ vectors.T
        assert torch.allclose(factor[i] @ factor[i].T, expected, atol=1e-8)
        assert torch.allclose(
            slope[i], torch.autograd.functional.jacobian(lambda z, one=one: one(z[None]).sum(), z[i])
        )


def linear_flow(**options) -> ContinuousLatentModel:
    """A latent flow whose density is known: its prior N(0, I), its generator linear."""
    model = LatentFlow(D, L, prior="normal", decoder_features=(), draws=2, **options).double()
    model.likelihood = linear()
    return model.eval()


def test_of_a_linear_generator_the_bound_is_the_density_with_cells_missing_too():
    x = rows(20)
    for seen in ([0, 1, 2], [0, 2], [1]):
        holed = torch.full_like(x, NAN)
        holed[:, seen] = x[:, seen]
        model = linear_flow()
        assert (model.log_prob(holed) - exact(x, seen)[2]).abs().max() < 1e-9
        assert model.sums_out(holed).all() and model.exactness_of(holed) == "lower bound"
    assert not VAE(D, L).sums_out(holed).any()


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_what_is_missing_has_no_part_in_the_gradient_of_z(kind):
    decoder = (
        GaussianDecoder(D, L, (8,)) if kind == "gaussian" else BernoulliDecoder(MLP(L, D, (8,)), (D,), L)
    )
    decoder, x = perturb(decoder, 0.3, seed=1).double(), (rows(5) > 0).double()
    z = rows(5, 3)[:, :L].requires_grad_()
    jacobian = torch.zeros(5, L, dtype=DOUBLE)
    for j in (0, 2):  # of each column alone
        one = torch.full_like(x, NAN)
        one[:, j] = x[:, j]
        jacobian += torch.autograd.grad(decoder.log_prob(one, z).sum(), z)[0]
    holed = x.clone()
    holed[:, 1] = NAN
    (slope,) = torch.autograd.grad(decoder.log_prob(holed, z).sum(), z)
    assert torch.allclose(slope, jacobian, atol=1e-12) and slope.isfinite().all()


def test_missing_cells_are_drawn_from_their_conditional():
    model, n = linear_flow(langevin_steps=60, langevin_step_size=0.25, langevin_adjusted=True), 8000
    x = rows(1)
    holed = x.clone()
    holed[0, 1:] = NAN
    drawn = model.completions(holed, n, torch.Generator().manual_seed(0))[:, 0]
    assert (drawn[:, 0] == x[0, 0]).all()
    net = model.likelihood.net.final
    w, b = net.weight.detach(), net.bias.detach()
    c = w @ w.T + SCALE**2 * torch.eye(D, dtype=DOUBLE)
    mean = b[1:] + c[1:, 0] / c[0, 0] * (x[0, 0] - b[0])
    agree(drawn[:, 1:], mean, c[1:, 1:] - c[1:, :1] @ c[:1, 1:] / c[0, 0])
    with pytest.raises(ConfigError, match="cannot be drawn"):
        VAE(D, L).complete(holed.float())


def test_what_is_measured_of_z_takes_no_more_chains_for_more_rows(monkeypatch):
    """The mixture of q(z|x) is of the Gaussians that there are, not of new ones for every pair of rows."""
    from modeflow.latents import langevin

    calls, found = [], langevin.curvature
    monkeypatch.setattr(langevin, "curvature", lambda f, z: calls.append(len(z)) or found(f, z))
    model, counts = linear_flow(langevin_steps=2), []
    for n in (6, 24):
        calls.clear()
        measured = model.measure(rows(n))["continuous"]
        counts.append(len(calls))
    assert counts[0] == counts[1] < 10
    assert 0 < measured["mutual_information"] < math.log(24)


def test_images_with_hidden_pixels():
    model = LatentFlow(
        (1, 4, 4), 2, levels=3, halvings=1, decoder_channels=4, langevin_steps=2, draws=2
    ).eval()
    x = torch.randint(0, 3, (3, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    holed = x.clone()
    holed[:, :, :2] = NAN
    filled = model.complete(holed, torch.Generator().manual_seed(0))
    assert torch.equal(filled[:, :, 2:], x[:, :, 2:]) and ((filled >= 0) & (filled <= 2)).all()
    assert (model.log_prob(holed) > model.log_prob(x)).all() and model.reconstruct(x).shape == x.shape
    model.train().objective(holed).value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_learning_follows_the_two_halves_of_the_joint_density_at_where_chains_end():
    model = perturb(LatentFlow(D, L, decoder_features=(8,), scale="shared"), 0.1, seed=3).double().eval()
    x = rows(6)
    z = model.read(x)
    assert torch.equal(z, model.read(x)) and torch.allclose(z[2:4], model.read(x[2:4]), atol=1e-10)
    model.objective(x).value.backward()
    expected = -(model.likelihood.log_prob(x, z) + model.prior.log_prob(z)).mean()
    for p, g in zip(model.parameters(), torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(p.grad, g, atol=1e-10)
    assert torch.allclose(-model.joint_log_prob(x, z).mean(), expected)


def test_a_prior_learned_at_where_chains_end_is_the_aggregate_posterior():
    """A diagonal prior and a fixed linear generator: where EM, in closed form, stands still."""
    torch.manual_seed(0)
    prior = Flow(ActNorm(L), StandardNormal(L)).double()
    x = 2.5 * rows(100) + 1
    posterior = LangevinPosterior(L, MLP, Langevin(8, 0.25, adjusted=True))
    model = ContinuousLatentModel(prior, linear(), posterior, draws=2).train()
    optimiser, late = torch.optim.Adam(prior.parameters(), 0.1), []
    for step in range(70):
        optimiser.zero_grad()
        model.objective(x).value.backward()
        optimiser.step()
        if step >= 30:
            drawn = prior.sample(500, generator=torch.Generator().manual_seed(step)).detach()
            late.append(torch.stack([drawn.mean(0), drawn.var(0)]))
    w, b = linear().net.final.weight.detach(), linear().net.final.bias.detach()
    mean, variance = torch.zeros(L, dtype=DOUBLE), torch.ones(L, dtype=DOUBLE)
    for _ in range(300):
        narrow = torch.linalg.inv(torch.diag(1 / variance) + w.T @ w / SCALE**2)
        each = ((x - b) @ w / SCALE**2 + mean / variance) @ narrow
        mean, variance = each.mean(0), narrow.diagonal() + each.var(0, correction=0)
    found = torch.stack(late).mean(0)
    assert (variance - 1).abs().min() > 0.5  # N(0, I), where it began, is something else
    assert (found[0] - mean).abs().max() < 0.2 and ((found[1] / variance).log()).abs().max() < 0.2


def test_what_is_odd_comes_first_by_the_score_of_a_chain_as_by_the_density():
    from sklearn.metrics import average_precision_score

    torch.manual_seed(0)
    model, odd = linear_flow(langevin_steps=15, langevin_step_size=0.2), torch.arange(400) >= 320
    x = torch.cat([model.sample(320).double(), 3 * rows(80) + 1])
    oracle = average_precision_score(odd, -exact(x)[2])
    with torch.no_grad():
        bound, joint = -model.log_prob(x), -model.joint_log_prob(x, model.read(x))
    assert average_precision_score(odd, bound) == pytest.approx(oracle, abs=1e-6)
    assert oracle > 2 * 0.2 and average_precision_score(odd, joint) > oracle - 0.1


# -- refinement of any encoder -----------------------------------------------------------------------


@pytest.mark.parametrize("posterior", ["gaussian", "iaf"])
def test_steps_refine_what_an_encoder_says_and_leave_the_bound(posterior):
    torch.manual_seed(0)
    plain = perturb(VAE(D, L, posterior=posterior, draws=2), 0.3, seed=1).double().eval()
    torch.manual_seed(0)
    fine = VAE(D, L, posterior=posterior, draws=2, langevin_steps=50, langevin_step_size=0.02)
    fine = perturb(fine, 0.3, seed=1).double().eval()
    x = rows(60)
    for model in (plain, fine):  # an encoder that is wrong
        with torch.no_grad():
            model.encoder.net.final.bias += 3.0
    assert torch.equal(plain.log_prob(x), fine.log_prob(x))
    z, better = plain.read(x), fine.read(x)
    assert torch.equal(better, fine.read(x)) and torch.equal(better, fine.infer(x))
    assert fine.joint_log_prob(x, better).mean() > fine.joint_log_prob(x, z).mean() + 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VAE(D, L, langevin_step_size=0.1), "no use without langevin_steps"),
        (lambda: VAE(D, L, langevin_steps=0), "langevin_steps must be an integer of 1 or more"),
        (lambda: VAE(D, L, langevin_steps=2, langevin_step_size=0.0), "langevin_step_size must be above 0"),
        (lambda: VAE(D, L, posterior="vmf", langevin_steps=2), "on the sphere"),
        (lambda: LatentFlow(D, L, free_bits=0.1), "no use for free_bits"),
        (lambda: LAE(D, L, kl_warmup_steps=10), "no use for kl_warmup_steps"),
        (
            lambda: ContinuousLatentModel(
                StandardNormal(L), GaussianDecoder(D, L), build_posterior("langevin", L, D), ContinuousELBO()
            ),
            "learned by MCMCLikelihood",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
