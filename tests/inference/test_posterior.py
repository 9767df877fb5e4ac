"""Reverse divergence: against quadrature and closed forms, with one state and with several."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modeflow.densities import Flow, GaussianMixtureBase, Preprocessed, StandardNormal
from modeflow.errors import ConfigError, TrainingError
from modeflow.flows import CIF, MAF, NSF, StudentFlow
from modeflow.inference import PosteriorOptions, annealed_rows, fit_posterior, importance, named_target, weigh
from modeflow.inference.posterior import reverse_kl, seed_of
from modeflow.inference.starting import build_density
from modeflow.models import ContinuousNVF, DiscreteNVF
from modeflow.testing import perturb
from modeflow.testing.quadrature import midpoints
from modeflow.transforms import ConditionalAffine, Standardize

DOUBLE = torch.float64
CORRELATED = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=DOUBLE)
TINY = {"layers": 1, "hidden_features": 8, "blocks": 1}


def gaussian(x):
    return -0.5 * ((x @ torch.linalg.inv(CORRELATED).to(x)) * x).sum(1)


def affine(full):
    return Flow(ConditionalAffine(2, full=full), StandardNormal(2)).double()


# -- the loss ----------------------------------------------------------------------------------------


def states():
    """Three states of a small flow, away from where they start, of unequal weights, in other units."""
    rows = torch.randn(50, 2, dtype=DOUBLE) * torch.tensor([1.5, 0.7]) + 0.3
    model = perturb(DiscreteNVF(2, 3, flow_options=TINY), 0.2).double()
    return Preprocessed(Standardize(2).fit(rows), model)


DENSITIES = {
    "flow": lambda: perturb(NSF(2, layers=2, hidden_features=8), 0.2).double(),
    "states": states,
    "mixture base": lambda: Flow(
        perturb(NSF(2, layers=1, hidden_features=8).transform, 0.2), perturb(GaussianMixtureBase(2, 3), 0.3)
    ).double(),
    "turned round": lambda: perturb(build_density("planar", (2,), 1, None, {"layers": 3}), 0.2).double(),
}


@pytest.mark.parametrize(("name", "power"), [*((name, 1.0) for name in DENSITIES), ("states", 0.4)])
def test_the_loss_and_its_gradient_by_quadrature(name, power):
    """``E_q[log q - β log p̃]`` of U1 on a grid; 40 batches, five standard errors: a false alarm in 1e-6."""
    torch.manual_seed(1)
    density = DENSITIES[name]()
    target = named_target("u1")
    corner = torch.tensor([9.0, 9.0], dtype=DOUBLE)
    grid, volume = midpoints(-corner, corner, 160)
    parameters = [p for n, p in density.named_parameters() if p.requires_grad and "encoder" not in n]

    def flat(loss):
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    log_q = density.log_prob(grid)
    mass = log_q.exp() * volume
    assert float(mass.sum()) == pytest.approx(1, abs=2e-3)
    expected = (mass * (log_q - power * target.log_prob(grid))).sum()
    gradient = flat(expected)
    generator = torch.Generator().manual_seed(0)
    losses, gradients = [], []
    for _ in range(30):
        loss = reverse_kl(density, target.log_prob, 100, power, generator)
        losses.append(loss.detach())
        gradients.append(flat(loss))
    for seen, truth in (
        (torch.stack(losses)[:, None], expected.detach()[None]),
        (torch.stack(gradients), gradient),
    ):
        error = seen.std(0) / math.sqrt(len(seen))
        assert bool(((seen.mean(0) - truth).abs() < 6 * error + 5e-3 * truth.abs() + 2e-3).all())
    assert float(gradient.abs().max()) > 0.1


def test_the_choice_of_a_state_makes_no_noise():
    """With q the target every draw's log q - log p is zero; and π has a gradient, without that noise."""
    target = named_target("mixture", means=[[-4.0], [4.0]], sds=1.0, weights=[0.3, 0.7])
    base = GaussianMixtureBase(1, 2).double()
    with torch.no_grad():
        base.mean.copy_(torch.tensor([[-4.0], [4.0]]))
        base.log_scale.zero_()
        base.logits.copy_(torch.tensor([0.3, 0.7]).log())
    assert float(reverse_kl(base, target.log_prob, 4, 1.0, None)) == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        base.logits.zero_()
    # d/dl_1 Σ π (log π - log p) at π = 1/2: π_1 π_2 (log(π_1 / .3) - log(π_2 / .7)).
    loss = reverse_kl(base, target.log_prob, 500, 1.0, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, base.logits)
    assert float(gradient[0]) == pytest.approx(0.25 * math.log(0.7 / 0.3), abs=1e-3)


# -- importance weights --------------------------------------------------------------------------------


def test_weights_of_gaussians_are_what_they_must_be():
    """p = 5 N(0, 1), q = N(0, s²): ELBO, log Z and effective size in closed form, within five errors."""
    density, n = Flow(ConditionalAffine(1), StandardNormal(1)).double(), 40_000
    for s in (1.0, 1.4, 0.8):
        density.transform.table.data[0] = torch.tensor([0.0, math.log(s)])
        found = importance(
            lambda x: math.log(5) - 0.5 * (x.square().sum(1) + math.log(2 * math.pi)),
            density, n, None, torch.Generator().manual_seed(0),
        )  # fmt: skip
        kl = 0.5 * (s**2 - 1) - math.log(s)
        assert abs(found.elbo.value - (math.log(5) - kl)) <= 5 * found.elbo.standard_error + 1e-9
        assert abs(found.log_normalizer.value - math.log(5)) <= 5 * found.log_normalizer.standard_error + 1e-9
        # E[w²] / E[w]² = s² / √(2 s² - 1).
        assert found.effective / n == pytest.approx(math.sqrt(2 * s**2 - 1) / s**2, rel=0.05)
        if s == 1:
            assert found.pareto_k == -math.inf and found.elbo.standard_error == pytest.approx(0, abs=1e-9)
        # Weights exp(x² (1/s² - 1) / 2), x ~ N(0, s²), have a tail of shape 1 - s²; bounded ones of none.
        if s != 1:
            assert found.pareto_k < 0.1 if s > 1 else abs(found.pareto_k - (1 - s**2)) < 0.2
        x = found.resample(n, torch.Generator().manual_seed(1))
        assert float(x.var()) == pytest.approx(1, abs=0.06)
        mean, error = found.expectation(lambda x: x.square())
        assert abs(float(mean) - 1) < 5 * float(error) + 0.02
        assert found.reliable and not found.warnings()


def test_weights_that_are_worth_nothing_say_so():
    bad = weigh(torch.zeros(1000, 1), torch.linspace(0, 1, 1000).double() ** 200 * 50)
    assert bad.pareto_k > 0.7 and not bad.reliable
    assert "Pareto k" in bad.warnings()[0] and "effective sample size" in bad.warnings()[1]
    nothing = weigh(torch.zeros(10, 1), torch.full((10,), -math.inf))
    assert nothing.log_normalizer.value == -math.inf and nothing.effective == 0 and not nothing.reliable
    with pytest.raises(ConfigError, match="2 draws or more"):
        weigh(torch.zeros(2, 1), torch.tensor([0.0, math.nan]))
    with pytest.raises(ConfigError, match="lower bound"):
        importance(gaussian, CIF(2))


# -- fits ----------------------------------------------------------------------------------------------


def test_a_gaussian_is_found_exactly_or_from_inside():
    """A full affine flow is the target; a diagonal one has the variances 1/(Σ⁻¹)_ii = 0.19, not 1."""
    truth = math.log(2 * math.pi) + 0.5 * float(torch.linalg.slogdet(CORRELATED)[1])
    options = {"learning_rate": 0.05, "first_power": 1.0, "evaluation_draws": 2000}
    full = fit_posterior(gaussian, affine(True), steps=300, draws=128, options=options)
    assert full.weights.elbo.value == pytest.approx(truth, abs=0.01)
    assert full.weights.log_normalizer.value == pytest.approx(truth, abs=0.006)
    assert full.weights.elbo.kind == "lower bound" and full.weights.log_normalizer.kind == "estimate"
    assert full.missed == 0 and "WARNING" not in full.summary()
    inside = fit_posterior(gaussian, affine(False), steps=200, draws=64, options=options)
    assert inside.sample(20_000).var(0).tolist() == pytest.approx([0.19, 0.19], rel=0.12)
    # The gap is KL(q || p) = log(1 / 0.19) / 2.
    assert truth - inside.weights.elbo.value == pytest.approx(-0.5 * math.log(0.19), abs=0.05)


def test_states_find_islands_that_a_flow_misses():
    """Five islands far apart, of unequal weights: log Z = 0 and the weights, with states; else a warning."""
    shares = [0.35, 0.3, 0.2, 0.1, 0.05]
    angle = torch.arange(5) * (2 * math.pi / 5)
    means = 9 * torch.stack((angle.cos(), angle.sin()), 1)
    target = named_target("mixture", means=means, sds=[0.5, 0.7, 0.4, 0.6, 0.5], weights=shares)
    small = {"layers": 1, "hidden_features": 16, "blocks": 1}
    found = fit_posterior(
        target, n_states=5, steps=100, draws=30, flow_options=small, options={"learning_rate": 0.01}
    )
    w = found.weights
    assert abs(w.log_normalizer.value) < 5 * w.log_normalizer.standard_error
    assert -0.15 < w.elbo.value < 3 * w.elbo.standard_error
    assert w.reliable and found.missed == 0 and "WARNING" not in found.summary()
    island = torch.cdist(w.resample(4000).double(), means.double()).argmin(1)
    assert (torch.bincount(island, minlength=5) / 4000).tolist() == pytest.approx(shares, abs=0.04)
    probs = found.density.model.state_probs().sort(descending=True).values
    assert probs.tolist() == pytest.approx(shares, abs=0.03)
    plain = fit_posterior(target, steps=60, draws=40, flow_options=small, options={"start_rows": 100})
    assert plain.weights.elbo.value < -0.5
    assert "WARNING" in plain.summary() and "n_states" in plain.summary()
    assert plain.missed > 0.05 or not plain.weights.reliable


def test_an_island_that_no_draw_reached_is_told():
    """q on one of two islands: the weights alone look perfect."""
    target = named_target("mixture", means=[[-8.0, 0.0], [8.0, 0.0]], sds=1.0)
    rows = target.sample(200, torch.Generator().manual_seed(0))
    flow = affine(False)
    flow.transform.table.data[0, 0] = 8.0
    found = fit_posterior(
        target, flow, steps=1, start=rows, options={"learning_rate": 1e-6, "first_power": 1.0}
    )
    assert found.weights.reliable and found.weights.log_normalizer.value == pytest.approx(
        -math.log(2), abs=1e-3
    )
    assert found.missed == pytest.approx(0.5, abs=0.1)
    assert "misses a part of the target" in found.summary()


def test_chains_find_islands_and_their_scale():
    target = named_target("mixture", radius=30.0, islands=6)
    rows = annealed_rows(target.log_prob, 120, (2,), generator=torch.Generator().manual_seed(0))
    nearest = torch.cdist(rows.double(), 30 * torch.stack([f(torch.arange(6) * math.pi / 3) for f in
                                                           (torch.cos, torch.sin)], 1).double())  # fmt: skip
    assert len(nearest.argmin(1).unique()) == 6
    assert float(nearest.min(1).values.mean()) < 1.0
    narrow = annealed_rows(lambda x: -0.5 * (x / 1e-3).square().sum(1), 60, (1,))
    assert float(narrow.std()) < 0.01


def test_images_and_objects_with_log_prob_are_targets():
    """Events of any shape where the density is given; here one whose parameters are location and scale."""

    class Pixels(StandardNormal):
        def __init__(self):
            super().__init__(4)
            self.event_shape = (1, 2, 2)
            self.shift = nn.Parameter(torch.zeros(1, 2, 2))

        def _log_prob(self, x, context):
            return super()._log_prob((x - self.shift).flatten(1), None)

        def _sample(self, n, context, generator, temperature=1.0):
            return self.shift + super()._sample(n, None, generator).view(n, 1, 2, 2)

        def rsample_and_log_prob(self, n=1, context=None, generator=None):
            x = self._sample(n, None, generator)
            return x, self._log_prob(x, None)

    found = fit_posterior(
        lambda x: -0.5 * (x - 2).square().flatten(1).sum(1),
        Pixels(),
        steps=100,
        options={"learning_rate": 0.1},
    )
    assert torch.allclose(found.density.shift, torch.tensor(2.0), atol=0.1)
    assert found.sample(3).shape == (3, 1, 2, 2) and found.log_prob(found.sample(3)).shape == (3,)


def test_a_seed_is_all_that_a_fit_depends_on():
    def fit(seed):
        return fit_posterior("u2", "realnvp", steps=3, draws=8, flow_options=TINY, random_state=seed,
                             options={"start_rows": 20, "evaluation_draws": 50})  # fmt: skip

    before = torch.get_rng_state()
    first, again = fit(1), fit(1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.history, again.history) and torch.equal(
        first.weights.samples, again.weights.samples
    )
    assert not torch.equal(first.history, fit(2).history)
    drawn = [seed_of(torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert "confined to" in first.summary() and first.history.shape == (3,)


def test_the_power_rises_to_one():
    options = PosteriorOptions(first_power=0.2, anneal_steps=10)
    assert [options.power(i, 100, 1) for i in (0, 5, 10, 50)] == pytest.approx([0.2, 0.6, 1, 1])
    assert PosteriorOptions().power(0, 100, 1) == 0.1 and PosteriorOptions().power(0, 100, 4) == 1
    assert PosteriorOptions().power(50, 100, 1) == 1


def quick(target=gaussian, flow="realnvp", **more):
    more.setdefault("options", {"start_rows": 4, "evaluation_draws": 4})
    return fit_posterior(target, flow, event_shape=2, steps=1, draws=2, **more)


CALLS = {
    "layers that draw": (lambda: quick(flow="survae"), "take 'nsf-coupling'"),
    "a bound": (lambda: quick(flow=CIF(2)), "no exact density (lower bound)"),
    "no reparametrised draws": (lambda: quick(flow=StudentFlow(2)), "its samples depend on ν"),
    "a continuous latent": (lambda: quick(flow=ContinuousNVF(2)), "no exact density"),
    "nothing to learn": (lambda: quick(flow=StandardNormal(2)), "carry no gradient"),
    "another shape": (lambda: quick(flow=MAF(3, layers=1)), "events of shape (2,), the flow gives (3,)"),
    "states of an object": (lambda: quick(flow=MAF(2, layers=1), n_states=3), "leave n_states"),
    "unknown flow": (lambda: quick(flow="realnvq"), "did you mean 'realnvp'"),
    "start": (lambda: quick(start=torch.zeros(4, 3)), "start needs 2 rows or more of shape (2,)"),
    "a list": (lambda: quick(start=[[0.0, 0.0]]), "start must be a tensor, received list"),
    "option": (lambda: quick(options={"clipp": 1}), "did you mean 'clip'"),
    "power": (lambda: quick(options={"first_power": 2.0}), "first_power must lie in (0, 1]"),
    "rate": (lambda: quick(options={"learning_rate": 0.0}), "learning_rate must be above 0"),
    "numbers": (lambda: quick(lambda x: x), "one number a row"),
    "images by name": (
        lambda: fit_posterior(lambda x: x.flatten(1).sum(1), event_shape=(1, 2, 2)),
        "of vectors",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_errors_are_one_line(name):
    call, message = CALLS[name]
    with pytest.raises(ConfigError) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_target_without_tails_is_given_up():
    def speck(x):
        return torch.where((x.abs() < 1e-3).all(1), -x.square().sum(1), -math.inf)

    with pytest.raises(TrainingError, match="no density"):
        fit_posterior(speck, affine(False), steps=50, options={"start": "none"})
