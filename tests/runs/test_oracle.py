"""Every number of a run's result.json, recomputed from the saved model and the rows of its split."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

import oracle
from modeflow.data import toy
from modeflow.report.gather import gather
from modeflow.runs import RunConfig, fit_baselines, fit_run, load_run

SMALL = {
    "flow": "nsf-coupling",
    "flow_options": {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 4},
    "latent_options": {"encoder_features": [8]},
    "max_epochs": 4,
    "batch_size": 32,
    "n_states": 2,
    "training": {"patience": None, "schedule": "constant"},
    "seed": 5,
}
#: What a plain flow beside the model shares with it.
PLAIN = ("flow_options", "max_epochs", "training")
#: Mean log-likelihoods in float64, with derivatives by finite differences.
EXACT = 1e-5
#: With a column of whole numbers: sixteen offsets against the integral.
INTEGRAL = 0.01


def real(n: int = 300, seed: int = 0) -> pl.DataFrame:
    """Two blobs in units whose logarithms do not cancel."""
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    a = rng.normal(8.0 * side, 1.0)
    return pl.DataFrame({"far": 300 * a + 1000, "near": 20 * (rng.normal(0, 1, n) + 0.5 * a)})


def counted(n: int = 300, seed: int = 0) -> pl.DataFrame:
    """Whole numbers beside real ones."""
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    return pl.DataFrame({"size": 50 * rng.normal(6.0 * side, 1.0), "count": rng.poisson(4, n) + 20 * side})


def fit(folder, name, frame, **settings):
    frame.write_csv(folder / f"{name}.csv")
    config = RunConfig.build({**SMALL, "data": str(folder / f"{name}.csv"), **settings})
    return fit_run(config, folder / name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Per kind of run: the run, and its training, validation and test rows."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for name, frame in (("real", real()), ("counted", counted())):
        parts = [frame.to_numpy().astype(float)[rows] for rows in oracle.split_rows(300, SMALL["seed"])]
        made[name] = (fit(folder, name, frame), *parts)
    held, tested = real(50, 1), real(60, 2)
    held.write_csv(folder / "held.csv")
    tested.write_csv(folder / "tested.csv")
    run = fit(folder, "files", real(), validation=str(folder / "held.csv"), test=str(folder / "tested.csv"))
    made["files"] = (run, *(part.to_numpy() for part in (real(), held, tested)))
    return made


KINDS = ("real", "counted", "files")


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_are_those_of_the_saved_model_on_the_rows_of_each_part(runs, kind):
    run, *parts = runs[kind]
    result = json.loads((run.path / "result.json").read_text())
    model = oracle.saved(run)
    within = INTEGRAL if kind == "counted" else EXACT
    word = "lower bound" if kind == "counted" else "exact"
    for name, rows in zip(("train", "validation", "test"), parts, strict=True):
        expected = oracle.log_density(model, rows)
        value, error = oracle.mean_and_error(expected)
        told = result["log_likelihood"][name]
        assert told["value"] == pytest.approx(value, abs=within), name
        assert told["standard_error"] == pytest.approx(error, abs=within)
        assert (told["n"], told["kind"], told["non_finite"]) == (len(rows), word, 0)
        # Row by row too: an offset in the wrong interval moves rows up and down, and hardly their mean.
        scores = model.score_samples(rows)
        np.testing.assert_allclose(scores, expected, atol=20 * within)
        proba = oracle.posterior(oracle.log_joint(model, rows))
        np.testing.assert_allclose(model.predict_proba(rows), proba, atol=1e-3 if kind == "counted" else 1e-6)
    assert result["density"] == word
    assert result["rows"] == dict(zip(("train", "validation", "test"), map(len, parts), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_is_in_two_parts_of_the_split(runs, kind):
    run, *parts = runs[kind]
    _, split = run.data()
    for ours, given in zip(parts, split, strict=True):
        assert oracle.same_rows(ours, given.values)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert oracle.shared_rows(parts[i], parts[j]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_fit_says_of_its_training_holds_of_the_saved_model(runs, kind):
    run, train, held, _ = runs[kind]
    result = json.loads((run.path / "result.json").read_text())
    model = oracle.saved(run)
    training = result["training"]
    known = {row["epoch"]: row["validation"] for row in model.history_ if "validation" in row}
    # The best of all, or the start where what followed is not clearly better.
    assert training["best_validation"] == known[training["best_epoch"]]
    assert training["best_epoch"] in (0, max(known, key=lambda epoch: known[epoch]))
    assert max(known) == training["steps"] / -(-len(train) // SMALL["batch_size"])
    if kind == "counted":
        # One offset a row instead of the integral: standard error over rows and five of them.
        expected = oracle.log_density(model, held)
        assert training["best_validation"] <= expected.mean() + 0.3
        assert training["best_validation"] > expected.mean() - 0.5
        assert model.validation_["value"] == pytest.approx(training["best_validation"], abs=0.02)
    else:
        value, error = oracle.mean_and_error(oracle.log_density(model, held))
        # float32, and states that the encoder gives less than 1e-4 left out.
        assert training["best_validation"] == pytest.approx(value, abs=0.01)
        assert model.validation_["value"] == pytest.approx(value, abs=1e-4)
        assert model.validation_["standard_error"] == pytest.approx(error, abs=1e-4)
    assert model.validation_["n"] == len(held)
    assert model.validation_["kind"] == result["density"]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_weights_are_those_in_the_file(runs, kind):
    run, *_ = runs[kind]
    result = json.loads((run.path / "result.json").read_text())
    tensors = load_file(run.path / "model.safetensors")
    names = {name for name, _ in run.estimator.model_.named_parameters()}
    assert names <= set(tensors)
    assert result["n_parameters"] == sum(tensors[name].numel() for name in names)
    (logits,) = (t for name, t in tensors.items() if name.endswith("prior.logits"))
    weights = torch.softmax(logits.double(), 0).numpy()
    np.testing.assert_allclose(result["weights"], weights, atol=1e-6)
    assert result["n_states"] == len(weights) == 2
    # They are the shares of the training rows, nearly: both islands are half of them.
    assert weights.min() > 0.35


@pytest.mark.parametrize("kind", ["real", "counted"])
def test_baselines_are_densities_in_the_units_of_the_data(runs, kind):
    run, train, held, test = runs[kind]
    _, split = run.data()
    rows = {row["name"]: row for row in fit_baselines(run, split)}
    mixture, flow = rows["Gaussian mixture"], rows["plain flow"]
    model = oracle.saved(run)
    ours = oracle.log_density(model, test)
    seen = np.concatenate([train, held])
    # A mixture of our own, fitted in the units of the data; its optimum is plain, two blobs far apart.
    if kind == "counted":
        seen = seen + np.random.default_rng(9).uniform(-0.5, 0.5, seen.shape) * [0, 1]
    assert mixture["note"].count("K = 2")
    found = GaussianMixture(2, random_state=3, n_init=3, reg_covar=1e-9).fit(seen)

    def at(x):
        parts = [
            np.log(weight) + multivariate_normal(mean, covariance).logpdf(x)
            for weight, mean, covariance in zip(found.weights_, found.means_, found.covariances_, strict=True)
        ]
        return np.logaddexp(*parts)

    if kind == "counted":
        offsets = (np.arange(32) + 0.5) / 32 - 0.5
        theirs = np.logaddexp.reduce([at(test + np.array([0, o])) for o in offsets]) - np.log(32)
    else:
        theirs = at(test)
    # The noise of whole numbers differs, so does the mixture, a little.
    within = 0.03 if kind == "counted" else 5e-3
    assert mixture["value"] == pytest.approx(theirs.mean(), abs=within)
    assert mixture["difference"] == pytest.approx((ours - theirs).mean(), abs=within)
    error = oracle.mean_and_error(ours - theirs)[1]
    assert mixture["difference_standard_error"] == pytest.approx(error, rel=0.1)
    assert mixture["n_parameters"] == 2 * (2 + 3) + 1
    # The plain flow: fitted again, scored by the oracle.
    settings = {k: v for k, v in run.config.settings.items() if k in PLAIN}
    plain = RunConfig.build(
        {**settings, "batch_size": 32, "model": SMALL["flow"], "seed": SMALL["seed"]}
    ).estimator()
    columns = list(split.train.columns)
    plain.fit(pl.DataFrame(train, schema=columns), validation=pl.DataFrame(held, schema=columns))
    theirs = oracle.log_density(plain, test)
    value, error = oracle.mean_and_error(theirs)
    within = INTEGRAL if kind == "counted" else EXACT
    assert flow["value"] == pytest.approx(value, abs=within)
    assert flow["standard_error"] == pytest.approx(error, abs=within)
    assert flow["difference"] == pytest.approx((ours - theirs).mean(), abs=2 * within)
    value, error = oracle.mean_and_error(ours - theirs)
    assert flow["difference_standard_error"] == pytest.approx(error, abs=2 * within)
    assert {row["n"] for row in rows.values()} == {len(test)}


def test_the_report_shows_these_numbers_and_rows_of_the_test_part(runs):
    run, train, _, test = runs["real"]
    run = load_run(run.path)
    page = gather(run)
    model = oracle.saved(run)
    scores = oracle.log_density(model, test)
    kept = json.loads((run.path / "baselines.json").read_text())
    shown = {row.name: row for row in page.likelihoods}
    (own,) = [row for row in page.likelihoods if row.role == "model"]
    assert (own.value, own.standard_error) == pytest.approx(oracle.mean_and_error(scores), abs=EXACT)
    for row in kept:
        assert shown[row["name"]].value == row["value"]
        assert shown[row["name"]].difference == row["difference"]
    worst = [row.log_density for row in page.worst_rows]
    np.testing.assert_allclose(worst, np.sort(scores)[: len(worst)], atol=1e-4)
    table = real().to_numpy()
    for row in page.worst_rows:
        np.testing.assert_allclose(row.values, table[row.row - 1], rtol=1e-9)
        assert oracle.shared_rows(table[row.row - 1][None], test) == 1
    proba = oracle.posterior(oracle.log_joint(model, train))
    np.testing.assert_allclose(
        [state.prior_weight for state in page.states], run.result["weights"], atol=1e-5
    )
    np.testing.assert_allclose([state.usage for state in page.states], proba.mean(0), atol=1e-5)
    assert [state.rows for state in page.states] == np.bincount(proba.argmax(1)).tolist()
    of_test = oracle.log_joint(model, test).argmax(1)
    for k, state in enumerate(page.states):
        assert state.log_density == pytest.approx(scores[of_test == k].mean(), abs=1e-4)
        np.testing.assert_allclose(state.mean, train[proba.argmax(1) == k].mean(0), rtol=1e-6)
    summary = page.data_summary
    assert (summary.train_rows, summary.validation_rows, summary.test_rows) == (240, 30, 30)


def test_a_model_knows_nothing_of_the_test_rows(tmp_path):
    """Other test rows change what is said of them, and nothing else."""
    frame = real(120)
    *_, test = oracle.split_rows(120, SMALL["seed"])
    moved = frame.to_numpy().copy()
    moved[test] = moved[test] * [0.7, 1.3] + [40.0, 9.0]
    one = fit(tmp_path, "one", frame, max_epochs=2)
    two = fit(tmp_path, "two", pl.DataFrame(moved, schema=frame.columns), max_epochs=2)
    a, b = (load_file(run.path / "model.safetensors") for run in (one, two))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    said = [run.result["log_likelihood"] for run in (one, two)]
    assert said[0]["train"] == said[1]["train"] and said[0]["validation"] == said[1]["validation"]
    assert said[0]["test"]["value"] != said[1]["test"]["value"]
    baselines = [fit_baselines(run, run.data()[1]) for run in (one, two)]
    for first, second in zip(*baselines, strict=True):
        assert first["n_parameters"] == second["n_parameters"] and first["note"] == second["note"]
        assert first["value"] != second["value"]


def test_the_gap_to_the_truth_is_that_of_the_test_rows(tmp_path):
    config = RunConfig.build({**SMALL, "data": "ring", "rows": 200, "n_states": 8, "max_epochs": 2})
    run = fit_run(config, tmp_path / "run")
    ring = toy("ring")
    x = ring.sample(200, SMALL["seed"])
    *_, test = (x[rows] for rows in oracle.split_rows(200, SMALL["seed"]))
    assert oracle.same_rows(run.data()[1].test.values, test)
    mixture = [multivariate_normal(mean, ring.scale**2).logpdf(test) for mean in ring.modes]
    truth = np.logaddexp.reduce(mixture) - np.log(len(ring.modes))
    told = run.result["truth"]
    gap, error = oracle.mean_and_error(truth - oracle.log_density(oracle.saved(run), test))
    assert told["log_likelihood"] == pytest.approx(truth.mean(), abs=1e-9)
    assert told["gap"] == pytest.approx(gap, abs=EXACT)
    assert told["gap_standard_error"] == pytest.approx(error, abs=EXACT)
    # Other samples of the same model: 20,000 beside the 100,000 (five standard errors: 1 alarm in a million).
    drawn = np.asarray(oracle.saved(run).sample(20_000, random_state=1)[0])
    share = (np.linalg.norm(drawn[:, None] - ring.modes, axis=2).min(1) > 4 * ring.scale).mean()
    error = np.sqrt(max(share * (1 - share), 1e-4) / 20_000 * 1.2)
    assert abs(told["bridge_mass"] - share) < 5 * error
    assert told["true_bridge_mass"] == pytest.approx(np.exp(-8), rel=1e-3)  # of a plane, beyond four sigma
    assert told["modes_found"] == told["modes"] == 8


def test_the_bounds_of_a_continuous_latent(tmp_path):
    options = {"features": 1, "encoder_features": [8], "draws": 8}
    settings = {"latent": "continuous", "latent_options": options, "n_states": "auto", "max_epochs": 2}
    run = fit(tmp_path, "bounds", real(120), **settings)
    test = real(120).to_numpy()[oracle.split_rows(120, SMALL["seed"])[2]]
    told = json.loads((run.path / "result.json").read_text())
    weights = oracle.log_weights(oracle.saved(run), test, 400, 3)
    # Draws of our own: 400 of the ELBO, 50 of the bound of eight. The reported ones are of 8 draws a row;
    # five standard errors of those, taken from the spread over our draws.
    elbo = weights.mean(1)
    eight = np.logaddexp.reduce(weights.reshape(len(test), 50, 8), axis=2) - np.log(8)
    noise = {"elbo": np.sqrt((weights.var(1) / 8).sum()) / len(test),
             "iwae": np.sqrt(eight.var(1).sum()) / len(test)}  # fmt: skip
    for name, ours in (("elbo", elbo), ("iwae", eight.mean(1))):
        assert abs(told["bounds"][name]["value"] - ours.mean()) < 5.5 * noise[name] + 1e-6, name
        error = oracle.mean_and_error(ours)[1]
        assert told["bounds"][name]["standard_error"] == pytest.approx(error, rel=0.5)
        assert told["bounds"][name]["n"] == len(test) and told["bounds"][name]["kind"] == "lower bound"
        assert max(noise.values()) < 0.5
    assert told["bounds"]["draws"] == 8
    assert told["log_likelihood"]["test"]["value"] == pytest.approx(told["bounds"]["iwae"]["value"], abs=1e-9)
    assert told["bounds"]["elbo"]["value"] < told["bounds"]["iwae"]["value"]
