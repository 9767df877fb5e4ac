"""Odd rows: the contract of scikit-learn's detectors, false alarms, reasons, files, and bad input."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import beta
from sklearn.utils.estimator_checks import check_estimator

from modeflow import NVF, NVFOutlier, load_estimator
from modeflow.errors import ConfigError, DataError, ModelFileError

LEAVES = {"latent": "tree", "latent_options": {"likelihood": "leaves", "states": 6}}
SMALL = {**LEAVES, "max_epochs": 3, "device": "cpu", "random_state": 0}


def numbers(n=300, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return np.column_stack([a, 2 * a + 0.3 * rng.normal(size=n), rng.exponential(size=n)])


def mixed(n=200, seed=0):
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    frame = pd.DataFrame(
        {
            "height": rng.normal(160 + 25 * side, 5),
            "city": np.array(["Oslo", "Rome"])[side],
            "count": rng.poisson(3 + 9 * side),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.05).astype({"city": object})


def quiet(X, **options):
    density = options.pop("density", NVF(**SMALL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return NVFOutlier(density, random_state=0, **options).fit(X)


@pytest.fixture(scope="module")
def split():
    return quiet(numbers(700), calibration=0.3)


@pytest.fixture(scope="module")
def folds():
    return quiet(numbers(), calibration=3)


def test_scikit_learn_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = NVF(**{**SMALL, "max_epochs": 1, "latent_options": {"likelihood": "leaves", "states": 2}})
        results = check_estimator(NVFOutlier(density, calibration=0.3, random_state=0))
    assert len(results) > 40
    assert {r["status"] for r in results} <= {"passed", "skipped"}


# -- false alarms


def test_false_alarms_are_as_many_as_said(split):
    """Of a calibration part of n rows the share of alarms is Beta(k, n + 1 - k), k = α (n + 1) rounded down;
    by chance false: 1e-4 a level, beside the spread over 20,000 fresh rows."""
    fresh = numbers(20_000, 1)
    p, n = split.p_values(fresh), len(split.held_scores_)
    assert n == 210
    for alpha in (0.05, 0.1, 0.5):
        k = int(alpha * (n + 1))
        low, high = beta.ppf([5e-5, 1 - 5e-5], k, n + 1 - k)
        assert low - 0.005 < (p <= alpha).mean() < high + 0.005
    np.testing.assert_array_equal(split.predict(fresh) == -1, p <= 0.05)
    assert p.min() == 1 / 211


def test_false_alarms_by_folds_are_no_more(folds):
    """One-sided, as p-values by folds are too large if anything; by chance false: below 1e-4."""
    fresh = numbers(20_000, 1)
    p = folds.p_values(fresh)
    assert len(folds.held_scores_) == 300 and sorted(folds.held_rows_) == list(range(300))
    for alpha in (0.05, 0.1, 0.5):
        k = int(alpha * 301)
        assert (p <= alpha).mean() < beta.ppf(1 - 1e-4, k, 301 - k) + 0.005
    assert (p <= 0.1).mean() > 0.03  # and not so few that nothing is found


@pytest.mark.parametrize("calibration", [0.3, 2])
def test_held_out_rows_leave_no_trace_in_the_fit_that_scores_them(calibration):
    """With other values in the held-out rows of the first fit its density is the same, bit by bit."""
    X = numbers(120)
    one = quiet(X, calibration=calibration)
    held = one.held_rows_[: 36 if calibration < 1 else 60]
    other = X.copy()
    other[held] = numbers(len(held), 9)
    two = quiet(other, calibration=calibration)
    fresh = numbers(50, 2)
    first, second = (each.densities_[0].score_samples(fresh) for each in (one, two))
    np.testing.assert_array_equal(first, second)
    if calibration == 2:
        assert (one.score_samples(fresh) != two.score_samples(fresh)).all()


def test_held_out_scores_are_those_of_the_fit_without_them(folds):
    X, start = numbers(), 0
    for density in folds.densities_:
        held = folds.held_rows_[start : start + 100]
        np.testing.assert_allclose(density.score_samples(X[held]), folds.held_scores_[start : start + 100])
        start += 100
    mean = np.mean([np.exp(density.score_samples(X)) for density in folds.densities_], 0)
    np.testing.assert_allclose(folds.score_samples(X), np.log(mean), rtol=1e-9)


# -- thresholds


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_contamination_is_the_share_of_the_rows_that_are_called_odd(share):
    X = numbers(200)
    found = quiet(X, calibration=0.3, contamination=share)
    assert (found.predict(X) == -1).sum() == round(200 * share)
    np.testing.assert_array_equal(found.decision_function(X), found.score_samples(X) - found.offset_)


def test_a_level_below_the_least_p_value_is_said():
    with pytest.warns(UserWarning, match="30 rows held out have no p-value below 0.032: alpha=0.01"):
        found = NVFOutlier(NVF(**SMALL), calibration=0.25, alpha=0.01, random_state=0).fit(numbers(120))
    assert found.offset_ == found.held_scores_.min()


# -- reasons


def test_the_column_that_is_odd_has_the_largest_part(folds, split):
    X = numbers(20, 3)
    usual = X.copy()
    X[:, 0], X[:, 2] = 1.0, 0.5
    X[:, 1] = -2.0  # in the range of the column, and not beside the first
    for found in (folds, split):
        parts = found.contributions(X)
        assert found.column_names_ == ("x0", "x1", "x2")
        assert (parts[:, :2] > parts[:, 2:] + 1).all()
        assert abs(np.median(found.contributions(usual))) < 1


def test_contributions_of_folds_are_by_the_average_density(folds):
    X = numbers(5, 4)
    hidden = X.copy()
    hidden[:, 2] = np.nan
    of_all = [np.exp(d._score(hidden)) for d in folds.densities_]
    exact = np.log(np.mean(of_all, 0)) - folds.score_samples(X) - folds.usual_surprises_[2]
    np.testing.assert_allclose(folds.contributions(X)[:, 2], exact, rtol=1e-8)


# -- tables as people have them


def polars(frame):
    """A frame of pandas as one of polars (whose own way needs pyarrow)."""
    return pl.DataFrame({name: [None if pd.isna(v) else v for v in frame[name]] for name in frame})


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_levels_and_missing_cells(kind):
    X = mixed(300)
    table = X if kind is pd.DataFrame else polars(X)
    found = quiet(table, calibration=2, density=NVF(**{**SMALL, "max_epochs": 30}))
    scores, parts = found.score_samples(table), found.contributions(table)
    assert np.isfinite(scores).all() and list(found.feature_names_in_) == ["height", "city", "count"]
    np.testing.assert_array_equal(np.isnan(parts), X.isna().to_numpy())
    # Odd together, usual one by one.
    odd = pd.DataFrame({"height": [186.0], "city": ["Oslo"], "count": [12]})
    odd = odd if kind is pd.DataFrame else polars(odd)
    assert found.p_values(odd)[0] < 0.1 and found.contributions(odd)[0].argmax() == 1
    with pytest.raises((DataError, ValueError), match="count"):
        found.score_samples(odd.drop("count", axis=1) if kind is pd.DataFrame else odd.drop("count"))


def test_kinds_of_columns_are_those_of_all_rows():
    """Folds of few whole numbers, some of which lack what says so, take them alike."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=60), rng.poisson(4, 60)])
    for density in (NVF(**SMALL), NVF(1, max_epochs=1, flow="nsf-coupling", random_state=0)):
        found = quiet(X, calibration=3, density=density)
        assert len({str(d.domain_.said()) for d in found.densities_}) == 1
        assert np.isfinite(found.score_samples(X)).all()


# -- files


@pytest.mark.parametrize("which", ["split", "folds"])
def test_saved_and_loaded(which, request, tmp_path):
    found, X = request.getfixturevalue(which), numbers(30, 5)
    path = found.save(tmp_path / "odd.safetensors")
    for again in (NVFOutlier.load(path), load_estimator(path)):
        np.testing.assert_array_equal(again.score_samples(X), found.score_samples(X))
        np.testing.assert_array_equal(again.p_values(X), found.p_values(X))
        np.testing.assert_array_equal(again.contributions(X), found.contributions(X))
        np.testing.assert_array_equal(again.predict(X), found.predict(X))
        assert again.get_params(deep=False).keys() == found.get_params(deep=False).keys()
    with pytest.raises(ModelFileError, match="holds a NVFOutlier"):
        NVF.load(path)


# -- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"contamination": 0.6}, "contamination must lie in"),
        ({"contamination": 0.0}, "contamination must lie in"),
        ({"contamination": "some"}, "contamination must lie in"),
        ({"contamination": -0.1}, r"contamination must lie in \(0, 0.5\] or be 'auto', received -0.1"),
        ({"contamination": float("nan")}, "contamination must lie in"),
        ({"contamination": True}, "contamination must lie in"),
        ({"contamination": None}, "contamination must lie in"),
        ({"alpha": 1.0}, "alpha must lie between"),
        ({"alpha": "x"}, "alpha must lie between"),
        ({"calibration": 1}, "calibration must be a share"),
        ({"calibration": 1.5}, "calibration must be a share"),
        ({"calibration": True}, "calibration must be a share"),
        ({"density": "tree"}, "density must be an NVF"),
    ],
)
def test_parameters_that_are_not_allowed(options, words):
    with pytest.raises(ConfigError, match=words):
        NVFOutlier(**options).fit(numbers(20))


def test_too_few_rows_and_other_columns(folds):
    with pytest.raises(DataError, match="too few"):
        NVFOutlier(calibration=0.5).fit(numbers(4))
    with pytest.raises(ValueError, match="2 features, but NVFOutlier is expecting 3"):
        folds.predict(numbers(5)[:, :2])


def test_a_column_that_is_nearly_constant_is_one_of_levels():
    """A failure in one row of a hundred: no fold lacks it, and what never happened has no probability."""
    X = numbers(100)
    X[:, 2] = 0.0
    X[7, 2] = 3.5
    found = quiet(X, calibration=3)
    assert {d.schema_["x2"].kind for d in found.densities_} == {"categorical"}
    with pytest.warns(UserWarning, match="x2"):
        assert found.score_samples(np.array([[0.0, 0.0, 9.0]]))[0] == -np.inf
    said = quiet(numbers(100), calibration=2, density=NVF(**SMALL, columns={"x1": "real"}))
    assert {d.schema_["x1"].kind for d in said.densities_} == {"real"}
