"""Estimators on columns as files have them: far rows, steps, ranges, units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats
from small_estimators import FAST

from modeflow import NVF, FlowDensity
from modeflow.errors import DataError
from modeflow.estimators import load_estimator

MORE = {**FAST, "max_epochs": 8, "learning_rate": 5e-3}


@pytest.mark.parametrize("far", [1e2, 1e6])
def test_one_far_row_leaves_the_others_their_density(far):
    rng = np.random.default_rng(0)
    bulk, test = rng.normal(size=(600, 2)), rng.normal(size=(1000, 2))
    fitted = FlowDensity(**MORE).fit(np.r_[bulk, [[far, far]]])
    truth = stats.norm.logpdf(test).sum(1).mean()
    assert fitted.score(test) > truth - 0.15
    assert -3000 < fitted.score_samples([[far, far]])[0] < -20


def test_values_keep_to_their_steps_and_ranges(tmp_path):
    rng = np.random.default_rng(1)
    n = 600
    flag = (rng.random(n) < 0.1) * 1.0
    rain = np.where(rng.random(n) < 0.5, 0, np.round(rng.exponential(5, n), 1))
    x = np.column_stack([flag, rain, np.round(rng.normal(60, 8, n)) * 1000, rng.lognormal(0, 1, n)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = FlowDensity(**MORE).fit(x)
    for estimator in (fitted, load_estimator(fitted.save(tmp_path / "m.safetensors"))):
        drawn = estimator.sample(20_000)[0]
        assert set(drawn[:, 0]) == {0.0, 1.0}
        assert drawn[:, 1].min() == 0
        np.testing.assert_array_equal(drawn[:, 1], np.round(drawn[:, 1], 1))
        np.testing.assert_array_equal(drawn[:, 2] % 1000, 0)
        assert drawn[:, 3].min() > 0
        assert drawn[:, 0].mean() == pytest.approx(0.1, abs=0.2)
        assert (drawn[:, 1] == 0).mean() == pytest.approx(0.5, abs=0.2)
    # Values that no row had are unlikely, not impossible.
    odd = fitted.score_samples([[2.0, -3.0, 61_000.0, -1.0]])
    assert np.isfinite(odd).all()
    assert odd[0] < fitted.score_samples(x).min()


def test_probabilities_of_a_flag_and_a_count_sum_to_one():
    rng = np.random.default_rng(2)
    x = np.column_stack([(rng.random(500) < 0.2) * 1.0, rng.poisson(1.5, 500) * 0.5])
    fitted = FlowDensity(**{**MORE, "score_draws": 64}).fit(x)
    grid = np.array([[a, b] for a in (0.0, 1.0) for b in np.arange(30) * 0.5])
    p = np.exp(fitted.score_samples(grid))
    assert 0.97 < p.sum() < 1.005
    drawn = fitted.sample(20_000)[0]
    share = [(drawn == row).all(1).mean() for row in grid]
    np.testing.assert_allclose(p, share, atol=0.02)  # 20,000 draws: standard errors below 0.0035


@pytest.mark.parametrize("unit", [1e-310, 1e200])
def test_units_shift_the_score(unit):
    rng = np.random.default_rng(3)
    z = np.r_[rng.normal(-4, 1, (100, 2)), rng.normal(4, 1, (100, 2))]
    scale = np.array([unit, 1.0])
    plain = NVF(2, **FAST, latent_options={"encoder_features": (8,)}).fit(z)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor is there anything to warn of
        scaled = NVF(2, **FAST, latent_options={"encoder_features": (8,)}).fit(z * scale)
    difference = scaled.score_samples(z * scale) + np.log(unit) - plain.score_samples(z)
    assert abs(difference).max() < 1e-3


def test_times_in_nanoseconds():
    rng = np.random.default_rng(4)
    z = rng.normal(size=(200, 1))
    fitted = FlowDensity(**FAST).fit(1.7e18 + 1e15 * z)
    assert fitted.density_kind_ == "exact"
    assert fitted.score(1.7e18 + 1e15 * z) + np.log(1e15) == pytest.approx(-1.42, abs=0.3)


def test_what_float32_loses_and_what_no_double_holds_is_named():
    x = np.random.default_rng(5).normal(size=(200, 2))
    x[100:, 1] += 1e12
    with pytest.warns(UserWarning, match="lost to float32 in 'x1'"):
        FlowDensity(**{**FAST, "max_epochs": 1}).fit(x)
    with pytest.raises(DataError, match="beyond 1e\\+300 in 'x0'"):
        FlowDensity(**FAST).fit(np.c_[x[:, 0] * 1e301, x[:, 1]])
