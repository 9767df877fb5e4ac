"""p-values by ranks: the formula, its distribution, ties, and the score that goes with a level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from modeflow.metrics import rank_p_values, rank_threshold

RNG = np.random.default_rng(0)


def test_the_formula():
    held = np.array([3.0, 1.0, 2.0, 2.0])
    scores = np.array([0.0, 1.0, 1.5, 2.0, 9.0, -np.inf, np.nan])
    np.testing.assert_allclose(rank_p_values(scores, held), [0.2, 0.4, 0.4, 0.8, 1.0, 0.2, np.nan])


def test_p_values_of_exchangeable_rows_are_uniform():
    """Over 20,000 tables of 19 held-out rows and one new row. By chance false: 1e-5 a level, 19 levels."""
    tables = RNG.normal(size=(20_000, 20))
    p = np.array([rank_p_values(row[:1], row[1:])[0] for row in tables])
    assert set(np.round(20 * p)) == set(range(1, 21))
    for level in np.arange(1, 20) / 20:
        low, high = binom.ppf([5e-6, 1 - 5e-6], len(p), level)
        assert low <= (p <= level + 1e-9).sum() <= high


def test_ties_are_conservative():
    """Scores of three values: never more alarms than the level. By chance false: 1e-5 a level."""
    tables = RNG.integers(3, size=(20_000, 20)).astype(float)
    p = np.array([rank_p_values(row[:1], row[1:])[0] for row in tables])
    for level in (0.05, 0.2, 0.4, 0.6):
        assert (p <= level).sum() <= binom.ppf(1 - 1e-5, len(p), level)
    assert (p <= 0.3).mean() < 0.3 - 0.02  # they cost power


@pytest.mark.parametrize("n", [3, 19, 20, 99])
def test_a_threshold_says_what_p_values_say(n):
    held = np.round(RNG.normal(size=n), 1)
    scores = np.concatenate([np.round(RNG.normal(size=300), 1), held, [-np.inf, np.inf]])
    p = rank_p_values(scores, held)
    for alpha in (1 / (n + 1), 0.25, 0.3, 0.5, 2 / (n + 1), 1 - 1 / (n + 1)):
        if alpha >= 1 / (n + 1):
            np.testing.assert_array_equal(scores < rank_threshold(held, alpha), p <= alpha * (1 + 1e-12))
    assert rank_threshold(held, 1e-9) == held.min()
