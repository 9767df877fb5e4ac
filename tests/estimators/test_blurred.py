"""Numbers seen through noise: densities that integrate to one, columns left out, crowds without spikes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import beta

from modeflow import NVF, NVFOutlier, load_estimator
from modeflow.errors import DataError
from modeflow.estimators import blurred
from modeflow.estimators.blurred import BlurredTrees


def rows(n=400, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return np.column_stack([a, 20 * a + 8 * rng.normal(size=n), rng.exponential(size=n) / 100])


@pytest.fixture(scope="module")
def detector():
    return NVFOutlier(calibration=0.4, random_state=0).fit(rows(300))


@pytest.fixture(scope="module")
def one(detector):
    return detector.densities_[0]


@pytest.mark.parametrize("axes", [1, 2])
def test_densities_integrate_to_one(monkeypatch, axes):
    """Over the plane of standardised columns; a tree over one of two axes beside a Gaussian too."""
    monkeypatch.setattr(blurred, "_AXES", axes)
    found = BlurredTrees(0).fit(rows(200)[:, :2])
    line = np.linspace(-9, 9, 451)
    plane = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    assert [view.axes for view in found.views] == [axes] * 3
    for view in found.views:
        total = np.exp(view.log_prob(plane @ view.whiten)).sum() * (line[1] - line[0]) ** 2
        assert total == pytest.approx(1, abs=2e-2)


def test_scores_are_in_the_units_of_the_data():
    """A table in other units has the same fits, and densities that differ by the units."""
    X, units = rows(80), np.array([1.0, 8.0, 0.25])
    other, same = BlurredTrees(0).fit(X * units), BlurredTrees(0).fit(X)
    expected = same.score_samples(X) - np.log(units).sum()
    np.testing.assert_allclose(other.score_samples(X * units), expected, rtol=1e-4, atol=1e-3)


def test_a_column_left_out_is_integrated_over(one):
    X = rows(3, 1)
    joint, rest = one.left_out(X)
    np.testing.assert_allclose(joint, one.score_samples(X))
    spread = one.scale[1]
    line = one.mean[1] + spread * np.linspace(-15, 15, 6001)
    for i, row in enumerate(X):
        many = np.repeat(row[None], len(line), 0)
        many[:, 1] = line
        t = one._standard(many)
        each = [np.exp(v.log_prob(t @ v.whiten)).sum() * (line[1] - line[0]) / spread for v in one.views]
        expected = np.mean(np.log(each)) - np.log(one.scale[[0, 2]]).sum()
        assert rest[i, 1] == pytest.approx(expected, abs=0.01)


def test_a_crowd_makes_no_spike():
    """Three rows in ten lie within a millionth of one another: of a column's density they are a spike, on
    which a row that is odd otherwise looks usual; through noise it does not."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))
    X[:150, 0] = 0.3 + 1e-6 * rng.normal(size=150)
    odd = np.array([[0.3, 3.5]])
    plain = NVF(latent="tree", latent_options={"likelihood": "leaves", "states": 8}, max_epochs=20)
    gaps, p = [], []
    for density in (plain, None):
        found = NVFOutlier(density, calibration=0.4, random_state=0).fit(X)
        scores = found.score_samples(X)
        gaps.append(scores[:150].mean() - scores[150:].mean())
        p.append(found.p_values(odd)[0])
        assert found.contributions(odd)[0].argmax() == 1
    assert gaps[0] > 6 > 2 > gaps[1]
    assert p[0] > 0.3 > 0.05 > p[1]


def test_false_alarms_are_as_many_as_said(detector):
    """Of n rows held out the share of alarms is Beta(k, n + 1 - k); by chance false: 1e-4 a level."""
    p, n = detector.p_values(rows(5000, 1)), len(detector.held_scores_)
    assert n == 120
    for alpha in (0.05, 0.1, 0.5):
        k = int(alpha * (n + 1))
        low, high = beta.ppf([5e-5, 1 - 5e-5], k, n + 1 - k)
        assert low - 0.02 < (p <= alpha).mean() < high + 0.02


def test_the_columns_that_are_odd_together_say_so(detector):
    X = rows(20, 3)
    usual = detector.contributions(X)
    X[:, 0], X[:, 1], X[:, 2] = 1.5, -30.0, 0.01
    parts = detector.contributions(X)
    assert (parts[:, :2] > parts[:, 2:] + 1).all() and abs(np.median(usual)) < 1


def test_saved_and_loaded(detector, tmp_path):
    X = rows(20, 4)
    again = load_estimator(detector.save(tmp_path / "odd.safetensors"))
    np.testing.assert_array_equal(again.score_samples(X), detector.score_samples(X))
    np.testing.assert_array_equal(again.contributions(X), detector.contributions(X))
    assert again.column_names_ == ("x0", "x1", "x2") and again.n_features_in_ == 3


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_frames_of_numbers(kind, tmp_path):
    X = np.column_stack([rows(40), np.ones(40)])
    table = kind({name: X[:, j] for j, name in enumerate("abcd")})
    found = NVFOutlier(calibration=2, random_state=0).fit(table)
    assert found.column_names_ == ("a", "b", "c", "d") and isinstance(found.densities_[0], BlurredTrees)
    again = load_estimator(found.save(tmp_path / "odd.safetensors"))
    assert list(again.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(again.score_samples(table), found.score_samples(table))
    wrong = X[:2].copy()
    wrong[0, 3] = 2.0
    other = kind({name: wrong[:, j] for j, name in enumerate("abcd")})
    assert np.isneginf(found.score_samples(other)).tolist() == [True, False]
    parts = found.contributions(other)
    assert parts[0, 3] == np.inf and np.isnan(parts[0, :3]).all() and parts[1, 3] == 0


def test_other_tables_have_a_density_of_their_columns(detector):
    X = rows(60)
    holed = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    found = NVFOutlier(calibration=2, random_state=0).fit(holed)
    assert isinstance(found.densities_[0], NVF) and np.isfinite(found.score_samples(holed)).all()
    with pytest.raises(DataError, match="fitted to complete numbers"):
        detector.score_samples(holed)
    with pytest.raises(DataError, match="all columns are constant"):
        NVFOutlier(random_state=0).fit(np.ones((20, 2)))
