"""What stands beside a model of numbers: weights, files, states, samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_estimators import FAST, FLOW, alone, islands, surprises_by_grid

from modeflow import NVF, FlowDensity
from modeflow.densities import Preprocessed
from modeflow.errors import ConfigError
from modeflow.estimators import load_estimator
from modeflow.estimators.stacking import Companions, anywhere, described, share_of

STACKED = {**FAST, "stacking": True}


@pytest.fixture(scope="module")
def fitted() -> NVF:
    return NVF(3, **STACKED).fit(islands())


def test_a_score_is_the_weighted_sum_and_states_stay(fitted):
    X = islands(50, 3)
    own, posterior = alone(fitted, X)
    model = fitted._scorer()
    u, logabsdet = model.encode(torch.from_numpy(X))
    with torch.no_grad():
        other = (model.beside.log_prob(u) + logabsdet).numpy()
    expected = np.logaddexp(own + math.log(fitted.stacking_.model), other)
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-12)
    np.testing.assert_allclose(fitted.predict_proba(X), posterior, atol=1e-12)


def test_a_row_far_from_all_has_a_density_and_the_prior_of_the_states(fitted):
    far = np.full((1, 2), 1e300)
    assert np.isfinite(fitted.score_samples(far)).all()
    np.testing.assert_allclose(fitted.predict_proba(far).sum(), 1.0, atol=1e-12)


def test_one_row_in_n_may_come_from_anywhere():
    u = torch.from_numpy(islands())
    found = anywhere(u)
    assert found.log_weights.exp().sum().item() == pytest.approx(1 / len(u))
    whole = described(found)
    assert (whole.mixture, whole.components) == (0.0, 0)
    assert whole.model + whole.anywhere == pytest.approx(1.0)


def test_weights_are_the_likeliest_that_the_prior_allows():
    rng = np.random.default_rng(0)
    columns = rng.normal(0, 2, (500, 3))
    counts = np.array([1.0, 0.05, 0.1])
    found = share_of(columns, counts, None)

    def value(w):
        return np.log(np.exp(columns) @ w).sum() + counts @ np.log(w)

    assert found.sum() == pytest.approx(1.0)
    for away in rng.normal(0, 1e-3, (20, 3)):
        other = found * np.exp(away)
        assert value(found) >= value(other / other.sum()) - 1e-4
    # A row that counts twice is two rows.
    twice = share_of(columns[:50].repeat(2, 0), counts, None)
    np.testing.assert_allclose(share_of(columns[:50], counts, np.full(50, 2.0)), twice, atol=1e-12)


def test_a_model_that_is_far_too_sure_gives_way_and_a_right_one_stays():
    rng = np.random.default_rng(0)
    rows, held = (torch.from_numpy(rng.normal(size=(n, 2))) for n in (1000, 300))
    right = (-0.5 * held.square().sum(1) - math.log(2 * math.pi)).numpy()
    narrow = (-0.5 * (held / 0.1).square().sum(1) - math.log(2 * math.pi) - 2 * math.log(0.1)).numpy()
    found = Companions(rows, held, None, 0)
    assert described(found.beside(narrow)).model < 0.2
    assert described(found.beside(right)).anywhere < 0.02
    assert described(found.beside(right)).components >= 1


def test_files_hold_it(fitted, tmp_path):
    again = load_estimator(fitted.save(tmp_path / "model.safetensors"))
    X = islands(20, 5)
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    assert again.stacking_ == fitted.stacking_
    state = {k: v for k, v in fitted.model_.state_dict().items() if not k.startswith("beside")}
    again.model_.load_state_dict(state)  # of a file that knows nothing of it
    assert again.model_.beside is None


def test_samples_come_from_all_of_it(fitted):
    model = fitted.model_
    sure = Preprocessed(model.transform, model.model, beside=anywhere(torch.randn(200, 2), share=0.5))
    u = torch.full((4000, 2), 50.0)
    mixed, chosen = sure.mixed_in(u, torch.Generator().manual_seed(0))
    # False alarm: five standard errors of a binomial share, below 1e-6.
    assert abs(chosen.double().mean().item() - 0.5) < 5 * math.sqrt(0.25 / 4000)
    assert torch.equal(mixed[~chosen], u[~chosen])
    X, z = fitted.sample(300, random_state=1)
    assert X.shape == (300, 2) and set(np.unique(z)) <= set(range(3))
    assert np.array_equal(fitted.sample(300, random_state=1)[0], X)


def test_a_state_of_its_own_comes_from_the_model(fitted):
    _, z = fitted.sample(50, state=1, random_state=0)
    assert (z == 1).all()


def test_auto_is_for_flows_that_were_left_open():
    rows = islands(120)
    quick = {k: v for k, v in FAST.items() if k not in ("flow", "flow_options")}
    assert FlowDensity(**FAST).fit(rows).stacking_ is None
    assert NVF(2, **FAST, stacking=False).fit(rows).stacking_ is None
    assert NVF(2, likelihood="gaussian", **quick).fit(rows).stacking_ is None
    assert NVF(latent="continuous", latent_options={"features": 1}, **quick).fit(rows).stacking_ is None
    assert FlowDensity("auto", **quick, flow_options=FLOW).fit(rows).stacking_.model > 0
    with pytest.raises(ConfigError, match="stacking must be 'auto', True or False, received 'yes'"):
        FlowDensity(**{**FAST, "stacking": "yes"}).fit(rows)


def test_members_of_an_ensemble_share_it():
    estimator = FlowDensity(**STACKED, ensemble=2).fit(islands(200))
    assert estimator.stacking_ is not None
    assert np.isfinite(estimator.score_samples(islands(10, 2))).all()


def test_weights_of_rows_count(fitted):
    weight = np.where(islands()[:, 0] < 1300, 1.0, 0.0)
    estimator = NVF(2, **STACKED).fit(islands(), sample_weight=weight)
    assert estimator.stacking_.model > 0


def test_surprises_are_those_of_a_fine_grid(fitted):
    X = islands(4, 1)
    np.testing.assert_allclose(fitted.surprises(X), surprises_by_grid(fitted, X, 40_001), atol=2e-2)


@pytest.mark.parametrize("latent", ["tree", "continuous"])
def test_what_cannot_be_is_refused_when_it_is_asked_for(latent):
    with pytest.raises(ConfigError, match="leave stacking='auto'"):
        NVF(latent=latent, **{**STACKED, "flow": "auto"}).fit(islands())
