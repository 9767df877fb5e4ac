"""The benchmark of conditionals: its scores against closed forms, its contestants."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def conditionals(monkeypatch):
    """The program."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import conditionals

    yield conditionals
    for name in ("conditionals", "imputation", "imputers", "holes", "classify", "mixed_tables"):
        sys.modules.pop(name, None)


def normal_crps(z):
    """Of the standard normal distribution."""
    return z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)


def test_scores_of_draws_levels_and_quantiles_are_those_of_the_distribution(conditionals):
    """Draws within five standard errors of their mean; quantiles and levels near the closed form."""
    y = np.linspace(-1.8, 1.8, 400)
    draws = np.random.default_rng(0).normal(size=(400, 100))
    crps, inside = conditionals.of_draws(draws, y)
    apart = crps - normal_crps(y)
    assert abs(apart.mean()) < 5 * apart.std() / 20 and inside.mean() > 0.9
    naive = np.abs(draws[:, :, None] - draws[:, None]).sum((1, 2)) / (100 * 99)
    np.testing.assert_allclose(crps, np.abs(draws - y[:, None]).mean(1) - naive / 2, rtol=1e-9)
    levels = np.linspace(-6, 6, 2401)
    p = np.diff(norm.cdf(np.append(levels - 0.0025, 6.0025)))
    found, inside = conditionals.of_levels(levels, np.tile(p / p.sum(), (400, 1)), y)
    np.testing.assert_allclose(found, normal_crps(y), atol=1e-3)
    assert (inside == (np.abs(y) <= norm.ppf(0.975) + 0.01)).all()
    q = np.tile(norm.ppf((np.arange(20) + 0.5) / 20), (400, 1))
    said = conditionals.of_quantiles(q, y, 0.01)
    np.testing.assert_allclose(said.crps, normal_crps(y), atol=5e-3)
    assert np.abs(np.log(said.density) - norm.logpdf(y)).mean() < 0.08  # steps between 20 quantiles


def test_the_distribution_of_quantiles_integrates_to_one_with_ties_too(conditionals):
    q = np.array([np.sort(np.r_[np.zeros(8), np.linspace(1, 3, 12)])])
    grid = np.arange(-60, 60)
    said = conditionals.of_quantiles(np.repeat(q, len(grid), 0), grid.astype(float), 1.0)
    assert said.density.sum() == pytest.approx(1, abs=1e-6)
    assert said.density[60] == pytest.approx(0.4, abs=0.05)


def rows(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame({"x": x, "y": 2 * x + 0.3 * rng.normal(size=n), "k": np.where(x > 0, "p", "n")})


@pytest.mark.parametrize("method", ["NVF, leaves", "marginal"])
def test_contestants_know_more_than_the_marginal(conditionals, monkeypatch, method):
    monkeypatch.setitem(conditionals.OURS, "NVF, leaves", {"likelihood": "leaves", "states": 8})
    whole = conditionals.density
    monkeypatch.setattr(conditionals, "density", lambda **given: whole(max_epochs=15, **given))
    monkeypatch.setattr(conditionals, "rows_of", lambda name, seed: (rows(500, 0), rows(100, 1)))
    monkeypatch.setitem(conditionals.NUMBERS, "abalone", ("y", 1e-6))
    monkeypatch.setitem(conditionals.LABELS, "adult", "k")
    number, label = (
        conditionals.measure_number("abalone", method, 0),
        conditionals.measure_label("adult", method, 0),
    )
    knows = method != "marginal"
    assert (number["crps"] < 0.35) == knows and (label["accuracy"] > 0.9) == knows
    assert (number["log_score"] > -1.2) == knows and 0.7 < number["inside"] <= 1
