"""Two-sample tests and utility by trees: halves of the truth pass, broken rows do not, definitions hold."""

from __future__ import annotations

import sys
from itertools import product

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from synthetic_tables import CATEGORICAL, mixed, shuffled

from modeflow.errors import ConfigError, DataError
from modeflow.metrics import synthetic
from modeflow.metrics.synthetic.coding import code_tables
from modeflow.metrics.synthetic.efficiency import _inputs

xgboost = pytest.importorskip("xgboost")
SMALL = {"n_estimators": (5, 10), "max_depth": (2, 4), "gamma": (0.0, 1.0)}


# -- detection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", ["xgboost", "logistic"])
def test_a_half_of_the_truth_is_not_told_from_the_other(classifier):
    # Each fold's area has a standard error of 0.41 / sqrt(200) = 0.029 under chance: the score is below 0.85
    # only where the mean of three areas is above 0.575 (4.5 standard errors, once in 3e5 runs).
    found = synthetic.detection(mixed(600), mixed(600, 1), CATEGORICAL, classifier, n_jobs=1)
    assert 0.85 < found.score <= 1 and len(found.folds) == 3
    assert found.score == pytest.approx(1 - np.mean([2 * max(0.5, a) - 1 for a in found.folds]))
    assert found.auc == pytest.approx(np.mean(found.folds)) and found.rows == (600, 600)
    assert found == synthetic.detection(mixed(600), mixed(600, 1), CATEGORICAL, classifier, n_jobs=1)
    assert found.to_dict()["rows"] == [600, 600]


def test_trees_see_that_columns_were_shuffled_and_a_line_does_not():
    real = mixed(600)
    fake = shuffled(mixed(600, 1))
    assert synthetic.detection(real, fake, CATEGORICAL, n_jobs=1).score < 0.3
    assert synthetic.detection(real, fake, CATEGORICAL, "logistic").score > 0.8
    moved = mixed(600, 1).assign(x=lambda t: t["x"] + 20)
    assert synthetic.detection(real, moved, CATEGORICAL, "logistic").score < 0.1


def test_detection_a_second_way():
    """Means for holes, one-hot for text, numbers for codes, 0 and 1 for booleans; median and quartiles."""
    real, fake = mixed(150), shuffled(mixed(120, 1))
    real.loc[:9, "x"] = np.nan
    fake.loc[:4, ["x", "kind"]] = np.nan
    numbers = [[t[name].astype(float) for t in (real, fake)] for name in ("x", "y", "kind", "flag")]
    columns = [[values.fillna(pair[0].mean()) for values in pair] for pair in numbers]
    columns += [[(t["name"] == level) * 1.0 for t in (real, fake)] for level in ("high", "low", "mid")]
    x = np.array([np.concatenate(pair) for pair in columns]).T
    y = np.repeat([1, 0], [150, 120])
    areas = []
    for a, b in StratifiedKFold(3, shuffle=True, random_state=7).split(x, y):
        low, middle, high = np.percentile(x[a], [25, 50, 75], axis=0)
        z = (x - middle) / np.where(high > low, high - low, 1)
        areas.append(roc_auc_score(y[b], LogisticRegression().fit(z[a], y[a]).predict_proba(z[b])[:, 1]))
    found = synthetic.detection(real, fake, CATEGORICAL, "logistic", seed=7)
    np.testing.assert_allclose(found.folds, areas, atol=1e-9)


def test_a_level_that_real_rows_lack_is_told():
    real = {"x": np.zeros(90), "c": ["a", "b", "a"] * 30}
    fake = {"x": np.zeros(90), "c": ["a", "b", "z"] * 30}
    # A third of the synthetic rows is seen: the area is 1/2 + 1/6.
    found = synthetic.detection(real, fake, n_jobs=1)
    assert found.auc == pytest.approx(2 / 3, abs=0.08)


def test_what_has_no_detection():
    with pytest.raises(ConfigError, match=r"classifier must be.*did you mean 'logistic'"):
        synthetic.detection(mixed(9), mixed(9), CATEGORICAL, "logistics")
    with pytest.raises(DataError, match="2 synthetic rows: 3 or more"):
        synthetic.detection(mixed(9), mixed(2), CATEGORICAL)


def test_without_xgboost_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    for score in (synthetic.detection, lambda a, b, c: synthetic.utility(a, b, "name", c)):
        with pytest.raises(ConfigError, match=r"pip install 'modeflow\[synthetic\]'"):
            score(mixed(30), mixed(30), CATEGORICAL)


# -- utility ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["name", "flag", "x"])
def test_real_rows_teach_and_shuffled_rows_do_not(target):
    train, test = mixed(500), mixed(300, 1)
    good, bad = (
        synthetic.utility(rows, test, target, CATEGORICAL, grid=SMALL, n_jobs=1)
        for rows in (train, shuffled(train))
    )
    if target == "x":
        assert good.measure == "rmse" and good.score < 0.5 * bad.score
    else:
        # 300 rows: an area under chance has a standard error of 0.04.
        assert good.measure == "roc_auc" and good.score > 0.7 and abs(bad.score - 0.5) < 0.2
    assert set(good.chosen) == set(SMALL) and good.to_dict()["measure"] == good.measure


def test_utility_a_second_way():
    """Every setting fitted by itself; scaled by the first column's range; the best on a ninth is taken."""
    train, test = mixed(300), mixed(200, 1)
    order = np.random.default_rng(3).permutation(300)
    held, fitted = order[:33], order[33:]
    least, most = (np.float32(f(train["x"])) for f in (min, max))

    def inputs(table):
        numbers = [(table[n].to_numpy(np.float32) - least) / (most - least) * 5 for n in ("x", "y")]
        kinds = [(table["kind"] == level).to_numpy(np.float32) for level in range(4)]
        return np.array([*numbers, *kinds, table["flag"] == 0, table["flag"] == 1], dtype=np.float32).T

    codes = [t["name"].map({"high": 0, "low": 1, "mid": 2}).to_numpy() for t in (train, test)]

    def area(truth, p):
        return np.mean([roc_auc_score(truth == c, p[:, c]) for c in range(3)])

    results = []
    for depth, gamma, trees in product((2, 4), (0.0, 1.0), (5, 10)):
        model = xgboost.XGBClassifier(
            n_estimators=trees, max_depth=depth, gamma=gamma, tree_method="hist", n_jobs=1
        ).fit(inputs(train)[fitted], codes[0][fitted])
        chance = area(codes[0][held], model.predict_proba(inputs(train)[held]))
        results.append((chance, area(codes[1], model.predict_proba(inputs(test)))))
    best = max(results, key=lambda r: r[0])
    found = synthetic.utility(train, test, "name", CATEGORICAL, grid=SMALL, seed=3, n_jobs=1)
    assert (found.validation, found.score) == pytest.approx(best, abs=1e-9)


def test_the_oddities_of_scaling():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(10, 5000, 400), rng.normal(0, 100, 400)
    # The first column is positive and large, so b is a logarithm, too: its sign is lost.
    rows = pd.DataFrame({"a": a, "b": b, "t": b > 0})
    lost = synthetic.utility(rows, rows, "t", grid=SMALL, n_jobs=1)
    negative = pd.DataFrame({"a": -a, "b": -abs(b), "t": b < -50})
    kept = synthetic.utility(rows[["b", "a", "t"]], rows, "t", grid=SMALL, n_jobs=1)
    assert kept.score == 1 and lost.score > 0.99  # above zero remains above 0.01
    gone = synthetic.utility(negative.assign(a=a), negative.assign(a=a), "t", grid=SMALL, n_jobs=1)
    assert gone.score < 0.9
    constant = pd.DataFrame({"k": np.full(400, 3.0), "b": b, "t": b > 0})
    assert synthetic.utility(constant, constant, "t", grid=SMALL, n_jobs=1).score == 1


def test_inputs_by_hand():
    rows = {"t": [1.0, 2.0], "a": [0.0, 2.0], "b": [3.0, 5.0], "c": ["u", "v"], "d": [1.0, 1.0]}
    test = {"t": [1.0, 2.0], "a": [1.0, 4.0], "b": [0.0, 2.0], "c": ["v", "w"], "d": [4.0, 4.0]}
    first, second = _inputs(code_tables({"synthetic": rows, "test": test}), "t")
    # Of a: 5 x / 2. Its minimum of 0 is replaced by the 3 of b, then by no other: 5 (x - 3) / (2 - 3).
    assert first.tolist() == [[0, 0, 1, 0, 10], [5, -10, 0, 1, 10]]
    assert second.tolist() == [[2.5, 15, 0, 1, -5], [10, 5, 0, 0, -5]]
    large = {"t": [1.0, 2.0], "a": [10.0, 1000.0], "b": [-5.0, 0.001]}
    logs, _ = _inputs(code_tables({"synthetic": large, "test": large}), "t")
    np.testing.assert_allclose(logs, np.log([[10, 0.01], [1000, 0.01]]), rtol=1e-6)


def test_the_logarithm_of_a_target_is_clipped():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"x": rng.normal(size=400)})
    rows["y"] = np.exp(3 * rows["x"])
    found = synthetic.utility(rows, rows, "y", log_target=True, grid=SMALL, n_jobs=1)
    assert found.score < 0.3
    # Below 1 and above 20,000 all targets are the same.
    far = rows.assign(y=np.where(rows["y"] < 1, -5.0, np.where(rows["y"] > 20_000, 1e9, rows["y"])))
    other = synthetic.utility(
        far, far, "y", log_target=True, grid={**SMALL, "max_depth": (4,), "gamma": (0,)}
    )
    same = synthetic.utility(
        rows, rows, "y", log_target=True, grid={**SMALL, "max_depth": (4,), "gamma": (0,)}
    )
    assert other.score == pytest.approx(same.score, abs=0.15)


def test_classes_that_synthetic_rows_lack():
    test = mixed(200, 1)
    one = mixed(100).assign(name="low")
    assert synthetic.utility(one, test, "name", CATEGORICAL, grid=SMALL, n_jobs=1).score == 0.5
    two = mixed(300)[lambda t: t["name"] != "mid"]
    assert 0.5 < synthetic.utility(two, test, "name", CATEGORICAL, grid=SMALL, n_jobs=1).score < 0.95


BAD = {
    "no column": ({"target": "nam"}, ConfigError, "no column 'nam'; did you mean 'name'"),
    "log of classes": ({"target": "name", "log_target": True}, ConfigError, "has no logarithm"),
    "no trees": ({"target": "name", "grid": {"gamma": (0,)}}, ConfigError, "no n_estimators"),
    "no value": ({"target": "name", "grid": {**SMALL, "gamma": ()}}, ConfigError, "no value"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_utility_that_cannot_be(case):
    options, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        synthetic.utility(mixed(50), mixed(50, 1), categorical=CATEGORICAL, **options)


def test_targets_that_cannot_be():
    rows, test = mixed(50), mixed(50, 1)
    holes = rows.assign(x=rows["x"].where(rows["x"] > 0), name=rows["name"].where(rows["name"] != "low"))
    for target in ("x", "name"):
        with pytest.raises(DataError, match=f"'{target}' has missing cells"):
            synthetic.utility(holes, test, target, CATEGORICAL)
    with pytest.raises(DataError, match="same 'name'"):
        synthetic.utility(rows, test.assign(name="low"), "name", CATEGORICAL)
    with pytest.raises(DataError, match="nine or more"):
        synthetic.utility(rows[:8], test, "name", CATEGORICAL)
    with pytest.raises(DataError, match="no column to predict"):
        synthetic.utility(rows[["x"]], test[["x"]], "x")
