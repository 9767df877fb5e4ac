"""HMC and Langevin against the laws that they keep: energy, reversal, detailed balance, stationary moments.

Statistical bounds are five standard errors: a false alarm in 1e-6.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modeflow.densities.steps import DualAveraging, at, hmc_step, langevin_step, leapfrog
from modeflow.errors import ConfigError
from modeflow.inference import hmc, langevin, named_target, r_hat

DOUBLE = torch.float64
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=DOUBLE)
PRECISION = torch.linalg.inv(COVARIANCE)
ONE = torch.ones((), dtype=DOUBLE)


def gaussian(x):
    return -0.5 * ((x @ PRECISION.to(x)) * x).sum(1)


def exact(n, seed=0):
    noise = torch.randn(n, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
    return noise @ torch.linalg.cholesky(COVARIANCE).T


def close_moments(x, covariance, mean=0.0):
    """Mean and covariance of independent Gaussian rows, within five standard errors each."""
    n = len(x)
    off = (x.mean(0) - mean).abs() / (covariance.diagonal() / n).sqrt()
    seen = torch.cov(x.T)
    variance = (covariance.square() + torch.outer(covariance.diagonal(), covariance.diagonal())) / n
    assert float(off.max()) < 5
    assert float(((seen - covariance).abs() / variance.sqrt()).max()) < 5


# -- integrator ------------------------------------------------------------------------------------


def energy(place, momentum, inverse_mass):
    return -place.log_prob + 0.5 * (momentum.square() * inverse_mass).sum(1)


@pytest.mark.parametrize("name", ["funnel", "banana", "u3"])
def test_leapfrog_goes_back_and_keeps_the_energy_to_second_order(name):
    target = named_target(name)
    start = at(target.log_prob, target.sample(200, torch.Generator().manual_seed(0)))
    momentum = torch.randn(200, 2, dtype=DOUBLE)
    mass = torch.tensor([0.5, 2.0], dtype=DOUBLE)
    errors = []
    for halvings in (0, 1):
        size = ONE * 1e-3 / 2**halvings
        end, p = leapfrog(target.log_prob, start, momentum, size, 20 * 2**halvings, mass)
        back, q = leapfrog(target.log_prob, end, -p, size, 20 * 2**halvings, mass)
        assert torch.allclose(back.x, start.x, atol=1e-9) and torch.allclose(-q, momentum, atol=1e-9)
        errors.append((energy(end, p, mass) - energy(start, momentum, mass)).abs())
    ratio = (errors[0].sum() / errors[1].sum()).item()
    assert ratio == pytest.approx(4, rel=0.02)
    assert float(errors[1].max()) < 1e-2


def test_leapfrog_keeps_volume():
    """The determinant of the map of (x, p), by central differences, is one."""
    log_prob = named_target("banana", scale=1.0, curvature=0.3).log_prob
    here = torch.tensor([0.3, -0.2, 0.5, 0.7], dtype=DOUBLE)
    moves = 1e-5 * torch.cat((torch.eye(4), -torch.eye(4))).double()
    x, p = (here + moves).split(2, 1)
    end, momentum = leapfrog(log_prob, at(log_prob, x), p, 0.4 * ONE, 3, torch.tensor([0.5, 2.0]).double())
    ahead, behind = torch.cat((end.x, momentum), 1).split(4)
    jacobian = (ahead - behind) / 2e-5
    assert float((jacobian - torch.eye(4)).abs().max()) > 0.3
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-7)


# -- one transition at stationarity ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hmc", "mala"])
def test_a_transition_keeps_the_target(kind):
    """From exact draws, with steps so large that a third is refused: without that refusal it would not."""
    generator = torch.Generator().manual_seed(1)
    place = at(gaussian, exact(40_000))
    for _ in range(3):
        if kind == "hmc":
            moved = hmc_step(gaussian, place, 1.3 * ONE, 3, torch.tensor([1.0, 0.8], dtype=DOUBLE), generator)
        else:
            moved = langevin_step(
                gaussian, place, 0.6 * ONE, torch.tensor([1.0, 1.5]).double(), True, generator
            )
        place = moved.place
    assert 0.3 < float(moved.acceptance.mean()) < 0.9
    assert float(moved.taken.double().mean()) == pytest.approx(float(moved.acceptance.mean()), abs=0.02)
    assert torch.allclose(place.log_prob, gaussian(place.x)) and torch.allclose(
        place.grad, -place.x @ PRECISION
    )
    close_moments(place.x, COVARIANCE)


def test_detailed_balance_between_halves():
    """As many go from left to right as back, of a target that is not symmetric."""
    target = named_target("mixture", means=[[-1.0], [1.5]], sds=[0.5, 1.0], weights=[1, 2])
    generator = torch.Generator().manual_seed(2)
    x = target.sample(40_000, generator)
    moved = hmc_step(target.log_prob, at(target.log_prob, x), 0.8 * ONE, 2, ONE, generator)
    before, after = x[:, 0] > 0, moved.place.x[:, 0] > 0
    there, back = int((~before & after).sum()), int((before & ~after).sum())
    assert there > 2000
    assert abs(there - back) < 5 * math.sqrt(there + back)


# -- stationary laws ---------------------------------------------------------------------------------


def test_unadjusted_langevin_has_its_law_at_every_step():
    r"""``x' = A x + √(2η) ξ``, A = I - ηΛ: N(A^K m, 2η Σ A^{2j}), and at last ``Λ^{-1} (I - ηΛ/2)^{-1}``."""
    eta = 0.3
    generator = torch.Generator().manual_seed(3)
    start = torch.tensor([2.0, -1.0], dtype=DOUBLE)
    a = torch.eye(2, dtype=DOUBLE) - eta * PRECISION
    chains = langevin(gaussian, start.repeat(20_000, 1), step_size=eta, draws=2, thin=3, generator=generator)
    power, spread = torch.eye(2, dtype=DOUBLE), torch.zeros(2, 2, dtype=DOUBLE)
    for samples in chains.samples:
        for _ in range(3):
            power, spread = a @ power, a @ spread @ a + 2 * eta * torch.eye(2, dtype=DOUBLE)
        close_moments(samples, spread, power @ start)
    late = langevin(gaussian, chains.last, step_size=eta, draws=1, thin=60, generator=generator)
    stationary = torch.linalg.inv(PRECISION @ (torch.eye(2, dtype=DOUBLE) - eta * PRECISION / 2))
    close_moments(late.last, stationary)
    assert float((stationary - COVARIANCE).abs().max()) > 0.1
    assert bool((late.acceptance == 1).all())


@pytest.mark.parametrize("mass", [None, "adapt"])
def test_hmc_finds_a_gaussian_from_far_away(mass):
    scale = torch.tensor([0.05, 20.0], dtype=DOUBLE)

    def stretched(x):
        return gaussian(x / scale.to(x)) if mass else gaussian(x)

    by = scale if mass else torch.ones(2, dtype=DOUBLE)
    start = by * (3 + torch.randn(800, 2, dtype=DOUBLE))
    generator = torch.Generator().manual_seed(4)
    chains = hmc(
        stretched, start, draws=2, warmup=300, thin=10, mass=mass, leapfrog_steps=6, generator=generator
    )
    close_moments(chains.last / by, COVARIANCE)
    assert float(chains.acceptance.mean()) == pytest.approx(0.8, abs=0.1)
    assert int(chains.divergences.sum()) == 0 and chains.samples.shape == (2, 800, 2)
    if mass:
        assert torch.allclose(chains.scale, scale.square() * COVARIANCE.diagonal(), rtol=0.25)


@pytest.mark.parametrize(("kind", "target"), [("hmc", 0.67), ("mala", 0.574)])
def test_the_step_is_adapted_to_the_acceptance(kind, target):
    """In 20 dimensions, where the acceptance falls slowly with the step."""
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(200, 20, dtype=DOUBLE)
    common = {"draws": 30, "warmup": 200, "target_acceptance": target, "generator": generator}
    if kind == "hmc":
        chains = hmc(lambda x: -0.5 * x.square().sum(1), start, leapfrog_steps=3, step_size=10.0, **common)
    else:
        chains = langevin(lambda x: -0.5 * x.square().sum(1), start, step_size=1e-4, adjusted=True, **common)
    assert float(chains.acceptance.mean()) == pytest.approx(target, abs=0.1)
    assert chains.step_size.dim() == 0


def test_r_hat_tells_chains_that_have_mixed():
    """Of independent draws one, up to 1/√n; of chains at other places, and of a drift, what it must be."""
    x = torch.randn(2000, 10, 2, dtype=DOUBLE)
    assert float((r_hat(x) - 1).abs().max()) < 0.01
    apart = x + torch.linspace(-1.5, 1.5, 10).double()[:, None]
    place = torch.linspace(-1.5, 1.5, 10).double().repeat(2)
    assert r_hat(apart).tolist() == pytest.approx([math.sqrt(1 + float(place.var()))] * 2, rel=0.02)
    drift = x + torch.linspace(-2, 2, 2000).double()[:, None, None]
    assert float(r_hat(drift).min()) > 1.3


def test_each_row_may_be_a_target_of_its_own():
    """p(z | x_i) for every i, of widths from 0.01 to 10, with a step for each."""
    width = torch.logspace(-2, 1, 100, dtype=DOUBLE).unsqueeze(1)
    place = torch.linspace(-5, 5, 100, dtype=DOUBLE).unsqueeze(1)

    def log_prob(z):
        return -0.5 * ((z - place) / width).square().sum(1)

    start = place + width * torch.randn(100, 20, dtype=DOUBLE)
    sizes = torch.full((100,), 0.1, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(6)
    chains = hmc(
        log_prob, start, step_size=sizes, leapfrog_steps=3, draws=40, warmup=200, generator=generator
    )
    # Steps in the proportion of the widths, and the acceptance asked for in every row.
    steps = (chains.step_size / width.flatten()).log()
    assert float(steps.std()) < 0.2
    assert float((chains.acceptance - 0.8).abs().max()) < 0.2
    z = ((chains.last - place) / width).flatten()
    assert abs(float(z.mean())) < 5 / math.sqrt(2000) and abs(float(z.var()) - 1) < 5 * math.sqrt(2 / 2000)


# -- manners -----------------------------------------------------------------------------------------


def test_no_state_is_left_and_gradients_are_taken_where_they_are_off():
    net = nn.Linear(2, 1)

    def log_prob(x):
        return -0.5 * x.square().sum(1) + net(x).squeeze(1)

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        first = hmc(log_prob, torch.zeros(3, 2), draws=3, warmup=4, generator=generator)
        return first.samples, langevin(
            log_prob, first.last, step_size=0.01, draws=2, generator=generator
        ).last

    before = torch.get_rng_state()
    expected = run(0)
    with torch.no_grad():
        again = run(0)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        more = run(0)
    for a, b, c in zip(expected, again, more, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c) and not a.requires_grad
    assert not torch.equal(run(1)[0], expected[0])
    assert torch.equal(before, torch.get_rng_state())
    assert net.weight.grad is None


def test_chains_stay_where_there_is_density():
    """A target with edges and one that overflows: what leaves is refused, and counted."""

    def log_prob(x):
        inside = (x.abs() < 1).all(1)
        return torch.where(inside, -x.square().sum(1), -torch.inf)

    chains = hmc(log_prob, torch.zeros(50, 2), draws=20, warmup=0, step_size=0.4)
    assert float(chains.flat().abs().max()) < 1 and int(chains.divergences.sum()) > 0
    steep = hmc(lambda x: -(x**4).sum(1), torch.ones(5, 2), draws=5, warmup=0, step_size=1e30)
    assert bool((steep.last == 1).all()) and bool((steep.divergences == 5).all())
    images = langevin(lambda x: -x.square().flatten(1).sum(1), torch.zeros(4, 3, 5), step_size=0.1, draws=2)
    assert images.samples.shape == (2, 4, 3, 5) and images.flat().shape == (8, 3, 5)


CALLS = {
    "mass": (lambda: hmc(gaussian, torch.zeros(2, 2), mass="full"), "mass must be 'adapt'"),
    "steps": (lambda: hmc(gaussian, torch.zeros(2, 2), draws=0), "draws must be an integer of 1 or more"),
    "size": (lambda: langevin(gaussian, torch.zeros(2, 2), step_size=-1.0), "step_size must be above 0"),
    "sizes": (lambda: hmc(gaussian, torch.zeros(2, 2), step_size=torch.ones(3)), "one number or (2,)"),
    "acceptance": (lambda: hmc(gaussian, torch.zeros(2, 2), target_acceptance=1.0), "must lie in (0, 1)"),
    "warm-up": (lambda: hmc(gaussian, torch.zeros(2, 2), warmup=-1), "warmup must be 0 or more"),
    "whole numbers": (lambda: hmc(gaussian, torch.zeros(2, 2).long()), "rows (B, *event) of numbers"),
    "a list": (lambda: hmc(gaussian, [[0.0, 0.0]]), "start must be a tensor, received list"),
    "outside": (
        lambda: hmc(lambda x: x.sum(1).log(), torch.tensor([[1.0], [-1.0]])),
        "start row 1 has no density",
    ),
    "few": (lambda: r_hat(torch.zeros(3, 2, 1)), "4 samples of each chain"),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_are_one_line(name):
    call, message = CALLS[name]
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_dual_averaging_solves_for_the_step():
    """Of an acceptance that is known, exp(-ε): 0.8 at ε = 0.223; of each chain its own."""
    for start in (torch.tensor(3.0, dtype=DOUBLE), torch.tensor([1e-3, 50.0], dtype=DOUBLE)):
        found = DualAveraging(start, 0.8)
        for _ in range(2000):
            found.update(torch.exp(-found.now).expand(2))
        assert torch.allclose(found.settled(), torch.full_like(start, -math.log(0.8)), rtol=0.05)


def test_against_blackjax():
    """The same target and the same step: mean acceptance and moments agree."""
    blackjax = pytest.importorskip("blackjax")
    import jax

    precision = jax.numpy.array(PRECISION.numpy(), dtype="float32")
    sampler = blackjax.hmc(lambda x: -0.5 * x @ precision @ x, 1.0, jax.numpy.ones(2), 3)
    start = exact(4_000)
    state = jax.vmap(sampler.init)(jax.numpy.array(start.numpy(), dtype="float32"))
    rates = []
    for key in jax.random.split(jax.random.PRNGKey(0), 5):
        state, info = jax.jit(jax.vmap(sampler.step))(jax.random.split(key, 4_000), state)
        rates.append(torch.tensor([float(r) for r in info.acceptance_rate]))
    place = at(gaussian, start)
    generator = torch.Generator().manual_seed(7)
    ours = []
    for _ in range(5):
        moved = hmc_step(gaussian, place, ONE, 3, ONE, generator)
        place = moved.place
        ours.append(moved.acceptance)
    theirs, ours = torch.cat(rates).double(), torch.cat(ours)
    error = math.hypot(float(theirs.std()), float(ours.std())) / math.sqrt(4_000)
    assert abs(float(theirs.mean() - ours.mean())) < 5 * error
    close_moments(torch.tensor(state.position.tolist(), dtype=DOUBLE), COVARIANCE)
    close_moments(place.x, COVARIANCE)
