"""Transport score climbing: what the forward divergence must find, and what a warp must not change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modeflow.densities import Flow, StandardNormal
from modeflow.densities.steps import at, hmc_step
from modeflow.errors import ConfigError
from modeflow.flows import CIF, NSF
from modeflow.inference import hmc, named_target, transport_score_climbing, warp
from modeflow.models import DiscreteNVF
from modeflow.testing import jacobian, perturb
from modeflow.transforms import ConditionalAffine

DOUBLE = torch.float64
CORRELATED = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=DOUBLE)


def gaussian(x):
    return -0.5 * ((x @ torch.linalg.inv(CORRELATED).to(x)) * x).sum(1)


def affine(features=2, context=0, full=False):
    return Flow(ConditionalAffine(features, context, full), StandardNormal(features), context).double()


# -- the warp ------------------------------------------------------------------------------------------


def test_the_warped_density_is_that_of_the_noise():
    """By the Jacobian of T; and, of a flow that is the target, a standard Gaussian up to log Z."""
    flow = perturb(NSF(2, layers=2, hidden_features=8), 0.3).double().eval()
    target = named_target("banana", scale=1.0)
    noise = torch.randn(6, 2, dtype=DOUBLE)
    noise.requires_grad_()
    z, _ = flow.transform.inverse(noise)
    by_hand = target.log_prob(z) + torch.linalg.slogdet(jacobian(z, noise))[1]
    assert torch.allclose(warp(target.log_prob, flow)(noise), by_hand, atol=1e-8)
    own = warp(flow.log_prob, flow)(noise)
    assert torch.allclose(own, flow.base.log_prob(noise), atol=1e-8)


def test_a_transition_in_noise_keeps_the_target():
    """Exact draws of a banana, two transitions in another flow's coordinates; five standard errors."""
    target, n = named_target("banana", scale=1.0, curvature=0.5), 20_000
    flow = perturb(NSF(2, layers=2, hidden_features=8), 0.1).double().eval()
    x = target.sample(n, torch.Generator().manual_seed(0))
    with torch.no_grad():
        noise = flow.transform(x)[0]
    generator, warped = torch.Generator().manual_seed(1), warp(target.log_prob, flow)
    place, one = at(warped, noise), torch.ones((), dtype=DOUBLE)
    for _ in range(2):
        moved = hmc_step(warped, place, 0.4 * one, 3, one, generator)
        place = moved.place
    assert 0.3 < float(moved.acceptance.mean()) < 0.95
    with torch.no_grad():
        z = flow.transform.inverse(place.x)[0]
    straight = torch.stack((z[:, 0], z[:, 1] - 0.5 * z[:, 0].square() + 0.5), 1)
    assert float((z - x).abs().mean()) > 0.2
    assert float(straight.mean(0).abs().max()) < 5 / math.sqrt(n)
    assert float((torch.cov(straight.T) - torch.eye(2)).abs().max()) < 5 * math.sqrt(2 / n)


# -- one target ----------------------------------------------------------------------------------------


def test_a_diagonal_flow_has_the_marginal_variances():
    """1 and 1, where the reverse divergence has 0.19; the error is that of 256 chains and their steps."""
    flow = affine()
    found = transport_score_climbing(
        gaussian, flow, chains=256, steps=200, options={"learning_rate": 0.04, "evaluation_draws": 2000}
    )
    assert (2 * flow.transform.table[0, 2:]).exp().tolist() == pytest.approx([1, 1], abs=0.12)
    assert float(torch.corrcoef(found.chains.T)[0, 1]) == pytest.approx(0.9, abs=0.06)
    assert found.acceptance == pytest.approx(0.67, abs=0.04)
    assert found.weights.elbo.value < found.weights.log_normalizer.value
    assert found.sample(5).shape == (5, 2) and found.log_prob(found.sample(5)).shape == (5,)


def test_a_full_flow_makes_the_target_its_noise():
    """Then the importance weights are all equal, and a step of 0.2 is always taken in noise."""
    flow = affine(full=True)
    found = transport_score_climbing(
        gaussian, flow, chains=256, steps=150, options={"learning_rate": 0.05, "evaluation_draws": 2000}
    )
    truth = math.log(2 * math.pi) + 0.5 * float(torch.linalg.slogdet(CORRELATED)[1])
    assert found.weights.log_normalizer.value == pytest.approx(truth, abs=0.01)
    assert found.weights.effective > 0.97 * 2000
    noise = torch.randn(200, 2, dtype=DOUBLE)
    chains = hmc(warp(gaussian, flow), noise, draws=5, warmup=0, step_size=0.2, leapfrog_steps=4)
    assert float(chains.acceptance.mean()) > 0.99


@pytest.mark.parametrize("name", ["funnel", "banana"])
def test_the_spreads_of_funnel_and_banana(name):
    """Known exactly: a funnel of 1 and e^0.36 (scale 0.6), a banana of 3 and 1.62."""
    target = (
        named_target(name, scale=0.6) if name == "funnel" else named_target(name, scale=3.0, curvature=0.1)
    )
    small = {"layers": 2, "hidden_features": 16, "blocks": 1}
    found = transport_score_climbing(
        target,
        "realnvp",
        steps=100,
        start=target.sample(100, torch.Generator().manual_seed(1)),
        flow_options=small,
        options={"learning_rate": 0.02, "most_leapfrog": 3, "evaluation_draws": 2000},
    )
    sds = found.sample(20_000, generator=torch.Generator().manual_seed(0)).double().std(0)
    assert torch.allclose(sds, target.marginal_sds, rtol=0.15)
    # The bound is none to speak of: where the forward divergence puts a little mass, p may have none at all.
    assert abs(found.weights.log_normalizer.value) < 0.05
    assert found.weights.effective > 0.5 * len(found.weights)


# -- amortised -----------------------------------------------------------------------------------------


def linear_model(n, seed=0):
    """``z ~ N(0, I)``, ``x | z ~ N(W z + b, s²)``: the posterior is N(m(x), S)."""
    w = torch.tensor([[1.0, 0.3], [-0.5, 1.0], [0.4, 0.8]], dtype=DOUBLE)
    b, s = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE), 0.7
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, dtype=DOUBLE, generator=generator)
    x = z @ w.T + b + s * torch.randn(n, 3, dtype=DOUBLE, generator=generator)
    covariance = torch.linalg.inv(torch.eye(2, dtype=DOUBLE) + w.T @ w / s**2)
    return w, b, s, x, covariance, lambda x: (x - b) @ w @ covariance / s**2


def test_every_row_has_its_posterior():
    """q(z | x) = N(A x + a, diag): A x + a is the exact mean; the variances are the marginal ones."""
    w, b, s, x, covariance, mean = linear_model(200)

    def joint(z, x):
        return -0.5 * (z.square().sum(1) + (x - b - z @ w.T).square().sum(1) / s**2)

    flow = affine(2, 4)
    context = torch.cat((x, torch.ones(200, 1, dtype=DOUBLE)), 1)
    found = transport_score_climbing(
        lambda z, c: joint(z, c[:, :3]), flow, x=context, steps=300,
        options={"learning_rate": 0.03, "batch_size": 100},
    )  # fmt: skip
    numbers = (context @ flow.transform.table).detach()
    assert float((numbers[:, :2] - mean(x)).abs().mean()) < 0.1
    variances = (2 * numbers[:, 2:]).exp().mean(0)
    assert torch.allclose(variances, covariance.diagonal(), rtol=0.25)
    assert found.weights is None and found.chains.shape == (200, 2)
    # The chains themselves are draws of each row's exact posterior: five standard errors.
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (found.chains - mean(x)).T, upper=False
    )
    assert float(z.mean(1).abs().max()) < 5 / math.sqrt(200)
    assert float((torch.cov(z) - torch.eye(2)).abs().max()) < 5 * math.sqrt(2 / 200)
    assert found.sample(3, context[:7]).shape == (3, 7, 2) and found.log_prob(z.T, context).shape == (200,)


def test_a_decoder_climbs_to_the_likeliest():
    """Of b in x | z ~ N(W z + b, s²) the likeliest is the mean of the rows (Fisher's identity)."""
    w, _, s, x, _, _ = linear_model(300, 1)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.b = nn.Parameter(torch.zeros(3, dtype=DOUBLE))

        def forward(self, z, x):
            return -0.5 * (z.square().sum(1) + (x - self.b - z @ w.T).square().sum(1) / s**2)

    decoder = Decoder()
    transport_score_climbing(
        decoder,
        affine(2, 3, True),
        x=x,
        steps=400,
        learn=decoder,
        options={"learning_rate": 0.05, "batch_size": 300},
    )
    assert torch.allclose(decoder.b, x.mean(0), atol=0.12)
    assert float((x.mean(0)).abs().max()) > 1


# -- manners -------------------------------------------------------------------------------------------


def test_a_chain_that_stays_keeps_its_numbers():
    """Steps that are always refused: nothing moves, though flow and noise do."""
    start = torch.randn(20, 2, dtype=DOUBLE)
    options = {"step_size": 1e6, "adaptation": 1e-6, "evaluation_draws": 10}
    flow = affine()
    found = transport_score_climbing(gaussian, flow, steps=5, start=start, options=options)
    assert torch.equal(found.chains, start) and found.acceptance == 0
    assert float(flow.transform.table.abs().max()) > 0


def test_a_seed_is_all_that_it_depends_on():
    def run(seed):
        return transport_score_climbing(
            "u1", chains=5, steps=3, flow_options={"layers": 1, "hidden_features": 8}, random_state=seed,
            options={"evaluation_draws": 10},
        ).chains  # fmt: skip

    before = torch.get_rng_state()
    assert torch.equal(run(0), run(0)) and not torch.equal(run(0), run(1))
    assert torch.equal(before, torch.get_rng_state())


CALLS = {
    "layers that draw": (lambda: transport_score_climbing(gaussian, CIF(2)), "one to one and exact"),
    "states": (lambda: transport_score_climbing(gaussian, DiscreteNVF(2, 3)), "received DiscreteLatentModel"),
    "no context": (lambda: transport_score_climbing(gaussian, affine(), x=torch.zeros(3, 2)), "a width of 2"),
    "context": (lambda: transport_score_climbing(gaussian, affine(2, 1)), "context_features=1"),
    "shape": (lambda: transport_score_climbing("u1", affine(3)), "the flow gives (3,)"),
    "start": (
        lambda: transport_score_climbing("u1", affine(), start=torch.zeros(3, 1)),
        "start must have shape",
    ),
    "rows": (lambda: transport_score_climbing(gaussian, affine(), x=torch.zeros(3)), "x must be rows (N, C)"),
    "nothing to learn from": (
        lambda: transport_score_climbing(gaussian, affine(), learn=nn.Linear(1, 1)),
        "learn is fitted to rows",
    ),
    "acceptance": (
        lambda: transport_score_climbing("u1", options={"target_acceptance": 1.5}),
        "lie in (0, 1)",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_are_one_line(name):
    call, message = CALLS[name]
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)
