"""The scikit-learn face: what users of GaussianMixture expect, and what they get wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from small_estimators import FAST, FLOW, islands

from modeflow import NVF, FlowDensity
from modeflow.data import Schema
from modeflow.domains import TableDomain
from modeflow.domains.table import independent_gaussians
from modeflow.errors import ConfigError, DataError
from modeflow.estimators.fitting import Fit, FitData, warn_if_trivial
from modeflow.estimators.settings import Settings
from modeflow.latents import DiscreteOptions
from modeflow.training import Training

WIDTHS = {"encoder_features": (8,)}
SMALL = {**FAST, "latent_options": WIDTHS}
# Batches are drawn at random, so that a row of weight two and a row given twice do not train alike; the
# check is made for deterministic estimators (scikit-learn expects the same failure of its own SGD models).
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": "fitting draws random batches"}


@pytest.fixture(scope="module")
def nvf():
    return NVF(3, **SMALL).fit(islands())


@pytest.fixture(scope="module")
def flow():
    return FlowDensity(**FAST).fit(islands())


@pytest.mark.parametrize("estimator", [FlowDensity(**FAST), NVF(2, **SMALL)], ids=["FlowDensity", "NVF"])
def test_scikit_learn_accepts_it(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator.set_params(max_epochs=1), expected_failed_checks=EXPECTED)
    assert len(results) > 40
    assert {r["status"] for r in results} <= {"passed", "skipped", "xfail"}


# -- the density


def test_the_density_integrates_to_one_in_the_units_of_the_data(nvf, flow):
    axis = np.linspace(0, 2600, 600)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for estimator in (nvf, flow):
        mass = np.exp(estimator.score_samples(grid)).sum() * (axis[1] - axis[0]) ** 2
        assert abs(mass - 1) < 0.01


def test_a_score_depends_on_its_row_alone(nvf):
    x = islands(300, 1)
    alone = np.concatenate([nvf.score_samples(row[None]) for row in x[:20]])
    np.testing.assert_allclose(nvf.score_samples(x)[:20], alone, rtol=1e-10)
    assert nvf.score(x) == pytest.approx(nvf.score_samples(x).mean())


def test_likelihood_carries_its_kind_and_error(nvf):
    x = islands(200, 2)
    found = nvf.likelihood_of(x)
    assert found.kind == nvf.density_kind_ == "exact"
    assert found.n == 200
    assert found.standard_error == pytest.approx(nvf.score_samples(x).std(ddof=1) / np.sqrt(200))


def test_states_are_the_islands(nvf):
    x = islands(300, 3)
    proba = nvf.predict_proba(x)
    assert proba.shape == (300, 3)
    np.testing.assert_allclose(proba.sum(1), 1)
    np.testing.assert_array_equal(nvf.predict(x), proba.argmax(1))
    island = (x[:, 0] > 1300) + 2 * (x[:, 1] > 1300)
    assert all(len(set(nvf.predict(x)[island == i])) == 1 for i in range(3))
    assert nvf.weights_.sum() == pytest.approx(1)


def test_samples_follow_the_fit(nvf):
    x, states = nvf.sample(3000)
    assert x.shape == (3000, 2)
    assert x.dtype == np.float64
    assert np.mean(nvf.predict(x) == states) > 0.99
    # False-alarm rate 1e-6 for a right sampler: binomial counts against the weights.
    share = np.bincount(states, minlength=3) / 3000
    error = np.sqrt(nvf.weights_ * (1 - nvf.weights_) / 3000)
    assert (np.abs(share - nvf.weights_) < norm.isf(1e-6) * error).all()
    one, of_state = nvf.sample(50, state=1)
    assert set(of_state) == {1}
    assert set(nvf.predict(one)) == {1}
    np.testing.assert_array_equal(nvf.sample(5)[0], nvf.sample(5)[0])
    assert not np.array_equal(nvf.sample(5, random_state=1)[0], nvf.sample(5, random_state=2)[0])


def test_a_plain_flow_is_nvf_with_one_state():
    x = islands()
    one = NVF(1, **SMALL).fit(x)
    plain = FlowDensity(**FAST).fit(x)
    np.testing.assert_array_equal(one.score_samples(x), plain.score_samples(x))
    np.testing.assert_array_equal(one.sample(10)[0], plain.sample(10)[0])
    assert set(plain.predict(x)) == {0}


def test_fitting_repeats_and_leaves_the_global_generator_alone():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    a = NVF(2, **SMALL).fit(islands())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    b = NVF(2, **SMALL).fit(islands())
    x = islands(50, 4)
    np.testing.assert_array_equal(a.score_samples(x), b.score_samples(x))
    c = NVF(2, **{**SMALL, "random_state": 1}).fit(islands())
    assert not np.array_equal(a.score_samples(x), c.score_samples(x))


def test_weights(nvf):
    x = islands(600)
    left = x[:, 0] < 1300
    weight = np.where(left, 1.0, 0.0)
    fitted = NVF(2, **SMALL).fit(x, sample_weight=weight)
    only = NVF(2, **SMALL).fit(x[left])
    np.testing.assert_array_equal(fitted.score_samples(x[:50]), only.score_samples(x[:50]))
    heavy = FlowDensity(**FAST).fit(x, sample_weight=np.where(left, 20.0, 1.0))
    light = FlowDensity(**FAST).fit(x)
    assert heavy.score(x[left]) > light.score(x[left])
    with pytest.raises(DataError, match="negative: row 1"):
        FlowDensity(**FAST).fit(x, sample_weight=-weight - 1)


# -- integer columns


def counts(n=600, seed=0):
    rng = np.random.default_rng(seed)
    mean = np.where(rng.random(n) < 0.5, 3.0, 40.0)
    return np.column_stack([rng.poisson(mean), rng.normal(0, 1, n) + mean])


def test_integer_columns_have_probabilities():
    estimator = NVF(2, **{**SMALL, "max_epochs": 10}).fit(counts())
    assert estimator.schema_.integer_columns == ("x0",)
    assert estimator.density_kind_ == "lower bound"
    x, _ = estimator.sample(500)
    assert np.array_equal(x[:, 0], np.round(x[:, 0]))
    # The sum over the integers and the integral over the other column is at most one, and nearly one.
    axis = np.linspace(-10, 60, 281)
    grid = np.array([[k, y] for k in range(-10, 90) for y in axis])
    mass = np.exp(estimator.score_samples(grid)).sum() * (axis[1] - axis[0])
    assert 0.98 < mass < 1.002


def test_dequantize_by_name_or_not_at_all():
    x = counts()
    assert NVF(2, dequantize="none", **SMALL).fit(x).density_kind_ == "exact"
    with pytest.raises(ConfigError, match="unknown column 'y'"):
        NVF(2, dequantize=["y"], **SMALL).fit(x)


# -- frames


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_column_names_are_kept_and_checked(library):
    x = islands()
    frame = library.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    estimator = FlowDensity(**FAST).fit(frame)
    assert estimator.schema_.columns == ("a", "b")
    np.testing.assert_allclose(estimator.score_samples(frame), FlowDensity(**FAST).fit(x).score_samples(x))
    with pytest.raises(ValueError, match="feature names"):
        estimator.score_samples(library.DataFrame({"a": x[:, 0], "c": x[:, 1]}))


def test_inside_pipeline_and_grid_search():
    x = islands(200)
    pipe = make_pipeline(StandardScaler(), FlowDensity(**{**FAST, "max_epochs": 1}))
    search = GridSearchCV(pipe, {"flowdensity__learning_rate": [1e-3, 1e-2]}, cv=2, error_score="raise").fit(
        x
    )
    assert search.best_params_["flowdensity__learning_rate"] in (1e-3, 1e-2)
    assert np.isfinite(search.best_estimator_.score_samples(x)).all()
    assert clone(pipe).get_params()["flowdensity__max_epochs"] == 1


def test_groups_of_parameters_are_reached_by_one_name():
    x = islands(120)
    search = GridSearchCV(
        NVF(2, **{**SMALL, "max_epochs": 1}),
        {"training__ema": [None, 0.9], "latent_options__epsilon": [0.1], "flow_options__bins": [3]},
        cv=2,
        error_score="raise",
    ).fit(x)
    best = search.best_estimator_
    assert best.training.ema == search.best_params_["training__ema"]
    assert best.latent_options.epsilon == 0.1 and best.latent_options.encoder_features == (8,)
    assert best.flow_options_["bins"] == 3 and best.flow_options_["layers"] == FLOW["layers"]


def test_a_group_is_none_a_mapping_or_an_object():
    made = [NVF(training=given) for given in ({"patience": 3}, Training(patience=3))]
    made.append(NVF().set_params(training__patience=3))
    assert len({repr(each.group("training")) for each in made}) == 1
    assert NVF().get_params()["training__patience"] == Training().patience
    switched = NVF().set_params(latent_options__features=3, latent="continuous")
    assert switched.group("latent_options").features == 3
    own = Training(patience=3)
    NVF(training=own).set_params(training__patience=4)
    assert own.patience == 3, "the caller's object is not changed"


# -- beside a trivial density


def test_a_density_worse_than_independent_gaussians_is_not_silent():
    x = islands()
    data = FitData(x[:200], x[200:], None, None, TableDomain(Schema.infer(x, ("a", "b"), "none")))
    fit = Fit(Settings.of(FlowDensity(**FAST), 0), data, 1)
    own = independent_gaussians(x[:200], x[200:], None)
    expected = norm(x[:200].mean(0), x[:200].std(0)).logpdf(x[200:]).sum(1)
    np.testing.assert_allclose(own, expected)
    noise = np.random.default_rng(0).normal(size=len(own))
    with pytest.warns(
        UserWarning, match=r"worse than Gaussians of independent columns, by 0\.\d+ ± 0\.\d+ nats"
    ):
        warn_if_trivial(fit.data, own - 0.5 + noise)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_trivial(fit.data, own)
        warn_if_trivial(fit.data, own - 0.03 + noise - noise.mean())  # may be chance
        warn_if_trivial(fit.data, own - 0.015)  # what a flow loses on Gaussian data


def test_a_fit_that_ends_worse_than_independent_gaussians_says_so():
    x = np.random.default_rng(0).normal(size=(120, 2))
    small = {"flow_options": {"layers": 1, "hidden_features": 8}, "max_epochs": 1, "learning_rate": 1e-6}
    with pytest.warns(UserWarning, match="worse than Gaussians of independent columns"):
        FlowDensity("aef-noisy", **small, random_state=0).fit(x)


# -- what users get wrong


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: NVF(0, **SMALL), "n_states must be an integer of 1 or more"),
        (lambda: NVF("many", **SMALL), "or 'auto', received 'many'"),
        (lambda: NVF(2, **{**SMALL, "flow": "nsf-couplin"}), "did you mean 'nsf-coupling'"),
        (lambda: NVF(2, **{**SMALL, "flow_options": {"layer": 2}}), "did you mean 'layers'"),
        (lambda: NVF(2, **{**SMALL, "flow_options": [2]}), "flow_options must be a mapping"),
        (lambda: NVF(2, **{**SMALL, "latent_options": {"objective": "elb"}}), "did you mean 'elbo'"),
        (lambda: NVF(2, **{**SMALL, "latent_options": {"prior": "flat"}}), "prior must be"),
        (lambda: NVF(2, **{**SMALL, "latent_options": {"temperatur": 1}}), "did you mean 'temperature'"),
        (lambda: NVF(2, **{**SMALL, "latent_options": {"temperature": 1}}), "no use for 'temperature'"),
        (
            lambda: NVF(2, **{**SMALL, "latent_options": {"objective": "elbo", "temperature": 0}}),
            "temperature must be above 0",
        ),
        (
            lambda: NVF(2, latent="continuous", latent_options={"epsilon": 0.1}),
            "latent_options: 'epsilon' is not known",
        ),
        (lambda: NVF(2, latent_options=DiscreteOptions(), latent="continuous"), "ContinuousOptions"),
        (lambda: FlowDensity(training={"emma": 1}), "did you mean 'ema'"),
        (lambda: FlowDensity(training={"ema": 1}), "ema must be a number above 0 and below 1"),
        (lambda: FlowDensity(training=3), "training must be Training or a mapping"),
        (lambda: FlowDensity(**{**FAST, "validation_fraction": 2}), "between 0 and 1"),
        (lambda: FlowDensity(**{**FAST, "score_draws": 0}), "score_draws"),
        (lambda: FlowDensity(**{**FAST, "learning_rate": 0}), "learning_rate"),
    ],
)
def test_bad_parameters_are_refused_before_training(make, says):
    with pytest.raises(ConfigError, match=says):
        make().fit(islands())


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.column_stack([np.ones(50), np.arange(50.0)]), "constant: 'x0'"),
        (np.tile([[1.0, 2.0], [3.0, 4.0]], (30, 1)), "distinct rows"),
        (islands(5), "5 rows; at least"),
        (np.where(np.arange(100).reshape(50, 2) == 7, np.nan, 1.5), r"1 missing value \(NaN\) in 'x1'"),
        (np.where(np.arange(100).reshape(50, 2) == 7, np.inf, 1.5), "'x1', data row 4 is infinite"),
    ],
)
def test_bad_data_is_refused(x, says):
    with pytest.raises(DataError, match=says):
        FlowDensity(**FAST).fit(x)


def test_text_is_refused():
    with pytest.raises(ValueError, match="could not convert string to float"):
        FlowDensity(**FAST).fit([["a", "b"]] * 20)


@pytest.mark.parametrize("library", [pd, pl])
def test_columns_of_text_are_named(library):
    frame = library.DataFrame({"a": [1.0, 2, 3], "b": ["x", "y", None], "c": ["u", "v", "w"]})
    for call in (FlowDensity(**FAST).fit, lambda bad: FlowDensity(**FAST).fit(islands(), validation=bad)):
        with pytest.raises(DataError, match=r"columns 'b', 'c' are not numbers \('b' holds 'x'\): encode"):
            call(frame)
    # Numbers of other types, and missing ones, are no text.
    when = library.DataFrame({"a": [1.0, 2, 3], "b": [True, False, None], "c": [1, 2, None]})
    with pytest.raises(DataError, match="missing value"):
        FlowDensity(**FAST).fit(when)
    with pytest.raises(ConfigError, match="'b' has missing cells"):
        NVF(2, **SMALL).fit(when)


def test_bad_requests_of_a_fitted_model(nvf):
    with pytest.raises(DataError, match="infinite"):
        nvf.score_samples(np.array([[np.inf, 0.0]]))
    with pytest.raises(ValueError, match="3 features"):
        nvf.score_samples(np.zeros((4, 3)))
    with pytest.raises(ConfigError, match="n_samples"):
        nvf.sample(0)
    with pytest.raises(ConfigError, match="state must lie in"):
        nvf.sample(1, state=9)


def test_the_papers_objective_has_its_schedules():
    estimator = NVF(2, **{**FAST, "max_epochs": 5, "latent_options": {**WIDTHS, "objective": "elbo"}}).fit(
        islands()
    )
    loss = estimator.model_.model.loss  # 360 rows in batches of 64: six steps an epoch
    assert (loss.kl_warmup_steps, loss.anneal_steps) == (3, 15)
    options = {**WIDTHS, "objective": "elbo", "kl_warmup_steps": 7, "temperature": 0.8}
    estimator = NVF(2, **{**FAST, "latent_options": options}).fit(islands())
    assert estimator.model_.model.loss.kl_warmup_steps == 7
    assert estimator.model_.model.loss.temperature == 0.8
    assert {"usage_entropy", "kl"} <= set(estimator.history_[-1])


def test_options_of_the_flow(flow):
    assert flow.get_params()["flow_options"] == FLOW
    assert flow.training_["steps"] == flow.history_[-1]["step"] == 3 * 6


def test_rows_that_cannot_be_written_are_scored_without_a_word(nvf):
    x = islands(20)
    expected = nvf.score_samples(x)
    x.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(nvf.score_samples(x), expected)


def test_bare_pixels_are_refused_by_flows_of_images():
    x = np.random.default_rng(0).integers(0, 4, (60, 16)).astype(float)
    with pytest.raises(DataError, match="no bound there"):
        FlowDensity("glow", dequantize="none", max_epochs=1).fit(x)
    options = {"levels": 1, "steps": 1, "hidden_channels": 4}
    FlowDensity("glow", flow_options=options, max_epochs=1, random_state=0).fit(x)
