"""Where the states start: islands of any shape, and sensible cuts where there are none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.metrics import adjusted_rand_score

from modeflow.latents.initialise import find_islands, initialise
from modeflow.models import NVF


def ring(n=2000, scale=0.15):
    rng = np.random.default_rng(0)
    k = rng.integers(8, size=n)
    angle = 2 * np.pi * k / 8
    return 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(0, scale, (n, 2)), k


def grid(n=4000, scale=0.1):
    rng = np.random.default_rng(0)
    k = rng.integers(25, size=n)
    return np.stack([k % 5, k // 5], 1) * 2.0 + rng.normal(0, scale, (n, 2)), k


def moons(n=1500):
    return make_moons(n, noise=0.05, random_state=0)


@pytest.mark.parametrize(("make", "k"), [(moons, 2), (ring, 8), (grid, 25)])
@pytest.mark.parametrize("seed", [0, 1])
def test_islands_are_found(make, k, seed):
    x, truth = make()
    assert adjusted_rand_score(truth, find_islands(x, k, seed)) == 1.0


def test_islands_of_a_part_of_the_rows():
    x, truth = ring(3000)
    assert adjusted_rand_score(truth, find_islands(x, 8, max_rows=800)) == 1.0


@pytest.mark.parametrize("k", [2, 5, 16])
def test_one_gaussian_is_cut_into_parts_of_moderate_size(k):
    x = np.random.default_rng(0).normal(size=(3000, 2))
    share = np.bincount(find_islands(x, k), minlength=k) / len(x)
    assert share.min() > 0
    assert share.max() < 4 / k


def test_more_states_than_islands():
    x, truth = moons()
    labels = find_islands(x, 6)
    share = np.bincount(labels, minlength=6) / len(x)
    assert share.min() > 0.02
    # Each cluster lies on one moon.
    assert all(
        np.bincount(truth[labels == j], minlength=2).max() / (labels == j).sum() > 0.9 for j in range(6)
    )


@pytest.mark.parametrize("k", [1, 2, 3, 5, 20])
def test_duplicates_and_too_few_rows(k):
    x = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 5.0]]), 7, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = find_islands(x, k)
    assert labels.shape == (21,)
    assert labels.min() >= 0
    assert labels.max() < k
    assert len(np.unique(labels)) == min(k, 3)
    assert all(len(set(labels[i : i + 7])) == 1 for i in (0, 7, 14))


@pytest.mark.parametrize("n", [3, 4, 9])
def test_few_rows(n):
    x = np.random.default_rng(0).normal(size=(n, 2))
    assert len(np.unique(find_islands(x, 3))) == 3


def test_identical_rows():
    assert find_islands(np.ones((10, 2)), 4).tolist() == [0] * 10


def test_the_result_repeats():
    x, _ = grid()
    assert np.array_equal(find_islands(x, 10, 3), find_islands(x, 10, 3))


def mixture_log_prob(x, k, count, mean, std):
    normal = torch.distributions.Normal(mean, std)
    return torch.logsumexp(normal.log_prob(x[:, None]).sum(-1) + (count / count.sum()).log(), 1)


def test_a_model_starts_as_the_mixture_of_its_islands():
    raw, truth = ring()
    x = torch.from_numpy((raw - raw.mean(0)) / raw.std(0)).float()
    k = torch.from_numpy(truth)
    model = NVF(2, 8, flow_options={"layers": 2, "hidden_features": 16, "blocks": 1}, encoder_features=(64,))
    model.eval()
    before = model.log_prob(x).mean()
    initialise(model, x)
    mean = torch.stack([x[k == j].mean(0) for j in range(8)])
    std = torch.stack([x[k == j].std(0) for j in range(8)])
    mixture = mixture_log_prob(x, k, torch.bincount(k), mean, std)
    with torch.no_grad():
        after = model.log_prob(x)
        assert (after - mixture).mean().abs() < 0.1
        assert after.mean() > before + 1
        assert adjusted_rand_score(truth, model.posterior(x).argmax(1)) > 0.999
        assert adjusted_rand_score(truth, model.approximate_posterior(x).argmax(1)) > 0.98
        usage = model.usage(x)
    assert (usage - torch.bincount(k)[model.posterior(mean).argmax(1).argsort()] / len(k)).abs().max() < 0.01
    assert (model.prior.log_probs().exp() - usage).abs().max() < 0.01


@pytest.mark.parametrize("rows", [torch.zeros(12, 2), torch.eye(2).repeat(3, 1), torch.randn(3, 2)])
def test_initialising_on_degenerate_rows_stays_finite(rows):
    model = NVF(2, 4, flow_options={"layers": 1, "hidden_features": 8, "blocks": 1}, encoder_features=(8,))
    initialise(model, rows, encoder_steps=3)
    assert torch.isfinite(model.log_prob(rows)).all()
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_models_without_states_or_affine_are_left_alone():
    one = NVF(2, 1)
    state = {k: v.clone() for k, v in one.state_dict().items()}
    initialise(one, torch.randn(20, 2))
    assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())
    plain = NVF(2, 3, flow_options={"context_affine": "none", "layers": 1})
    initialise(plain, torch.randn(100, 2), encoder_steps=2)
    assert torch.isfinite(plain.log_prob(torch.randn(5, 2))).all()
