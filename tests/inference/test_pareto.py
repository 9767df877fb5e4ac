"""The tail of weights: draws of known shape, and weights whose tail is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import genpareto

from modeflow.errors import ConfigError
from modeflow.inference import fit_pareto, smooth_log_weights

SHAPES = [-0.4, -0.1, 0.0, 0.2, 0.5, 0.9, 1.5]


@pytest.mark.parametrize("k", SHAPES)
def test_the_shape_of_scipys_draws(k):
    """Within five standard errors of the best estimate, (1 + k) / √n: a false alarm in 1e-6."""
    n = 4000
    y = genpareto.rvs(k, scale=3.0, size=n, random_state=np.random.default_rng(1))
    shape, scale = fit_pareto(y, weakly_informed=False)
    assert abs(shape - k) < 5 * (1 + max(k, 0)) / math.sqrt(n)
    assert scale == pytest.approx(3, rel=5 * math.sqrt(2 * (1 + max(k, 0)) / n))
    informed, same = fit_pareto(y)
    assert informed == pytest.approx((n * shape + 5) / (n + 10)) and same == scale
    if k >= 0:  # where the likelihood is regular
        mle, _, scale_mle = genpareto.fit(y, floc=0)
        assert shape == pytest.approx(mle, abs=0.01) and scale == pytest.approx(scale_mle, rel=0.01)
    # A change of units changes the scale alone.
    assert fit_pareto(1e6 * y, False) == pytest.approx((shape, 1e6 * scale))


def test_few_draws_have_a_mean_that_is_right():
    """Of 400 sets of 30 draws the mean shape, within five standard errors and the known bias of order 1/n."""
    generator = np.random.default_rng(0)
    found = [fit_pareto(genpareto.rvs(0.5, size=30, random_state=generator), False)[0] for _ in range(400)]
    assert abs(np.mean(found) - 0.5) < 5 * np.std(found) / 20 + 0.05


@pytest.mark.parametrize("k", [0.3, 0.6, 1.2])
def test_weights_with_a_known_tail(k):
    """``w = u^{-k}`` is a Pareto variable of shape k; a constant factor changes nothing."""
    u = np.random.default_rng(2).uniform(size=20_000)
    logs = -k * np.log(u)
    smooth, found = smooth_log_weights(logs)
    assert found == pytest.approx(k, abs=5 * (1 + k) / math.sqrt(3 * math.sqrt(20_000)))
    assert smooth_log_weights(logs - 1e4)[1] == pytest.approx(found, abs=1e-6)
    # The tail alone changes; its order does not, and nothing exceeds the largest weight.
    tail = np.argsort(logs)[-math.ceil(3 * math.sqrt(20_000)) :]
    rest = np.setdiff1d(np.arange(20_000), tail)
    assert np.array_equal(smooth[rest], logs[rest]) and not np.array_equal(smooth[tail], logs[tail])
    assert np.all(np.diff(smooth[tail]) >= 0) and smooth.max() <= logs.max()


def test_smoothing_brings_a_heavy_mean_nearer():
    """Of 200 samples of weights of shape 0.7, whose mean is 1/0.3: the squared error of its logarithm."""
    generator, truth = np.random.default_rng(3), -math.log(0.3)
    plain, smooth = [], []
    for _ in range(200):
        logs = -0.7 * np.log(generator.uniform(size=1000))
        plain.append(np.log(np.exp(logs).mean()) - truth)
        smooth.append(np.log(np.exp(smooth_log_weights(logs)[0]).mean()) - truth)
    assert np.square(smooth).mean() < 0.9 * np.square(plain).mean()


def test_weights_at_the_ends():
    assert smooth_log_weights(np.zeros(100))[1] == -math.inf
    assert smooth_log_weights(np.zeros(3))[1] == math.inf
    one = np.full(100, -1e4)
    one[7] = 0.0
    logs, k = smooth_log_weights(one)
    assert k > 0.7 and logs[7] == 0
    some = np.where(np.arange(1000) < 500, -np.inf, np.random.default_rng(0).normal(size=1000))
    logs, k = smooth_log_weights(some)
    assert math.isfinite(k) and np.isneginf(logs[:500]).all()
    assert smooth_log_weights(np.full(50, -np.inf))[1] == math.inf
    with pytest.raises(ConfigError, match="5 finite draws above 0"):
        fit_pareto(np.zeros(10))
