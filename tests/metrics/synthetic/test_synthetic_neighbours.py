"""Precision, recall and distances to training rows: by hand, by scikit-learn, and by chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import NearestNeighbors
from synthetic_tables import CATEGORICAL, mixed, shuffled

from modeflow.errors import DataError
from modeflow.metrics import synthetic
from modeflow.metrics.synthetic import neighbours


def table(x, c=None):
    return {"x": np.asarray(x, dtype=float), "c": list(c or "u" * len(x))}


# -- alpha-precision, beta-recall ---------------------------------------------------------------------


def test_precision_and_recall_by_hand():
    # Scaled to [0, 1] the real x are 0, 0.2, 0.6, 1, their mean 0.45; the level of c is left out.
    # Radii of real rows: 0.45, 0.25, 0.15, 0.55, of synthetic ones: 0.45, 0.25, 0.25, 2.55.
    real, fake = table([0, 2, 6, 10]), table([0, 2, 7, 30])
    found = synthetic.precision_recall(real, fake, levels=3)
    # Levels 0, 1/2, 1: radii 0.15, 0.35, 0.55, with 0, 1/2 and 3/4 of the synthetic rows within.
    assert found.precision_curve == (0, 0.5, 0.75)
    assert found.alpha_precision == pytest.approx(1 - 0.25 / 1.5)
    # Nearest synthetic rows 0, 2, 7, 7 at 0, 0, 0.1, 0.3; nearest others at 0.2, 0.2, 0.4, 0.4: all covered.
    # About the synthetic mean 0.975 these lie at 0.975, 0.775, 0.275, 0.275; radii 0.275, 0.525, 0.975.
    assert found.recall_curve == (0.5, 0.5, 1)
    assert found.beta_recall == pytest.approx(1 - 0.5 / 1.5)


def reference(real, fake, last):
    """The definition, with scikit-learn's neighbours; `last` is the level that is left out."""
    both = pd.concat([real, fake], keys=["r", "s"]).astype({"kind": str, "flag": str})
    both = pd.get_dummies(both, columns=["kind", "name", "flag"], dtype=float).drop(columns=last)
    least, most = both.loc["r"].min(), both.loc["r"].max()
    x, s = (((both.loc[k] - least) / (most - least)).to_numpy() for k in "rs")
    alphas = np.linspace(0, 1, 30)
    radius = np.quantile(np.linalg.norm(x - x.mean(0), axis=1), alphas)
    precision = [(np.linalg.norm(s - x.mean(0), axis=1) <= r).mean() for r in radius]
    own = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(x).kneighbors(x)[0][:, 1]
    to, which = (v[:, 0] for v in NearestNeighbors(n_neighbors=1, algorithm="brute").fit(s).kneighbors(x))
    outer = np.linalg.norm(s[which] - s.mean(0), axis=1)
    recall = [((to <= own) & (outer <= r)).mean() for r in np.quantile(outer, alphas)]
    return [1 - abs(alphas - curve).sum() / alphas.sum() for curve in (precision, recall)]


def test_precision_and_recall_a_second_way(monkeypatch):
    real, fake = mixed(300), shuffled(mixed(300, 1))
    fake["x"] *= 1.2
    expected = reference(real, fake, "flag_True")
    for held in (neighbours._HELD, 2000):  # in one block and in many
        monkeypatch.setattr(neighbours, "_HELD", held)
        found = synthetic.precision_recall(real, fake, CATEGORICAL)
        assert [found.alpha_precision, found.beta_recall] == pytest.approx(expected, abs=1e-12)


def test_copies_have_all_precision_and_recall_and_new_draws_half_the_recall():
    real = mixed(400)
    copies = synthetic.precision_recall(real, real.sample(frac=1, random_state=1), CATEGORICAL)
    assert copies.alpha_precision > 0.98 and copies.beta_recall > 0.98
    # The nearest of 400 new rows is nearer than that of 399 old ones half the time; ten standard errors.
    fresh = synthetic.precision_recall(real, mixed(400, 9), CATEGORICAL)
    assert fresh.alpha_precision > 0.9 and fresh.beta_recall == pytest.approx(0.5, abs=0.25)


def test_missing_cells_levels_unseen_and_constant_columns_have_distances():
    real = {"x": [0.0, 1.0, np.nan, 2.0], "k": [5.0] * 4, "c": ["a", "b", None, "a"], "d": list("uvuv")}
    fake = {"x": [0.0, np.nan, np.nan, 9.0], "k": [5.0] * 4, "c": ["z", "b", None, "a"], "d": list("uvuv")}
    found = synthetic.precision_recall(real, fake)
    assert np.isfinite([*found.precision_curve, *found.recall_curve]).all()
    assert set(found.to_dict()) == {"alpha_precision", "beta_recall", "precision_curve", "recall_curve"}


def test_what_has_no_precision():
    with pytest.raises(DataError, match="one real row"):
        synthetic.precision_recall(table([1.0]), table([1.0]))
    names = {"x": np.zeros(5000), "id": [f"row {i}" for i in range(5000)]}
    with pytest.raises(DataError, match=r"5000 levels.*'id' has 5000"):
        synthetic.precision_recall(names, names)


# -- distances to training rows -----------------------------------------------------------------------


def test_share_by_hand():
    train, held = table([0, 10], "uv"), table([4, 20], "uu")
    # Over the range 10: to (0,u) and (10,v) against (4,u) and (20,u).
    # (1,u): 0.1 and 0.3. (2,u): 0.2 and 0.2. (4,v): 0.6 and 2. (4,u): 0.4 and 0.
    found = synthetic.train_share(train, table([1, 2, 4, 4], "uuvu"), held)
    assert (found.share, found.ties, found.chance) == (0.5, 0.25, 0.5)
    # (15, w), of a level that nobody has: 2.5 against 2.5.
    assert synthetic.train_share(train, table([15], "w"), held).ties == 1
    assert found.to_dict()["standard_error"] == 0.25


def test_near_copies_by_hand():
    # Mean 5, standard deviation 5: distances are in units of 5.
    train = table([0, 10], "uu")
    test = table(np.append(np.linspace(0, 1, 21), 10), "u" * 22)
    found = synthetic.near_copies(train, table([0, 0.01, 0.02, 2], "uuuu"), test)
    # Test distances are 0, 0, .01, .02, ...; their quantiles at 0.02 and 0.05 are 0 and 0.0005 = 0.05 * 0.01.
    assert (found.dcr002, found.dcr005) == (0, 25)
    assert found.copies == 25 and found.test_copies == pytest.approx(200 / 22)
    assert found.distance == pytest.approx((0 + 0.002 + 0.004 + 0.4) / 4)
    assert synthetic.near_copies(train, table([0], "w"), test).distance == 2


def brute(a, b, scale, categorical):
    numbers = sum(abs(a[n].to_numpy()[:, None] - b[n].to_numpy()) / scale[n] for n in scale.index)
    return (numbers + sum(2.0 * (a[c].to_numpy()[:, None] != b[c].to_numpy()) for c in categorical)).min(1)


@pytest.mark.parametrize("held", [1000, 2**20])
def test_distances_a_second_way(monkeypatch, held):
    monkeypatch.setattr(neighbours, "_HELD", held)
    train, fake, test = mixed(200), mixed(150, 1), mixed(120, 2)
    for seed, each in enumerate((train, fake, test)):  # a column of many levels takes another way
        each["many"] = np.random.default_rng(seed).integers(0, 90, len(each)).astype(str)
    numeric, categorical = ["x", "y"], ["kind", "name", "flag", "many"]
    scale = train[numeric].max() - train[numeric].min()
    near, far = (brute(fake, each, scale, categorical) for each in (train, test))
    assert synthetic.train_share(train, fake, test, CATEGORICAL).share == (near < far).mean()
    scale = train[numeric].std(ddof=0)
    ours, theirs = (brute(each, train, scale, categorical) for each in (fake, test))
    found = synthetic.near_copies(train, fake, test, CATEGORICAL)
    assert found.distance == pytest.approx(ours.mean(), rel=1e-12)
    assert found.dcr005 == pytest.approx(100 * (ours < np.quantile(theirs, 0.05)).mean())


def test_memory_shows_in_the_share_and_new_rows_have_chance():
    train, held = mixed(400), mixed(400, 1)
    rng = np.random.default_rng(0)
    near = train.assign(x=train["x"] + 1e-3 * rng.normal(size=400))
    assert synthetic.train_share(train, near, held, CATEGORICAL).share > 0.95
    # Binomial of 1,500 rows (that share neighbours: doubled), four standard errors.
    fresh = synthetic.train_share(train, mixed(1500, 2), held, CATEGORICAL)
    assert fresh.share + fresh.ties / 2 == pytest.approx(0.5, abs=8 * fresh.standard_error)
    copies = synthetic.near_copies(train, train, held, CATEGORICAL)
    assert copies.copies == 100 and copies.dcr002 == 100 and copies.test_copies == 0


def test_distances_of_missing_cells_and_of_categories_alone():
    train = {"x": [1.0, 3.0, np.nan], "c": list("uuv")}
    # The mean is 2, the range 2: (nan, v) is there; (nan, u) is 1 + 1/2 from (1, u), 2 from (nan, v).
    found = synthetic.near_copies(
        {**train, "k": [7.0] * 3},
        {"x": [np.nan, np.nan], "c": list("vu"), "k": [7.0] * 2},
        {**train, "k": [7.0] * 3},
    )
    assert found.copies == 50 and found.distance == pytest.approx((0 + 2) / 2)
    words = {"c": list("uuv")}
    assert synthetic.train_share(words, {"c": ["v"]}, {"c": ["u"]}).share == 1
