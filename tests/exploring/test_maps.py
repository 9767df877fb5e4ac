"""Maps of densities, beside the estimator's own numbers."""

from __future__ import annotations

import numpy as np
import pytest

from modeflow.exploring.maps import density_map, grid_size, level_of_mass


def test_two_columns_of_two_are_the_density(numbers):
    found = density_map(numbers, "a", "b", {})
    x, y = np.meshgrid(found.x, found.y)
    log_prob = numbers.estimator.score_samples(np.column_stack([x.ravel(), y.ravel()]))
    expected = np.exp(log_prob - log_prob.max()).reshape(found.density.shape)
    assert np.allclose(found.density, expected, rtol=1e-9, atol=1e-12)
    assert found.said == "Exact."


def test_states_have_their_part(numbers):
    whole = density_map(numbers, "a", "b", {})
    parts = [density_map(numbers, "a", "b", {}, frozenset({k})) for k in (0, 1)]
    assert "states 1" in parts[1].said
    rows = np.column_stack([each.ravel() for each in np.meshgrid(whole.x, whole.y)])
    share = numbers.estimator.predict_proba(rows) * np.exp(numbers.estimator.score_samples(rows))[:, None]
    for k, part in enumerate(parts):
        assert np.allclose(part.density.ravel(), share[:, k] / share[:, k].max(), rtol=1e-6, atol=1e-9)
    none = density_map(numbers, "a", "b", {}, frozenset())
    assert not none.density.any() and not none.level.any()


def test_others_are_summed_out(mixed):
    """Of levels the marginal probabilities, and those given a cell, are known to the estimator."""
    scores = mixed.estimator.level_scores("city")[0]
    found = density_map(mixed, "city", None, {})
    assert np.allclose(found.density[0], np.exp(scores - scores.max()), rtol=1e-6)
    assert "summed out" in found.said
    values = np.full((1, 4), np.nan)
    values[0, 0] = high = float(np.nanmax(mixed.rows("training").values[:, 0]))
    given = density_map(mixed, "city", None, {"height": high})
    frame = mixed.decoded(values)
    scores = mixed.drawn.estimator.level_scores("city", frame)[0]
    assert np.allclose(given.density[0], np.exp(scores - scores.max()), rtol=1e-6)
    assert "given height" in given.said
    assert not np.allclose(given.density, found.density)


def test_a_column_that_is_shown_is_not_given(mixed):
    assert density_map(mixed, "city", None, {"city": 0.0}) is density_map(mixed, "city", None, {})


def test_without_marginals_samples_are_counted(flow):
    counted = density_map(flow, "a", "b", {})
    assert counted.said.startswith("An estimate, counted among 5,000 samples")
    held = density_map(flow, "a", "b", {"c": 0.5})
    assert held.said == "Exact; given c = 0.5."
    x, y = np.meshgrid(held.x, held.y)
    rows = np.column_stack([x.ravel(), y.ravel(), np.full(x.size, 0.5)])
    log_prob = flow.estimator.score_samples(rows)
    assert np.allclose(held.density.ravel(), np.exp(log_prob - log_prob.max()), rtol=1e-6, atol=1e-9)
    given = density_map(flow, "a", None, {"c": 0.5})
    assert given.said == "An estimate, counted among 5,000 samples and smoothed; given c = 0.5."


def test_counts_agree_with_the_density(numbers):
    """The densest half of the map by levels holds about half of new samples (a 4-sigma band)."""
    found = density_map(numbers, "a", "b", {})
    new = numbers.samples({}, 5, 2000).values
    i, j = (np.abs(grid[None] - new[:, k, None]).argmin(1) for k, grid in enumerate((found.x, found.y)))
    # 500 samples set the levels, 2000 are counted.
    band = 4 * np.sqrt(0.25 / 500 + 0.25 / 2000)
    assert abs((found.level[j, i] > 0.5).mean() - 0.5) < band


def test_levels_of_mass():
    mass = np.array([[4.0, 1.0], [0.0, 5.0]])
    assert np.allclose(level_of_mass(mass), [[0.5, 0.1], [0.0, 1.0]])
    assert np.allclose(level_of_mass(np.ones((2, 2))), 1.0)
    assert not level_of_mass(np.zeros(3)).any()


@pytest.mark.parametrize("seconds, size", [(1e-9, 32), (0.08 / 905, 30), (1.0, 14)])
def test_a_grid_is_as_fine_as_is_soon_found(seconds, size):
    assert grid_size(seconds) == size
