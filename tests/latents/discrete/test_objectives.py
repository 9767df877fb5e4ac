"""Objectives against brute force: values, gradients, schedules, weights, dead states."""

from __future__ import annotations

import math

import pytest
import torch

from modeflow.errors import ConfigError
from modeflow.latents import GumbelELBO, Marginal, SummedELBO, Truncated, build_objective
from modeflow.models import DiscreteNVF
from small_models import DOUBLE, brute_joint, model, rows

NAMES = ("elbo", "elbo-sum", "marginal", "truncated")


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


# -- values


def test_summed_elbo_by_brute_force():
    m, x = model(), rows()
    log_q, joint = m.log_approximate_posterior(x), brute_joint(m, x)
    log_pi = m.prior.log_probs()
    loss = SummedELBO()(m, x, None, None)
    value = -(log_q.exp() * (joint - log_q)).sum(1).mean()
    assert torch.allclose(loss.value, value, atol=1e-12)
    assert torch.allclose(loss.value, -m.elbo(x).mean(), atol=1e-12)
    kl = (log_q.exp() * (log_q - log_pi)).sum(1).mean()
    assert torch.allclose(loss.terms["kl"], kl, atol=1e-12)
    assert torch.allclose(loss.terms["nll"] + loss.terms["kl"], loss.value, atol=1e-12)


def test_marginal_by_brute_force():
    m, x = model(), rows()
    joint, log_q = brute_joint(m, x), m.log_approximate_posterior(x)
    loss = Marginal()(m, x, None, None)
    posterior = torch.softmax(joint, 1)
    kl = (posterior * (posterior.log() - log_q)).sum(1).mean()
    assert torch.allclose(loss.terms["nll"], -joint.logsumexp(1).mean(), atol=1e-12)
    assert torch.allclose(loss.terms["encoder_kl"], kl, atol=1e-12)
    assert torch.allclose(loss.value, loss.terms["nll"] + loss.terms["encoder_kl"], atol=1e-12)


def test_gradient_of_the_marginal_is_that_of_the_log_likelihood():
    m, x = model(), rows()
    loss = build_objective("marginal")(m, x, None, None)
    nll = -brute_joint(m, x).logsumexp(1).mean()
    for part in (m.likelihood, m.prior):
        got, expected = flat(gradients(loss.value, part)), flat(gradients(nll, part))
        assert expected.norm() > 1e-3
        assert torch.allclose(got, expected, atol=1e-12)
    # The encoder is pulled to the posterior, held constant.
    target = m.posterior(x).detach()
    cross = -(target * m.log_approximate_posterior(x)).sum(1).mean()
    got = flat(gradients(loss.value, m.encoder))
    assert torch.allclose(got, flat(gradients(cross, m.encoder)), atol=1e-12)


def test_truncated_without_truncation_is_the_marginal():
    m, x = model(), rows()
    a, b = build_objective("truncated", epsilon=0.0)(m, x, None, None), Marginal()(m, x, None, None)
    assert torch.equal(a.value, b.value)
    for p, q in zip(gradients(a.value, m), gradients(b.value, m), strict=True):
        assert torch.equal(p, q)
    # So does exploring every state with the general path.
    c = Truncated(epsilon=1e-12, explore=0.0)(m, x, None, None)
    assert torch.allclose(c.value, b.value, atol=1e-10)
    assert torch.allclose(flat(gradients(c.value, m)), flat(gradients(b.value, m)), atol=1e-9)


@pytest.mark.parametrize("explore", [0.0, 1.0])
def test_truncation_bounds_the_likelihood(explore):
    m, x = model(), rows()
    exact = -m.log_prob(x).mean()
    loss = Truncated(epsilon=0.4, explore=explore)(m, x, None, None)
    assert loss.terms["nll"] > exact + 1e-3
    grads = gradients(loss.value, m)
    assert all(torch.isfinite(g).all() for g in grads)
    # The bound tightens as fewer states are left out.
    tighter = Truncated(epsilon=0.05, explore=0.0)(m, x, None, None).terms["nll"]
    assert exact - 1e-12 <= tighter < Truncated(epsilon=0.4, explore=0.0)(m, x, None, None).terms["nll"]


def test_exploring_revives_a_state_the_encoder_has_forgotten():
    m, x = model(), rows()
    with torch.no_grad():
        m.encoder.net.final.bias[2] -= 60
    silent = gradients(Truncated(0.01, explore=0.0)(m, x, None, None).value, m.likelihood)
    loud = gradients(Truncated(0.01, explore=1.0)(m, x, None, None).value, m.likelihood)
    row = [n for n, _ in m.likelihood.named_parameters()].index("transform.transforms.0.table")
    assert (silent[row][2] == 0).all()
    assert (loud[row][2] != 0).all()


# -- the straight-through sample


def test_mean_of_gumbel_samples_is_the_summed_elbo():
    # Seeded Monte Carlo of 40,000 draws per row; five standard errors of the exact variance.
    m, x = model(), rows(4)
    for row in x.split(1):
        n = 40_000
        many = row.expand(n, -1)
        q = m.log_approximate_posterior(row).exp()[0]
        nll = m.prior.log_probs() - brute_joint(m, row)[0]
        mean = (q * nll).sum()
        error = ((q * nll.square()).sum() - mean.square()).sqrt() / math.sqrt(n)
        with torch.no_grad():
            gumbel = GumbelELBO()(m, many, None, None)
            exact = SummedELBO()(m, row, None, None)
        assert error > 1e-4
        assert abs(gumbel.terms["nll"] - mean) < 5 * error
        assert abs(gumbel.value - exact.value) < 5 * error
        assert torch.allclose(gumbel.terms["kl"], exact.terms["kl"], atol=1e-12)


@pytest.fixture(scope="module")
def straight_through():
    """Gradients of the straight-through and the summed objective, many seeded draws."""
    torch.manual_seed(0)
    m, x = model(), rows()
    parts = {"encoder": m.encoder, "flow": m.likelihood}
    exact_loss = SummedELBO()(m, x, None, None).value
    exact = {k: flat(gradients(exact_loss, v)) for k, v in parts.items()}
    draws = {k: [] for k in parts}
    for _ in range(60):
        loss = GumbelELBO()(m, x.repeat(25, 1), None, None).value
        for k, v in parts.items():
            draws[k].append(flat(gradients(loss, v)))
    return exact, {k: torch.stack(v) for k, v in draws.items()}


def test_the_flow_gradient_of_the_straight_through_sample_is_unbiased(straight_through):
    # Projected on the exact gradient: a mean of 60, five standard errors.
    exact, draws = straight_through
    along = draws["flow"] @ exact["flow"] / exact["flow"].square().sum()
    assert abs(along.mean() - 1) < 5 * along.std() / math.sqrt(60)
    assert along.std() / math.sqrt(60) < 0.02


def test_the_encoder_gradient_of_the_straight_through_sample_points_the_same_way(
    straight_through, record_property
):
    exact, draws = straight_through
    mean = draws["encoder"].mean(0)
    cosine = torch.cosine_similarity(mean, exact["encoder"], dim=0).item()
    bias = ((mean - exact["encoder"]).norm() / exact["encoder"].norm()).item()
    noise = (draws["encoder"].std(0).norm() / math.sqrt(60) / exact["encoder"].norm()).item()
    record_property("straight_through_cosine", cosine)
    record_property("straight_through_relative_bias", bias)
    record_property("straight_through_monte_carlo_error", noise)
    print(f"straight-through: cosine {cosine:.3f}, relative bias {bias:.3f} (noise {noise:.3f})")
    assert cosine > 0


# -- information


def test_the_kl_term_is_information_plus_mismatch():
    # E_x KL(q(z|x) || p) - KL(q(z) || p) = I_q(x; z), exactly.
    m, x = model(), rows()
    kl = SummedELBO()(m, x, None, None).terms["kl"]
    q = m.log_approximate_posterior(x).exp()
    aggregated = q.mean(0)
    mismatch = (aggregated * (aggregated.log() - m.prior.log_probs())).sum()
    information = (q * (q.log() - aggregated.log())).sum(1).mean()
    assert (kl - mismatch - information).abs() < 1e-12
    assert information > 1e-4


# -- schedules


@pytest.mark.parametrize("kind", [SummedELBO, GumbelELBO])
def test_warm_up_of_the_kl_term(kind):
    objective = kind(kl_warmup_steps=10)
    assert [objective.beta(s) for s in (0, 4, 9, 500, None)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert kind(kl_warmup_steps=0).beta(0) == 1.0
    m, x = model(), rows()
    loss = objective(m, x, None, 2)
    assert torch.allclose(loss.value, loss.terms["nll"] + 0.3 * loss.terms["kl"], atol=1e-12)


def test_temperature():
    falling = GumbelELBO(temperature=2.0, final_temperature=0.5, anneal_steps=10)
    steps = [falling.temperature_at(s) for s in (0, 5, 10, 99, None)]
    assert steps == pytest.approx([2.0, 1.0, 0.5, 0.5, 0.5])
    constant = GumbelELBO(temperature=0.7)
    assert constant.temperature_at(0) == constant.temperature_at(None) == 0.7


# -- weights


@pytest.mark.parametrize("name", ["elbo-sum", "marginal", "truncated"])
def test_weights_choose_rows(name):
    m, x = model(), rows(4)
    options = {"epsilon": 0.0} if name == "truncated" else {}
    objective = build_objective(name, **options)
    plain = objective(m, x, None, None)
    ones = objective(m, x, torch.ones(4, dtype=DOUBLE), None)
    assert torch.allclose(plain.value, ones.value, atol=1e-12)
    only = objective(m, x, torch.tensor([0, 4.0, 0, 0], dtype=DOUBLE), None)
    assert torch.allclose(only.value, objective(m, x[1:2], None, None).value, atol=1e-12)
    for key in plain.terms:
        assert torch.isfinite(only.terms[key])


def test_weights_of_the_gumbel_elbo():
    m, x = model(), rows(4)
    torch.manual_seed(1)
    plain = GumbelELBO()(m, x, None, None).value
    torch.manual_seed(1)
    doubled = GumbelELBO()(m, x, torch.full((4,), 2.0, dtype=DOUBLE), None).value
    assert torch.allclose(doubled, 2 * plain, atol=1e-12)


# -- dead states


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("how", ["switched off", "encoder silent", "prior gone", "far away"])
def test_dead_states_never_give_nan(name, dtype, how):
    m, x = model().to(dtype).train(), rows().to(dtype)
    with torch.no_grad():
        if how == "switched off":
            m.prior.active[[1, 3]] = False
        elif how == "encoder silent":
            m.encoder.net.final.bias[1] = -1e4
        elif how == "prior gone":
            m.prior.logits[1] = -1e4
        else:
            m.likelihood.transform.transforms[0].table[1, :2] = 1e15
    for step in (0, None):
        loss = build_objective(name)(m, x, None, step)
        assert torch.isfinite(loss.value)
        assert all(torch.isfinite(t) for t in loss.terms.values())
        for parameter, g in zip(m.parameters(), gradients(loss.value, m), strict=True):
            assert torch.isfinite(g).all(), tuple(parameter.shape)
    if how == "switched off":
        (gradient,) = torch.autograd.grad(build_objective(name)(m, x, None, None).value, m.prior.logits)
        assert (gradient[[1, 3]] == 0).all()
    if how != "far away":
        with torch.no_grad():
            assert torch.isfinite(m.log_prob(x)).all()
            assert torch.isfinite(m.elbo(x)).all()


# -- by name


def test_objectives_by_name():
    assert isinstance(build_objective("elbo", temperature=0.3), GumbelELBO)
    assert isinstance(build_objective("elbo-sum", kl_warmup_steps=3), SummedELBO)
    assert build_objective("marginal").epsilon == 0
    assert build_objective("truncated", epsilon=0.2).epsilon == 0.2
    with pytest.raises(ConfigError, match="'elbo_sum' is not known; did you mean 'elbo-sum'"):
        build_objective("elbo_sum")
    with pytest.raises(ConfigError, match=r"epsilon must lie in \[0, 1\)"):
        Truncated(1.0)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("elbo", {"epsilon": 0.1}, "'elbo' has no use for 'epsilon'"),
        ("elbo-sum", {"temperature": 1.0}, r"'elbo-sum' has no use for 'temperature' \(its options: kl_warm"),
        ("marginal", {"epsilon": 0.0}, "'marginal' has no use for 'epsilon' .*hold_steps"),
        ("truncated", {"kl_warmup_steps": 3}, "'truncated' has no use for 'kl_warmup_steps'"),
        ("truncated", {"epsilom": 0.1}, "did you mean 'epsilon'"),
        ("truncated", {"explore": -1}, "explore must be 0 or more"),
        ("elbo", {"anneal_steps": 0.5}, "anneal_steps must be an integer"),
        ("elbo-sum", {"kl_warmup_steps": -1}, "kl_warmup_steps must be an integer of 0 or more"),
        ("elbo", {"final_temperature": 0}, "final_temperature must be above 0"),
    ],
)
def test_an_option_without_a_use_is_refused(name, options, says):
    with pytest.raises(ConfigError, match=says):
        build_objective(name, **options)
    if "epsilom" not in options:
        with pytest.raises(ConfigError, match=says):
            DiscreteNVF(2, 2, objective=name, **options)


def test_the_mode_of_training_counts_usage_in_the_objective_alone():
    m, x = model().train(), rows()
    for ask in (m.log_approximate_posterior, m.approximate_posterior, m.log_prob_pruned, m.elbo, m.infer):
        ask(x)
    assert m.epoch_metrics() == {}
    for name in NAMES:
        build_objective(name)(m, x, None, None)
        assert "usage_entropy" in m.epoch_metrics(), name
        build_objective(name)(m.eval(), x, None, None)
        assert m.train().epoch_metrics() == {}, name
