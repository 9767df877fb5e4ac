"""The discrete latent: exact identities between density, bound, posterior, pruning and samples."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import nn
from torch.nn import functional as F

from modeflow.densities import Density
from modeflow.errors import ConfigError, ShapeError
from modeflow.flows import NSF, build_flow
from modeflow.latents import CategoricalEncoder, CategoricalPrior, DiscreteLatentModel, SummedELBO
from modeflow.models import DiscreteNVF
from modeflow.testing import DENSITY_CHECKS, DensityCase, check_density
from modeflow.testing.quadrature import box_around, check_counts, midpoints
from small_models import DOUBLE, brute_joint, model, rows


@pytest.mark.parametrize("prior", ["learned", "uniform"])
@pytest.mark.parametrize("n_states", [2, 5])
def test_density_and_posterior_by_brute_force(prior, n_states):
    m, x = model(n_states, prior=prior), rows()
    joint = brute_joint(m, x)
    assert torch.allclose(m.log_prob(x), joint.logsumexp(1), atol=1e-12)
    posterior = m.posterior(x)
    assert torch.allclose(m.log_posterior(x), posterior.log(), atol=1e-12)
    assert torch.allclose(posterior, joint.exp() / joint.exp().sum(1, keepdim=True), atol=1e-12)
    assert torch.allclose(posterior.sum(1), torch.ones(len(x), dtype=DOUBLE), atol=1e-12)
    assert posterior.std(0).min() > 1e-3


@pytest.mark.parametrize("switched_off", [[], [1]])
def test_the_gap_of_the_bound_is_the_kl_to_the_posterior(switched_off):
    m, x = model(), rows()
    m.prior.active[switched_off] = False
    log_q = m.log_approximate_posterior(x)[:, m.prior.active]
    log_post = torch.log_softmax(brute_joint(m, x), 1)
    kl = (log_q.exp() * (log_q - log_post)).sum(1)
    gap = m.log_prob(x) - m.elbo(x)
    assert (gap - kl).abs().max() < 1e-12
    assert gap.min() > 1e-4


class Exact(nn.Module):
    """The exact posterior in place of the encoder."""

    def __init__(self, owner):
        super().__init__()
        self.owner = [owner]

    def forward(self, x, active=None):
        m = self.owner[0]
        log_q = x.new_full((len(x), m.n_states), float("-inf"))
        log_q[:, m.prior.active] = torch.log_softmax(m.log_joint(x), -1)
        return log_q


def test_the_bound_is_tight_at_the_exact_posterior():
    m, x = model(), rows()
    m.encoder = Exact(m)
    assert (m.log_prob(x) - m.elbo(x)).abs().max() < 1e-12


@pytest.mark.parametrize("flow", ["nsf-coupling", "realnvp", "maf", "nsf-autoregressive"])
def test_one_state_is_the_plain_flow_bit_for_bit(flow):
    torch.manual_seed(3)
    m = DiscreteNVF(3, 1, flow=flow)
    torch.manual_seed(3)
    plain = build_flow(flow, 3)
    x = torch.randn(20, 3)
    assert torch.equal(m.log_prob(x), plain.log_prob(x))
    assert torch.equal(m.objective(x).value, plain.objective(x).value)
    assert torch.equal(m.log_prob_pruned(x).log_prob, plain.log_prob(x))
    sample, states = m.sample_with_states(5)
    assert sample.shape == (5, 3)
    assert (states == 0).all()
    assert torch.equal(m.posterior(x), torch.ones(20, 1))
    assert torch.equal(m.elbo(x), m.log_prob(x))
    assert m.epoch_metrics() == {}


class Relabelled(Density):
    """A likelihood whose state k is the state order[k] of another."""

    def __init__(self, inner, order):
        super().__init__(inner.event_shape, inner.context_features)
        self.inner, self.order = inner, order

    def _log_prob(self, x, context):
        return self.inner.log_prob(x, torch.zeros_like(context).index_add(1, self.order, context))


def test_the_names_of_the_states_do_not_matter():
    m, x = model(5), rows()
    order = torch.tensor([3, 0, 4, 2, 1])
    prior = CategoricalPrior(5).double()
    with torch.no_grad():
        prior.logits.copy_(m.prior.logits[order])
    other = DiscreteLatentModel(prior, Relabelled(m.likelihood, order), m.encoder, SummedELBO())
    assert (other.log_prob(x) - m.log_prob(x)).abs().max() < 1e-12
    assert torch.allclose(other.posterior(x), m.posterior(x)[:, order], atol=1e-12)
    # And not because all states are alike:
    shuffled = DiscreteLatentModel(m.prior, Relabelled(m.likelihood, order), m.encoder, SummedELBO())
    assert (shuffled.log_prob(x) - m.log_prob(x)).abs().max() > 1e-2


@pytest.mark.parametrize("n", [0, 1, 13])
def test_chunks_do_not_change_the_result(n):
    m, x = model(), rows(n)
    with torch.no_grad():
        results = []
        for chunk in (1, 7, 1_000_000):
            m.chunk_rows = chunk
            results.append((m.log_prob(x), m.elbo(x), m.log_prob_pruned(x, 0.1).log_prob))
    with_gradient = m.log_prob(x)
    for result in results:
        assert torch.allclose(result[0], with_gradient, atol=1e-12)
        for a, b in zip(result, results[0], strict=True):
            assert a.shape == (n,)
            assert torch.allclose(a, b, atol=1e-12)
    m.chunk_rows = 3
    drawn, states = m.sample_with_states(10, torch.Generator().manual_seed(0))
    assert drawn.shape == (10, 2)
    assert states.shape == (10,)


# -- pruned evaluation


@pytest.mark.parametrize("sure", [0.5, 1.0, 3.0])
def test_calibration_brings_the_encoder_closest_to_the_posterior(sure):
    m, x = model(), rows()
    target = torch.log_softmax(brute_joint(m, x), 1)

    class Fixed(nn.Module):
        """Logits of the exact posterior, too flat or too steep by a factor."""

        def forward(self, _):
            return target / sure

    m.encoder.net = Fixed()

    def cross_entropy():
        return float(-(target.exp() * m.log_approximate_posterior(x)).sum(1).mean())

    m.eval()
    before = cross_entropy()
    a = m.calibrate(x)
    assert abs(math.log(a / sure)) < 0.09 and a == float(m.encoder.sharpness)
    assert cross_entropy() <= before
    # Every other sharpness is worse.
    best = cross_entropy()
    for other in (0.8 * a, 1.25 * a):
        m.encoder.sharpness.fill_(other)
        assert cross_entropy() > best
    assert m.log_prob_pruned(x, 0.1).log_prob.le(m.log_prob(x) + 1e-12).all()


def test_training_knows_no_sharpness():
    m, x = model(), rows()
    before = m.eval().log_approximate_posterior(x)
    m.calibrate(x)
    assert torch.equal(m.train().log_approximate_posterior(x), before)
    twin = model()
    twin.load_state_dict(m.state_dict())
    assert torch.equal(twin.eval().log_approximate_posterior(x), m.eval().log_approximate_posterior(x))


@pytest.mark.parametrize("epsilon", [1e-6, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("switched_off", [[], [0, 3]])
def test_the_gap_of_pruning_is_the_posterior_mass_left_out(epsilon, switched_off):
    m, x = model(6), rows()
    m.prior.active[switched_off] = False
    result = m.log_prob_pruned(x, epsilon)
    q = m.approximate_posterior(x)
    keep = m.likely_states(q, epsilon)
    mass = (m.posterior(x) * keep).sum(1)
    gap = m.log_prob(x) - result.log_prob
    assert (gap >= -1e-12).all()
    assert torch.allclose(gap, -mass.log(), atol=1e-11)
    kept = (q * keep).sum(1)
    assert torch.allclose(result.encoder_mass, kept)
    assert (kept >= 1 - epsilon - 1e-12).all()
    assert result.evaluations == pytest.approx(float(keep.double().sum(1).mean()))
    # The fewest: without its least likely state the mass would fall short.
    least = torch.where(keep, q, torch.inf).amin(1)
    assert ((kept - least < 1 - epsilon + 1e-12) | (keep.sum(1) == 1)).all()


def test_pruning_by_the_exact_posterior_states_its_own_gap():
    m, x = model(), rows()
    m.encoder = Exact(m)
    result = m.log_prob_pruned(x, 0.1)
    assert torch.allclose(m.log_prob(x) - result.log_prob, -result.encoder_mass.log(), atol=1e-11)
    assert result.evaluations < 4


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("confidence", [1.0, 1e3])
def test_epsilon_zero_is_exact_however_sure_the_encoder_is(dtype, confidence):
    m, x = model(), rows()
    with torch.no_grad():
        m.encoder.net.final.weight.mul_(confidence)
    m, x = m.to(dtype), x.to(dtype)
    result = m.log_prob_pruned(x, 0.0)
    assert torch.allclose(result.log_prob, m.log_prob(x), atol=1e-5 if dtype == torch.float32 else 1e-12)
    assert result.evaluations == 4


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_epsilon_out_of_range(epsilon):
    with pytest.raises(ConfigError, match=r"epsilon must lie in \[0, 1\)"):
        model().log_prob_pruned(rows(2), epsilon)


# -- states switched off


def test_pruned_states_leave_a_density():
    m, x = model(5), rows()
    m.prior.switch_off(torch.tensor([1, 3]))
    assert torch.allclose(m.log_prob(x), brute_joint(m, x).logsumexp(1), atol=1e-12)
    assert m.posterior(x).shape == (40, 3)
    assert m.approximate_posterior(x).sum(1).allclose(torch.ones(40, dtype=DOUBLE))
    assert m.log_approximate_posterior(x)[:, [1, 3]].eq(-torch.inf).all()
    _, states = m.sample_with_states(500)
    assert sorted(states.unique().tolist()) == [0, 1, 2]
    usage = m.usage(x)
    assert usage[[1, 3]].tolist() == [0, 0]
    assert usage.sum().item() == pytest.approx(1)

    def pruned():
        other = model(5)
        other.prior.switch_off(torch.tensor([1, 3]))
        return other

    # Renormalised: integrates to one, and the samples follow it.
    DENSITY_CHECKS["mass"](DensityCase(pruned, 2, scale=0.0))


def test_one_state_may_be_left():
    m = model(3)
    m.prior.switch_off(torch.tensor([0, 2]))
    assert m.prior.active_states().tolist() == [1]
    x = rows(5)
    assert torch.allclose(m.log_prob(x), brute_joint(m, x)[:, 0], atol=1e-12)
    assert (m.elbo(x) - m.log_prob(x)).abs().max() < 1e-12
    assert m.sample(3).shape == (3, 2)


def test_switched_off_states_are_saved():
    m, fresh = model(4), model(4)
    m.prior.switch_off(torch.tensor([2, 3]))
    fresh.load_state_dict(m.state_dict())
    assert torch.equal(fresh.log_prob(rows()), m.log_prob(rows()))


# -- samples


def test_frequencies_of_the_states_follow_the_prior():
    # Pearson's chi-squared at a false-alarm rate of 1e-6, seeded.
    m = model(5)
    m.prior.active[2] = False
    _, states = m.sample_with_states(20_000, torch.Generator().manual_seed(0))
    expected = m.prior.log_probs().exp()[m.prior.active] * 20_000
    seen = torch.bincount(states, minlength=4)
    assert chisquare(seen.numpy(), expected.detach().numpy()).pvalue > 1e-6
    assert expected.std() > 300


@pytest.mark.parametrize("how", ["mixed", "one"])
def test_samples_of_a_state_come_from_its_likelihood(how):
    # Chi-squared of counts on a grid, false-alarm rate 1e-6 per state, seeded.
    m = model(3)
    x, states = m.sample_with_states(12_000, torch.Generator().manual_seed(1))
    for k in range(3):
        part = x[states == k]
        if how == "one":
            part, same = m.sample_with_states(3000, torch.Generator().manual_seed(2), state=k)
            assert (same == k).all()
        low, high = box_around(part)
        grid, volume = midpoints(low, high, 160)
        with torch.no_grad():
            context = F.one_hot(torch.tensor(k), 3).double()
            mass = m.likelihood.log_prob(grid, context).exp() * volume
            assert abs(float(mass.sum()) - 1) < 1e-3
            check_counts(part, mass, low, high, 160)
            wrong = m.likelihood.log_prob(grid, context.roll(1)).exp() * volume
        with pytest.raises(AssertionError, match="do not follow"):
            check_counts(part, wrong, low, high, 160)


def test_samples_repeat_with_the_generator():
    m = model()
    a, b = (m.sample_with_states(50, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])


@pytest.mark.parametrize("state", [-1, 4, 100])
def test_no_such_state(state):
    with pytest.raises(ConfigError, match=r"state must lie in 0\.\.3"):
        model().sample_with_states(3, state=state)


def test_no_samples():
    x, states = model().sample_with_states(0)
    assert x.shape == (0, 2)
    assert states.shape == (0,)
    assert model().sample_with_states(0, state=1)[0].shape == (0, 2)


# -- usage


def test_usage_is_the_mean_posterior():
    m, x = model(), rows()
    assert torch.allclose(m.usage(x), m.posterior(x).mean(0))
    weight = torch.rand(40, dtype=DOUBLE)
    expected = (m.posterior(x) * weight[:, None]).mean(0)
    assert torch.allclose(m.usage(x, weight), expected)
    assert torch.equal(m.usage(x, torch.zeros(len(x), dtype=x.dtype)), torch.zeros(m.n_states, dtype=x.dtype))


def test_usage_of_an_epoch_starts_anew():
    m, x = model(), rows()
    assert m.epoch_metrics() == {}
    m.train()
    m.objective(x)
    q = m.log_approximate_posterior(x).exp().mean(0)
    metrics = m.epoch_metrics()
    assert metrics["usage_entropy"] == pytest.approx(-(q * q.log()).sum().item())
    assert 1 <= metrics["states_used"] <= 4
    assert m.epoch_metrics() == {}
    m.eval()
    m.objective(x)
    assert m.epoch_metrics() == {}


# -- what is refused


def test_parts_that_do_not_fit():
    encoder = CategoricalEncoder(2, 3)
    with pytest.raises(ConfigError, match="needs a likelihood with context_features=3, received 2"):
        DiscreteLatentModel(CategoricalPrior(3), NSF(2, 2), encoder, SummedELBO())
    with pytest.raises(ConfigError, match="context_features=0"):
        DiscreteLatentModel(CategoricalPrior(1), NSF(2, 1), None, None)
    with pytest.raises(ConfigError, match="needs an encoder and an objective"):
        DiscreteLatentModel(CategoricalPrior(3), NSF(2, 3), None, SummedELBO())


@pytest.mark.parametrize(
    "method",
    ["log_prob", "log_joint", "posterior", "approximate_posterior", "elbo", "log_prob_pruned", "objective"],
)
def test_wrong_shapes_are_named(method):
    with pytest.raises(ShapeError, match=r"expects x of shape \(B, 2\), received \(5, 3\)"):
        getattr(model(), method)(torch.randn(5, 3, dtype=DOUBLE))


def test_a_model_of_several_states_passes_the_density_checks():
    # A fine grid: the perturbed states are long and thin.
    check_density(lambda: model(3).float(), 2, cells=800)


# -- the prior


def test_prior_probabilities():
    prior = CategoricalPrior(4)
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4])
    prior.set_probs(probs)
    assert torch.allclose(prior.log_probs().exp(), probs)
    prior.active[3] = False
    assert torch.allclose(prior.log_probs().exp(), torch.tensor([1, 2, 3, 0]) / 6)
    uniform = CategoricalPrior(4, learned=False)
    uniform.set_probs(probs)
    assert torch.allclose(uniform.log_probs().exp(), torch.full((4,), 0.25))
    assert list(uniform.parameters()) == []
    zero = CategoricalPrior(2)
    zero.set_probs(torch.tensor([0.0, 1.0]))
    assert torch.isfinite(zero.log_probs()).all()
