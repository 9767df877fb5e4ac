"""Mode coverage against distributions for which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from modeflow.data import toy
from modeflow.errors import ConfigError, DataError
from modeflow.metrics import (
    bridge_mass,
    modes_found,
    normalized_mutual_information,
    state_usage_entropy,
    true_bridge_mass,
)

RING = toy("ring")


@pytest.mark.parametrize(("spec", "radius"), [("ring", 2.0), ("gaussians", 4.0), ("pair", 1.0)])
def test_perfect_samples_have_the_chi_tail(spec, radius):
    # Binomial count of 40,000 draws, five standard errors: fails by chance once in two million runs.
    shape = toy(spec)
    truth = true_bridge_mass(shape, radius)
    n = 40_000
    seen = bridge_mass(shape.sample(n), shape.modes, shape.scale, radius)
    assert 0.001 < truth < 0.9
    assert abs(seen - truth) < 5 * np.sqrt(truth * (1 - truth) / n)


def test_chi_tail_in_closed_form():
    assert true_bridge_mass(RING, 3.0) == pytest.approx(np.exp(-4.5))


def test_bridges_and_broken_rows_count():
    rows = np.vstack([RING.modes, [[0.0, 0.0], [np.nan, 0.0], [np.inf, 0.0]]])
    assert bridge_mass(rows, RING.modes, 0.1) == pytest.approx(3 / 11)


def test_modes_found_counts_fair_shares():
    x, labels = RING.sample_with_labels(8000)
    assert modes_found(x, RING.modes, 0.1) == 8
    assert modes_found(x[labels < 5], RING.modes, 0.1) == 5
    thin = np.vstack([x[labels < 7], x[labels == 7][:50]])
    assert modes_found(thin, RING.modes, 0.1, min_fraction=0.2) == 7
    assert modes_found(thin, RING.modes, 0.1, min_fraction=0.01) == 8
    assert modes_found(np.zeros((100, 2)), RING.modes, 0.1) == 0


def test_state_usage_entropy():
    assert state_usage_entropy(np.eye(4)) == pytest.approx(np.log(4))
    assert state_usage_entropy(np.array([2, 2, 2])) == 0.0
    assert state_usage_entropy(np.array([0, 1, 1, 0])) == pytest.approx(np.log(2))
    assert state_usage_entropy(np.full((3, 5), 0.2)) == pytest.approx(np.log(5))
    with pytest.raises(DataError, match="sum to one"):
        state_usage_entropy(np.full((3, 5), 0.3))


def test_mutual_information():
    labels = np.array([0, 0, 1, 1, 2, 2])
    assert normalized_mutual_information((labels + 1) % 3, labels) == pytest.approx(1.0)
    assert normalized_mutual_information(np.zeros(6, int), labels) == pytest.approx(0.0)
    with pytest.raises(DataError, match="same shape"):
        normalized_mutual_information(labels[:3], labels)


def test_bad_input():
    with pytest.raises(DataError, match="samples"):
        bridge_mass(np.zeros((0, 2)), RING.modes, 0.1)
    with pytest.raises(DataError, match=r"modes \(K, d\)"):
        bridge_mass(np.zeros((3, 3)), RING.modes, 0.1)
    with pytest.raises(ConfigError, match="positive"):
        bridge_mass(np.zeros((3, 2)), RING.modes, 0.0)
    with pytest.raises(ConfigError, match="min_fraction"):
        modes_found(np.zeros((3, 2)), RING.modes, 0.1, 0.0)
    with pytest.raises(ConfigError, match="no Gaussian modes"):
        true_bridge_mass(toy("moons"))
