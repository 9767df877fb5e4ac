"""Classes by one joint density: Bayes' rule by brute force, the contract of scikit-learn, and bad labels."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import check_estimator

from modeflow import NVF, FlowDensity, NVFClassifier, load_estimator
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators import ImageDensity

TREE = {"states": 3, "likelihood": "leaves"}
FLOW = {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 4}
BENT = {"latent_options": {"states": 3, "likelihood": "flow"}, "flow_options": FLOW, "random_state": 0}
LEAVES = {"latent_options": TREE, "random_state": 0}
NAMES = np.array(["mid", "low", "top"])
# Batches are drawn at random, so that a row of weight two and a row given twice do not train alike.
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": "fitting draws random batches"}


def table(n: int = 300, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Numbers and words, and three classes, the last of them rare."""
    rng = np.random.default_rng(seed)
    y = rng.choice(3, n, p=[0.5, 0.4, 0.1])
    word = np.array(["red", "blue", "green"])[(y + (rng.random(n) < 0.3)) % 3]
    frame = pd.DataFrame({"a": rng.normal(2.0 * y, 1.0), "b": rng.normal(size=n), "word": word})
    return frame, NAMES[y]


def quiet(classifier: NVFClassifier, X, y, **options) -> NVFClassifier:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs may be worse than independent columns
        return classifier.fit(X, y, **options)


@pytest.fixture(scope="module", params=["leaves", "flow"])
def fitted(request):
    density = NVF(max_epochs=3, **(BENT if request.param == "flow" else LEAVES))
    return quiet(NVFClassifier(density), *table())


def brute_force(model: NVFClassifier, X: pd.DataFrame) -> np.ndarray:
    """log p(x, y = c) by the joint density itself, class by class."""
    rows = [X.assign(**{model.label_: code}) for code in range(len(model.classes_))]
    return np.stack([model.density_.score_samples(part) for part in rows], 1)


# -- Bayes


def test_probabilities_and_densities_are_those_of_the_joint(fitted):
    X, _ = table(60, 1)
    assert fitted.density_.density_kind_ == "exact"
    assert fitted.classes_.tolist() == ["low", "mid", "top"]
    joint = brute_force(fitted, X)
    evidence = logsumexp(joint, axis=1)
    np.testing.assert_allclose(fitted.score_samples(X), evidence, rtol=1e-10)
    np.testing.assert_allclose(fitted.predict_log_proba(X), joint - evidence[:, None], atol=1e-9)
    np.testing.assert_allclose(fitted.predict_proba(X), np.exp(joint - evidence[:, None]), atol=1e-10)
    assert (fitted.predict(X) == fitted.classes_[joint.argmax(1)]).all()
    given = fitted.class_log_prob(X) + np.log(fitted.class_prior_)
    np.testing.assert_allclose(given, joint, atol=1e-9)
    assert np.ptp(fitted.predict_proba(X), axis=0).min() > 0.05


@pytest.mark.parametrize("options", [LEAVES, BENT], ids=["leaves", "flow"])
def test_a_density_given_a_class_integrates_to_one(options):
    """Over a number by quadrature, and over the words; the prior over the classes."""
    X, y = table()
    model = quiet(NVFClassifier(NVF(max_epochs=2, **options)), X[["a", "word"]], y)
    axis = np.linspace(-25, 30, 8001)
    rows = [pd.DataFrame({"a": axis, "word": word}) for word in ("red", "blue", "green")]
    total = sum(np.exp(model.class_log_prob(part)).sum(0) for part in rows) * (axis[1] - axis[0])
    np.testing.assert_allclose(total, 1, atol=2e-3)
    assert model.class_prior_.sum() == pytest.approx(1, abs=1e-9)
    evidence = sum(np.exp(model.score_samples(part)).sum() for part in rows) * (axis[1] - axis[0])
    assert evidence == pytest.approx(total @ model.class_prior_, rel=1e-9)


def test_the_prior_is_learned_from_the_shares(fitted):
    y = table()[1]
    share = np.array([(y == name).mean() for name in fitted.classes_])
    np.testing.assert_allclose(fitted.class_prior_, share, atol=0.1)


def test_drawn_classes_come_as_often_as_the_prior_says(fitted):
    """Five standard errors of each share: a false alarm in 1e-6."""
    n = 20_000
    rows, labels = fitted.sample(n, random_state=1)
    assert list(rows.columns) == ["a", "b", "word"] and rows["a"].dtype == np.float64
    prior = fitted.class_prior_
    for name, share in zip(fitted.classes_, prior, strict=True):
        assert abs((labels == name).mean() - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_rows_drawn_of_a_class_follow_bayes(fitted):
    """Of a word and an interval, by importance weights of joint rows: five standard errors, 18 cells at 1e-6.

    The rows of all classes, weighted by p(y | x) / p(y), have the distribution of one class.
    """
    n = 20_000
    mine, labels = fitted.sample(n, "top", random_state=2)
    assert set(labels) == {"top"}
    rows, _ = fitted.sample(n, random_state=3)
    weight = fitted.predict_proba(rows)[:, 2] / fitted.class_prior_[2]
    cut = np.quantile(mine["a"], [0.2, 0.4, 0.6, 0.8])
    for word, place in itertools.product(("red", "blue", "green"), range(5)):
        here = (mine["word"] == word) & (np.digitize(mine["a"], cut) == place)
        there = weight * ((rows["word"] == word) & (np.digitize(rows["a"], cut) == place))
        error = np.sqrt(here.var() / n + there.var() / n)
        assert abs(here.mean() - there.mean()) < 5 * error + 1e-3
    assert (rows["word"] == "red").mean() != pytest.approx((mine["word"] == "red").mean(), abs=0.02)


def test_classes_may_be_given_one_by_one(fitted):
    asked = ["top", "low", "low", "mid"]
    rows, labels = fitted.sample(4, asked)
    assert labels.tolist() == asked and len(rows) == 4 and not rows.isna().any(axis=None)
    again, _ = fitted.sample(4, np.array(asked))
    assert again.equals(rows)


def test_lattices_tell_no_class_apart():
    """Counts that say nothing of the class: at offsets of their own a row has classes apart by chance."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"n": rng.poisson(900, 200), "x": rng.normal(size=200)})
    model = quiet(NVFClassifier(NVF(max_epochs=2, **BENT)), X, rng.integers(0, 2, 200))
    assert model.density_.density_kind_ == "lower bound"
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    alone = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(10)])
    np.testing.assert_allclose(alone, proba[:10], rtol=1e-9)
    joint = brute_force(model, X)
    own = np.exp(joint - logsumexp(joint, axis=1)[:, None])
    np.testing.assert_allclose(own, proba, atol=0.1)


# -- rows


def test_missing_cells_are_summed_out_by_leaves_and_refused_by_a_flow(fitted):
    X, _ = table(20, 2)
    holes = X.assign(word=None)
    if fitted.density_.get_params()["latent_options__likelihood"] == "flow":
        with pytest.raises(DataError, match="row 1 has a missing cell"):
            fitted.predict(holes)
        nothing = holes.assign(a=np.nan, b=np.nan)
        np.testing.assert_allclose(fitted.predict_proba(nothing)[0], fitted.class_prior_, rtol=1e-9)
        return
    summed = logsumexp([brute_force(fitted, X.assign(word=w)) for w in ("red", "blue", "green")], axis=0)
    np.testing.assert_allclose(
        fitted.predict_log_proba(holes), summed - logsumexp(summed, axis=1)[:, None], atol=1e-9
    )


def test_a_row_that_no_class_has_says_nothing(fitted):
    X, _ = table(3, 3)
    with pytest.warns(UserWarning, match="'word' has values that it did not have"):
        proba = fitted.predict_proba(X.assign(word=["red", "violet", "blue"]))
    np.testing.assert_allclose(proba[1], fitted.class_prior_)
    assert not np.allclose(proba[0], fitted.class_prior_)


@pytest.mark.parametrize("kind", ["numpy", "objects", "pandas", "polars"])
def test_rows_come_back_as_they_were_given(kind):
    X, y = table(120)
    X = X if kind in ("pandas", "polars", "objects") else X[["a", "b"]]
    given = {"numpy": X.to_numpy, "objects": X.to_numpy, "pandas": lambda: X}.get(
        kind, lambda: pl.DataFrame(X.to_dict("list"))
    )()
    labels = (
        pl.Series("level", y) if kind == "polars" else pd.Series(y, name="level") if kind == "pandas" else y
    )
    model = quiet(NVFClassifier(NVF(max_epochs=1, **LEAVES)), given, labels)
    assert model.label_ == {"numpy": "x2", "objects": "x3"}.get(kind, "level")
    assert model.n_features_in_ == X.shape[1] and hasattr(model, "feature_names_in_") == (kind[0] == "p")
    for rows, drawn in (model.sample(7), model.sample(7, "low")):
        assert type(rows) is type(given) and rows.shape == (7, X.shape[1]) and len(drawn) == 7
        assert getattr(rows, "dtype", None) == getattr(given, "dtype", None)
        assert model.predict_proba(rows).shape == (7, 3)
    assert model.predict(given).shape == (120,)


@pytest.mark.parametrize("labels", [[3, 7], [False, True], [2.0, 5.0], ["a", "?"], ["NA", "none"]])
def test_labels_of_every_kind(labels):
    X, y = table(120)
    given = np.array(labels)[(y == "low").astype(int)]
    for each in (given, given.astype(object), pd.Series(given), given.tolist()):
        model = quiet(NVFClassifier(NVF(max_epochs=1, **LEAVES)), X[["a", "b"]], each)
        assert model.classes_.tolist() == sorted(labels)
        assert set(model.predict(X[["a", "b"]])) <= set(labels)
        if each is given:
            assert model.predict(X[["a", "b"]]).dtype == given.dtype


def test_a_class_of_a_single_row_and_weights_of_zero():
    X, y = table(120)
    y = y.astype(object)
    y[7] = "once"
    model = quiet(NVFClassifier(NVF(max_epochs=2, **LEAVES)), X, y)
    assert model.classes_.tolist() == ["low", "mid", "once", "top"]
    assert model.predict_proba(X).shape == (120, 4)
    weight = (y != "once").astype(float)
    model = quiet(NVFClassifier(NVF(max_epochs=2, **LEAVES)), X, y, sample_weight=weight)
    assert model.classes_.tolist() == ["low", "mid", "top"]


def test_weights_move_the_prior():
    X, y = table(400)
    weight = np.where(y == "top", 20.0, 1.0)
    plain, heavy = (
        quiet(NVFClassifier(NVF(max_epochs=5, **LEAVES)), X, y, sample_weight=w) for w in (None, weight)
    )
    assert heavy.class_prior_[2] > plain.class_prior_[2] + 0.2


def test_validation_rows_may_be_given():
    X, y = table(200)
    model = quiet(NVFClassifier(NVF(max_epochs=1, **LEAVES)), X, y, validation=table(50, 5))
    assert model.density_.validation_["n"] == 50
    with pytest.raises(DataError, match="no class 'new'"):
        NVFClassifier(NVF(**LEAVES)).fit(X, y, validation=(X[:1], ["new"]))


# -- the contract


def test_scikit_learn_accepts_it():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = NVF(latent_options={"states": 6, "likelihood": "leaves"}, max_epochs=3, random_state=0)
        results = check_estimator(NVFClassifier(density), expected_failed_checks=EXPECTED)
    assert len(results) > 40
    assert {r["status"] for r in results} <= {"passed", "skipped", "xfail"}


def test_parameters_of_the_density_are_searched():
    X, y = table(150)
    search = GridSearchCV(
        NVFClassifier(NVF(max_epochs=1, **LEAVES)),
        {"density__training__ema": [None, 0.9], "density__latent_options__states": [2]},
        cv=2,
        error_score="raise",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = search.fit(X, y).best_estimator_
    assert best.density.training.ema == search.best_params_["density__training__ema"]
    assert best.density_.latent_.prior.n_states == 2
    assert not hasattr(best.density, "model_"), "the parameter stays unfitted"
    assert clone(best).density.random_state == 0


def test_saved_and_loaded(fitted, tmp_path):
    X, _ = table(30, 4)
    path = fitted.save(tmp_path / "model.safetensors")
    for loaded in (NVFClassifier.load(path), load_estimator(path)):
        assert isinstance(loaded, NVFClassifier)
        np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
        assert loaded.sample(5)[0].equals(fitted.sample(5)[0])
        assert loaded.classes_.dtype == fitted.classes_.dtype
        assert loaded.feature_names_in_.tolist() == ["a", "b", "word"] and loaded.n_features_in_ == 3
        assert loaded.get_params()["density__max_epochs"] == 3
    assert loaded.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    with pytest.raises(ModelFileError, match="holds a NVFClassifier, not a NVF"):
        NVF.load(path)


# -- what users get wrong


def test_bad_labels_and_densities():
    X, y = table(60)
    hole = y.astype(object)
    hole[4] = None
    mixed = y.astype(object)
    mixed[3] = 3
    for labels, message in (
        (hole, r"y has no label \(NaN\) in data row 5"),
        (pd.Series(hole), "data row 5"),
        (pl.Series(hole.tolist()), "data row 5"),
        (np.where(np.arange(60) > 57, np.nan, 1.0), r"data row 59 \(and 1 more\)"),
        (mixed, "different types"),
        (np.full(60, "one"), "y has one class, .*'one'.*two or more"),
        (pd.Series(y, name="word"), "column 'word' of X has the name of y"),
        (None, "requires y"),
    ):
        with pytest.raises(DataError, match=message):
            NVFClassifier(NVF(**LEAVES)).fit(X, labels)
    with pytest.raises(DataError, match="stratify has shape"):
        NVF(**LEAVES).fit(X, stratify=y[:9])
    for labels, message in ((np.linspace(0, 1, 60), "Unknown label type"), (y[:50], "inconsistent numbers")):
        with pytest.raises(ValueError, match=message):
            NVFClassifier(NVF(**LEAVES)).fit(X, labels)
    for density, message in (
        (FlowDensity(), "must be an NVF, received FlowDensity"),
        (ImageDensity(), "must be an NVF"),
        (NVF(latent="discrete"), "latent='discrete' does not take: use 'tree'"),
        (NVF(latent="tree", latent_options={"prior": "uniform"}), "'prior' is not known"),
    ):
        with pytest.raises(ConfigError, match=message):
            NVFClassifier(density).fit(X, y)


def test_bad_questions_of_a_fitted_classifier(fitted):
    X, _ = table(5)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X.rename(columns={"b": "c"}))
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X.assign(more=1.0))
    with pytest.raises(DataError, match="no class 'best'"):
        fitted.sample(3, "best")
    with pytest.raises(ConfigError, match="y must be one class or 3, received 2"):
        fitted.sample(3, ["low", "top"])
    with pytest.raises(ConfigError, match="n_samples"):
        fitted.sample(0, "low")


def test_the_name_of_the_labels_is_free():
    X, y = table(60)
    model = quiet(NVFClassifier(NVF(max_epochs=1, **LEAVES)), X.rename(columns={"a": "class"}), y)
    assert model.label_ == "class_"
