"""Where states start: on islands, on Gaussians within them, and what training makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from test_islands import circles, dimensions, moons, ring_of_blobs, rings, spirals, standard

from modeflow.latents.discrete import Survey, Truncated, look, partition, survey
from modeflow.models import DiscreteNVF
from small_models import model, rows


def cut(x, k, **options):
    return partition(Survey(x, survey(x)), k, **options)


@pytest.mark.parametrize(
    ("draw", "k"), [(circles, 2), (moons, 2), (spirals, 2), (rings, 3), (dimensions, 3), (ring_of_blobs, 8)]
)
def test_parts_are_the_islands_where_there_are_as_many(draw, k):
    x, truth = draw(1200, 3)
    assert adjusted_rand_score(truth, cut(standard(x), k).labels) > 0.99


def test_more_states_than_islands_share_them_out():
    x, truth = moons(1200, 0)
    parts = cut(standard(x), 6)
    assert parts.shares.sum(1) == pytest.approx(1)
    assert parts.weights.sum() == pytest.approx(1)
    for part in range(6):
        mine = parts.labels == part
        assert mine.mean() > 0.02
        assert np.bincount(truth[mine], minlength=2).max() > 0.99 * mine.sum()


def test_fewer_states_than_islands_cut_none():
    x, truth = ring_of_blobs(1200, 0)
    parts = cut(standard(x), 3)
    assert all(len(set(parts.labels[truth == k])) == 1 for k in range(8))


def test_overlapping_gaussians_are_what_a_mixture_finds():
    rng = np.random.default_rng(0)
    k = rng.integers(3, size=1500)
    x = standard(np.array([[0.0, 0], [3, 0], [0, 3]])[k] + rng.normal(size=(1500, 2)))
    parts = cut(x, 3)
    theirs = GaussianMixture(3, n_init=3, random_state=0).fit(x)
    ours = GaussianMixture(
        3,
        weights_init=parts.weights,
        means_init=parts.means,
        precisions_init=np.linalg.inv(parts.covariances),
    ).fit(x)
    assert ours.lower_bound_ > theirs.lower_bound_ - 1e-3
    assert adjusted_rand_score(k, parts.labels) > adjusted_rand_score(k, theirs.predict(x)) - 0.02


@pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
def test_duplicates_and_too_few_rows(k):
    x = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), 7, axis=0)
    labels = cut(x, k).labels
    assert len(np.unique(labels)) == min(k, 3)
    assert all(len(set(labels[i : i + 7])) == 1 for i in (0, 7, 14))


@pytest.mark.parametrize("n", [3, 4, 9, 40])
@pytest.mark.parametrize("full", [True, False])
def test_few_rows(n, full):
    x = np.random.default_rng(0).normal(size=(n, 2))
    parts = cut(x, 3, full=full)
    assert len(np.unique(parts.labels)) == 3
    assert (np.linalg.eigvalsh(parts.covariances) > 0).all()


def test_a_few_far_rows_get_a_state_of_their_own():
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(0, 1, (995, 2)), rng.normal(50, 0.1, (5, 2))]
    assert adjusted_rand_score(np.arange(1000) >= 995, cut(standard(x), 2).labels) == 1.0


def test_the_result_repeats():
    x = standard(rings(600, 0)[0])
    assert np.array_equal(cut(x, 5, seed=3).shares, cut(x, 5, seed=3).shares)


def test_many_rows_are_looked_at_in_part():
    x, _ = ring_of_blobs(3000, 0)
    found = look(torch.from_numpy(standard(x)), max_rows=900)
    assert len(found.rows) == 900
    assert found.relief.cut().count == 8


# -- the start of a model


SMALL = {"flow_options": {"layers": 2, "hidden_features": 16, "blocks": 1}, "encoder_features": (64,)}


def test_a_model_starts_as_the_mixture_of_its_islands():
    raw, truth = ring_of_blobs(2000, 0)
    x, k = torch.from_numpy(standard(raw)).float(), torch.from_numpy(truth)
    model = DiscreteNVF(2, 8, **SMALL).eval()
    model.start(x, 0)
    mean = torch.stack([x[k == j].mean(0) for j in range(8)])
    std = torch.stack([x[k == j].std(0) for j in range(8)])
    count = torch.bincount(k)
    normal = torch.distributions.Normal(mean, std)
    mixture = torch.logsumexp(normal.log_prob(x[:, None]).sum(-1) + (count / count.sum()).log(), 1)
    with torch.no_grad():
        assert (model.log_prob(x) - mixture).mean().abs() < 0.1
        assert adjusted_rand_score(truth, model.posterior(x).argmax(1)) > 0.999
        assert adjusted_rand_score(truth, model.approximate_posterior(x).argmax(1)) > 0.98
        usage = model.usage(x)
    assert (model.prior.log_probs().exp() - usage).abs().max() < 0.01


@pytest.mark.parametrize("draw", [circles, moons])
def test_the_encoder_starts_on_islands_that_are_no_gaussians(draw):
    raw, truth = draw(1000, 0)
    x = torch.from_numpy(standard(raw)).float()
    torch.manual_seed(0)
    model = DiscreteNVF(2, 2, **SMALL).eval()
    model.start(x, 0)
    with torch.no_grad():
        assert adjusted_rand_score(truth, model.approximate_posterior(x).argmax(1)) > 0.98


@pytest.mark.parametrize("data", [torch.zeros(12, 2), torch.eye(2).repeat(3, 1), torch.randn(3, 2)])
def test_initialising_on_degenerate_rows_stays_finite(data):
    model = DiscreteNVF(
        2, 4, flow_options={"layers": 1, "hidden_features": 8, "blocks": 1}, encoder_features=(8,)
    )
    model.start(data, 0, 3)
    assert torch.isfinite(model.log_prob(data)).all()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_models_without_states_or_affine_are_left_alone():
    one = DiscreteNVF(2, 1)
    state = {k: v.clone() for k, v in one.state_dict().items()}
    one.start(torch.randn(20, 2), 0)
    assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())
    plain = DiscreteNVF(2, 3, flow_options={"context_affine": "none", "layers": 1})
    plain.start(torch.randn(100, 2), 0, 2)
    assert torch.isfinite(plain.log_prob(torch.randn(5, 2))).all()


# -- states are held while the flow takes their shape


@pytest.mark.parametrize("epsilon", [0.0, 1e-2])
def test_while_states_are_held_the_loss_is_the_elbo_less_the_entropy(epsilon):
    m, x = model(3), rows()
    loss = Truncated(epsilon, hold_steps=10)
    with torch.no_grad():
        q = m.approximate_posterior(x)
        q = torch.where(q > 1e-2, q, torch.zeros_like(q))
        q = q / q.sum(1, keepdim=True)
        expected = -(q * m.log_joint(x)).sum(1).mean()
    value = loss(m, x, None, 9).value
    assert value.item() == pytest.approx(expected.item(), abs=1e-10)
    value.backward()
    assert all(p.grad is None or not p.grad.any() for p in m.encoder.parameters())
    assert m.prior.logits.grad.abs().sum() > 0
    after = loss(m, x, None, 10)
    assert after.terms["encoder_kl"] > 0
