"""Which rows a fit shows to its model, in which mode, with which noise: by a model that writes it down."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import kstest

import oracle
from modeflow import NVF, FlowDensity, load_estimator
from modeflow.estimators.fitting import Fit
from watched import LIFT, in_units, watched, wrong_modes

SMALL = {
    "flow": "watched",
    "max_epochs": 6,
    "batch_size": 16,
    "learning_rate": 0.01,
    "training": {"patience": None},
    "latent_options": {"encoder_features": (8,)},
    "random_state": 0,
}
#: Of Kolmogorov's test that noise is uniform: false alarms.
ALARM = 1e-6


def table(n: int = 240, seed: int = 0) -> np.ndarray:
    """Two islands; the first column tells the row, the second is of whole numbers."""
    rng = np.random.default_rng(seed)
    mark = rng.permutation(np.linspace(-3.0, 3.0, n))
    return np.column_stack([mark, rng.poisson(6, n) + 30.0 * (mark > 0)])


def fresh(n: int = 60) -> np.ndarray:
    """Rows for validation: other marks, other counts."""
    mark = np.linspace(-2.97, 2.97, n)
    return np.column_stack([mark, np.random.default_rng(7).poisson(6, n) + 30.0 * (mark > 0)])


def matched(rows: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of the known rows, by their marks, each row is."""
    gap = np.abs(rows[:, :1] - known[:, 0])
    assert gap.min(1).max() < 1e-4, "a row that is none of those known"
    return gap.argmin(1)


@pytest.fixture(scope="module")
def fitted():
    """A fit whose validation rows were given: the estimator, its rows, and what the model saw."""
    with watched() as watch:
        model = NVF(2, **SMALL).fit(table(), validation=fresh())
        yield model, table(), fresh(), watch.take()


def of_training(seen, gradient):
    return [s for s in seen if s.part == "flow" and s.gradient == gradient]


def test_training_is_in_training_mode_and_everything_else_is_not(fitted):
    *_, seen = fitted
    assert wrong_modes(seen) == []
    assert {(s.part, s.gradient) for s in seen} >= {("flow", True), ("flow", False), ("encoder", True)}


def test_every_step_is_on_training_rows_and_no_step_on_validation_rows(fitted):
    model, x, held, seen = fitted
    rows = matched(in_units(model, of_training(seen, True)), np.concatenate([x, held]))
    assert set(rows) == set(range(len(x)))
    # While training, all that is scored without a gradient is validation rows, all of them.
    first, *_, last = (i for i, s in enumerate(seen) if s.part == "flow" and s.gradient)
    between = of_training(seen[first:last], False)
    rows = matched(in_units(model, between), np.concatenate([x, held]))
    assert set(rows) == set(range(len(x), len(x) + len(held)))


def test_rows_held_out_by_the_estimator_are_not_trained_on():
    x = table()
    with watched() as watch:
        model = FlowDensity(**{k: v for k, v in SMALL.items() if k != "latent_options"}).fit(x)
        seen = watch.take()
    assert wrong_modes(seen) == []
    trained = set(matched(in_units(model, of_training(seen, True)), x))
    first, *_, last = (i for i, s in enumerate(seen) if s.part == "flow" and s.gradient)
    held = set(matched(in_units(model, of_training(seen[first:last], False)), x))
    assert not trained & held
    assert trained | held == set(range(len(x)))
    assert len(held) == round(0.1 * len(x)) == model.validation_["n"]


@pytest.mark.parametrize("given", [True, False])
def test_the_maps_of_the_columns_are_learned_from_training_rows(given):
    """Other validation rows, other scores, the same scales."""
    options = {k: v for k, v in SMALL.items() if k != "latent_options"} | {"max_epochs": 1}
    x, held = table(), fresh()
    maps, scores = [], []
    with watched() as watch:
        for share in (1.0, 0.5):
            if given:
                model = FlowDensity(**options).fit(x, validation=held * [share, 1])
            else:
                model = FlowDensity(**options).fit(x)
                trained = matched(in_units(model, of_training(watch.take(), True)), x)
                x[np.setdiff1d(np.arange(len(x)), trained), 0] *= 0.5
            maps.append(model.model_.transform.state_dict())
            scores.append(model.validation_["value"])
    assert scores[0] != scores[1]
    assert all(torch.equal(maps[0][name], maps[1][name]) for name in maps[0])


def test_numbers_reported_are_those_of_evaluation_mode(fitted):
    model, x, held, _ = fitted
    expected = oracle.log_density(model, held)
    # Noise of whole numbers, drawn once: five standard errors.
    assert abs(model.validation_["value"] - expected.mean()) < 0.2 < LIFT
    known = [row["validation"] for row in model.history_ if "validation" in row]
    assert abs(max(known) - expected.mean()) < 0.2
    np.testing.assert_allclose(model.score_samples(held), expected, atol=0.05)
    # The loss is of the training mode: lower by what the model claims there.
    assert abs(model.history_[-1]["nll"] + LIFT + oracle.log_density(model, x).mean()) < 1.0


def test_what_is_asked_of_a_fitted_model_is_asked_in_evaluation_mode(fitted, tmp_path):
    model, x, *_ = fitted
    with watched() as watch:
        for estimator in (model, load_estimator(model.save(tmp_path / "model.safetensors"))):
            scores = estimator.score_samples(x[:5])
            estimator.predict_proba(x[:5]), estimator.predict(x[:5]), estimator.likelihood_of(x[:5])
            drawn, _ = estimator.sample(20)
            assert np.isfinite(drawn).all() and (scores < LIFT / 2).all()
        seen = watch.take()
    assert {s.part for s in seen} >= {"flow", "sample"} and not any(s.training for s in seen)


def test_a_continuous_latent_trains_and_scores_in_its_modes():
    x = table(100)
    options = {"encoder_features": (8,), "features": 1}
    with watched() as watch:
        model = NVF(latent="continuous", **{**SMALL, "max_epochs": 2, "latent_options": options}).fit(x)
        model.score_samples(x[:5]), model.sample(3), model.encode(x[:5])
        assert wrong_modes([s for s in watch.take() if s.part != "sample"]) == []
    assert max(row["validation"] for row in model.history_ if "validation" in row) < LIFT / 2
    assert model.history_[-1]["nll"] < -LIFT / 2


def test_the_number_of_states_is_chosen_in_evaluation_mode_on_rows_not_trained_on():
    x = table(200)
    scored = []
    ask = Fit.log_prob

    def spy(fit, rows, *args, **options):
        found = ask(fit, rows, *args, **options)
        scored.append((fit.n_states, np.array(rows), fit.data, found))
        return found

    with watched() as watch, patch.object(Fit, "log_prob", spy):
        model = NVF("auto", max_states=2, **{**SMALL, "max_epochs": 3}).fit(x)
        seen = watch.take()
    assert wrong_modes(seen) == []
    marks = {row[0] for row in x.tolist()}
    of = {}
    for k, rows, data, found in scored:
        shown, trained, stopped = (
            {row[0] for row in r.tolist()} for r in (rows, data.train, data.validation)
        )
        assert shown <= marks and trained <= marks
        assert not shown & trained and not shown & stopped and not trained & stopped
        of.setdefault(k, []).append((rows, found))
    (chosen,) = [c for c in model.selection_ if c["chosen"]]
    assert chosen["n_states"] == model.n_states_ + len(model.dead_states_)
    for candidate in model.selection_:
        # The last scores of a candidate: of a half each, of all rows where both halves were tried.
        parts, rows = [], 0
        for part, found in reversed(of[candidate["n_states"]]):
            if rows < candidate["rows"]:
                parts.append(found)
                rows += len(part)
        value, error = oracle.mean_and_error(np.concatenate(parts))
        assert rows == candidate["rows"] and value < LIFT / 4
        assert candidate["validation"] == pytest.approx(value, abs=1e-6)
        assert candidate["standard_error"] == pytest.approx(error, rel=0.02)


# -- noise


def offsets_of(model, seen, known):
    rows = in_units(model, seen)
    which = matched(rows, known)
    return which, rows[:, 1] - known[which, 1]


def check_uniform(offsets: np.ndarray) -> None:
    assert np.abs(offsets).max() < 0.5 + 1e-4
    assert kstest(offsets, "uniform", (-0.5, 1.0)).pvalue > ALARM


def test_noise_of_training_is_fresh_and_fills_the_cell_around_a_whole_number(fitted):
    model, x, _, seen = fitted
    which, offsets = offsets_of(model, of_training(seen, True), x)
    assert len(offsets) >= 6 * len(x)
    check_uniform(offsets)
    assert abs(offsets.mean()) < 5 / np.sqrt(12 * len(offsets))
    spread = [np.ptp(offsets[which == i]) for i in range(len(x))]
    assert np.median(spread) > 0.5 and min(spread) > 0.01  # a row has another offset every epoch


def test_noise_of_validation_fills_the_cell_and_stays(fitted):
    model, _, held, seen = fitted
    first, *_, last = (i for i, s in enumerate(seen) if s.part == "flow" and s.gradient)
    which, offsets = offsets_of(model, of_training(seen[first:last], False), held)
    one = np.array([offsets[which == i][0] for i in range(len(held))])
    check_uniform(one)
    assert np.abs(offsets - one[which]).max() < 1e-4


def test_noise_of_scores_fills_the_cell_evenly(fitted):
    model, x, *_ = fitted
    with watched() as watch:
        model.score_samples(x)
        which, offsets = offsets_of(model, watch.of("flow"), x)
    check_uniform(offsets)
    for i in (0, 100, 200):
        own = np.unique(np.round(offsets[which == i], 9))
        assert len(own) == 16
        # Sixteen even points: one in every sixteenth of the cell, but for the end of it.
        assert len(np.unique(np.floor((own + 0.5) * 16))) >= 15


# -- calibration


def test_the_encoder_is_calibrated_after_the_fit_and_saved_so(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) + 1.2 * rng.integers(2, size=(300, 1))
    held = rng.normal(size=(200, 2)) + 1.2 * rng.integers(2, size=(200, 1))
    flow = {"flow": "nsf-coupling", "flow_options": {"layers": 1, "hidden_features": 8}}
    model = NVF(2, **{**SMALL, **flow, "max_epochs": 2}).fit(x, validation=held)
    encoder = model.model_.model.encoder
    sharpness = float(encoder.sharpness)
    assert abs(np.log2(sharpness)) > 0.05
    again = load_estimator(model.save(tmp_path / "model.safetensors"))
    assert float(again.model_.model.encoder.sharpness) == sharpness
    # The sharpness nearest to the posterior on the validation rows, by another search.
    target = torch.from_numpy(oracle.posterior(oracle.log_joint(model, held)))
    with torch.no_grad():
        u = model.model_.encode(torch.from_numpy(held))[0]
        logits = encoder.net(u).double()

    def cost(power: float) -> float:
        return float(-(target * torch.log_softmax(2**power * logits, 1)).sum(1).mean())

    best = minimize_scalar(cost, bounds=(-2, 2), method="bounded")
    assert abs(np.log2(sharpness) - best.x) < 0.13  # steps of an eighth are tried
    # What is pruned is pruned by it, and only outside training.
    with torch.no_grad():
        expected = torch.softmax(sharpness * logits, 1)
        found = model.model_.model.approximate_posterior(u).double()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
