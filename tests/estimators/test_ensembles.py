"""Estimators that average several fits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from modeflow import NVF, FlowDensity, load_estimator
from modeflow.errors import ConfigError

SMALL = {
    "flow": "nsf-coupling",
    "flow_options": {"layers": 2, "hidden_features": 8},
    "max_epochs": 3,
    "random_state": 0,
    "device": "cpu",
}


def rows(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) + 6 * rng.integers(0, 2, (n, 1))


def test_the_first_member_is_the_fit_alone_and_the_others_differ(tmp_path):
    x = rows()
    alone = NVF(2, **SMALL).fit(x)
    both = NVF(2, ensemble=3, **SMALL).fit(x)
    first = both.latent_.members[0]
    np.testing.assert_array_equal(first.log_prob(first_units(both, x)).detach(), alone_log_prob(alone, x))
    assert both.n_states_ == 6 and both.weights_.sum() == pytest.approx(1)
    assert len({float(m.log_prob(first_units(both, x)).sum()) for m in both.latent_.members}) == 3
    assert [row["stage"] for row in both.history_][-1] == "member 3"
    both.save(tmp_path / "both.safetensors")
    again = load_estimator(tmp_path / "both.safetensors")
    np.testing.assert_array_equal(again.score_samples(x), both.score_samples(x))
    assert again.predict_proba(x).shape == (200, 6)
    drawn, states = both.sample(60, random_state=1)
    assert drawn.shape == (60, 2) and set(states) <= set(range(6))


def first_units(estimator, x):
    return estimator.model_.encode(estimator.domain_.to_tensor(x))[0]


def alone_log_prob(estimator, x):
    return estimator.latent_.log_prob(first_units(estimator, x)).detach().numpy()


def test_processes_change_nothing():
    x = rows(120)
    one = FlowDensity(ensemble=2, **SMALL).fit(x)
    two = FlowDensity(ensemble=2, n_jobs=2, **SMALL).fit(x)
    np.testing.assert_allclose(two.score_samples(x), one.score_samples(x), rtol=1e-9)
    assert two.validation_ == one.validation_


def test_a_run_goes_on(tmp_path):
    x, settings = rows(120), {**SMALL, "training": {"schedule": "constant", "patience": None}}
    straight = FlowDensity(ensemble=2, **settings).fit(x, run_dir=tmp_path / "a")
    FlowDensity(ensemble=2, **{**settings, "max_epochs": 1}).fit(x, run_dir=tmp_path / "b")
    resumed = FlowDensity(ensemble=2, **settings).fit(x, run_dir=tmp_path / "b", resume=True)
    np.testing.assert_array_equal(resumed.score_samples(x), straight.score_samples(x))
    assert (tmp_path / "a" / "member-2" / "metrics.jsonl").exists()


def test_mixed_tables_with_holes():
    rng = np.random.default_rng(0)
    word = rng.choice(["a", "b", "c"], 150)
    number = rng.normal(size=150) + 3 * (word == "a")
    number[::7] = np.nan
    frame = pd.DataFrame({"word": word, "number": number})
    options = {"states": 4, "likelihood": "leaves"}
    fitted = NVF(latent="tree", latent_options=options, max_epochs=2, random_state=0, ensemble=2).fit(frame)
    assert np.isfinite(fitted.score_samples(frame)).all()
    assert fitted.impute(frame)[0]["number"].notna().all()
    assert set(fitted.sample_given({"word": "a"}, 20)["word"]) == {"a"}
    p = fitted.predict_column("word", frame[:5]).probabilities
    np.testing.assert_allclose(p.sum(1), 1)
    sampled = fitted.sample(10)[0]
    assert list(sampled.columns) == ["word", "number"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ensemble": 0}, "ensemble must be"),
        ({"ensemble": 2, "latent": "continuous"}, "no use for latent='continuous'"),
        ({"n_jobs": -1}, "n_jobs must be"),
    ],
)
def test_what_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        NVF(**options).fit(rows())
