"""Likelihood summaries: over all rows, with a standard error and a word."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from modeflow.errors import ConfigError, DataError
from modeflow.metrics import summarise


def test_mean_error_and_text():
    result = summarise(np.array([-1.0, -2.0, -3.0, -4.0]), "exact")
    assert result.value == -2.5
    assert result.standard_error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert str(result) == "−2.500 ± 0.645 nats (exact, n=4)"
    assert str(summarise(np.full(10, 7.25), "lower bound")) == "7.250 ± 0.000 nats (lower bound, n=10)"


def test_non_finite_rows_are_counted_and_not_left_out():
    lost = summarise(np.array([0.0, -np.inf, -np.inf]), "estimate")
    assert lost.value == -math.inf and lost.non_finite == 2
    assert str(lost) == "−inf nats (estimate, n=3, 2 non-finite)"
    assert json.loads(json.dumps(lost.to_dict(), allow_nan=False))["value"] is None
    assert math.isnan(summarise(np.array([np.nan, 1.0]), "exact").value)
    assert math.isnan(summarise(np.array([np.inf, -np.inf]), "exact").value)


def test_one_row_has_no_error():
    assert math.isnan(summarise(np.array([1.0]), "exact").standard_error)


def test_weights_count_as_repetitions_of_the_mean_and_not_of_the_evidence():
    values = np.array([-1.0, -2.0, -3.0, -4.0])
    same = summarise(values, "exact", np.full(4, 7.0))
    assert same == summarise(values, "exact")
    heavy = summarise(values, "exact", np.array([3.0, 1.0, 1.0, 0.0]))
    assert heavy.value == pytest.approx(-1.6) and heavy.n == 3
    spread = math.sqrt(9 * 0.6**2 + 0.4**2 + 1.4**2) / 5
    assert heavy.standard_error == pytest.approx(spread * math.sqrt(3 / 2))
    with pytest.raises(DataError, match="weights"):
        summarise(values, "exact", np.zeros(4))


def test_bad_input():
    with pytest.raises(ConfigError, match="kind='bound'"):
        summarise(np.ones(3), "bound")
    for wrong in (np.ones((2, 2)), np.ones(0)):
        with pytest.raises(DataError, match="shape"):
            summarise(wrong, "exact")
