"""Lattices of columns: found where there is evidence, and only there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modeflow.data import Lattice, Schema
from modeflow.data.lattice import find_lattice
from modeflow.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
N = 800
BELL = RNG.normal(size=N)


@pytest.mark.parametrize(
    ("column", "step", "offset"),
    [
        (np.round(BELL * 8 + 60) * 1000, 1000, 0),
        (np.round(BELL * 20) * 5 + 3, 5, 3),
        (np.round(np.exp(2 + 0.4 * BELL), 1), 0.1, 0),
        (np.round(BELL * 10) / 4, 0.25, 0),
        ([float(f"{v:.2f}e-6") for v in BELL], 1e-8, 0),
        ((BELL > 1.5) * 1.0, 1, 0),
        (1e14 + np.round(BELL * 9), 1, 0),
        ((np.round(BELL * 3) / 10).astype(np.float32), 0.1, 0),
        (np.round(BELL * 3) * 1.1e-6 / 1.1, 1e-6, 0),
    ],
    ids=["thousands", "offset", "tenths", "quarters", "tiny", "flag", "large", "float32", "computed"],
)
def test_step_and_offset(column, step, offset):
    column = np.asarray(column, dtype=np.float64)
    found = find_lattice(column)
    assert found is not None
    assert found.step == pytest.approx(step, rel=1e-12)
    assert found.offset == pytest.approx(offset)
    assert not found.misses(column).any()
    assert np.allclose(found.value(found.number(column)), column, rtol=1e-7)


def test_decimals_come_back_as_they_were_written():
    column = np.array([float(f"{v:.2f}") for v in np.exp(2 + 0.3 * np.round(BELL, 1))])
    found = find_lattice(column)
    assert found is not None
    np.testing.assert_array_equal(found.value(found.number(column + 0.004)), column)


@pytest.mark.parametrize("digits", [None, 5])
def test_centred_integers_have_their_step(digits):
    column = RNG.poisson(9, N) - 8.937215
    column = column if digits is None else np.array([float(f"{v:.{digits}g}") for v in column])
    found = find_lattice(column)
    assert found is not None
    assert found.step == pytest.approx(1, abs=1e-3)
    assert not found.misses(column).any()
    assert len(np.unique(found.number(column))) == len(np.unique(np.round(column + 8.937)))


@pytest.mark.parametrize(
    "column",
    [
        BELL,
        10 ** RNG.normal(33, 0.3, N),  # every double above 2^53 is whole
        5e15 + 1000 * BELL,
        1e14 + BELL,  # repeats, by the last digits of a double alone
        1.7e18 + 1e15 * BELL,
        np.round(BELL, 6),
        np.round(1000 * BELL, 2),  # rounded, but hardly a value repeats
        np.exp(np.round(BELL, 1)),  # repeats, on no lattice
        BELL * 1e-310,
        BELL.astype(np.float32).astype(np.float64),
    ],
    ids=str,
)
def test_continuous_columns_have_no_lattice(column):
    assert find_lattice(column) is None


@pytest.mark.parametrize(
    ("column", "low", "high", "piled"),
    [
        ((RNG.random(N) < 0.02) * 1.0, 0, 1, (True, True)),
        (RNG.integers(1, 6, N) * 1.0, 1, 5, (True, True)),
        (RNG.poisson(1, N) * 1.0, 0, None, (True, False)),
        (RNG.poisson(40, N) * 1.0, 0, None, (False, False)),
        (np.round(BELL * 5), None, None, (False, False)),
        (np.minimum(np.round(BELL * 5), 5), None, 5, (False, True)),
    ],
    ids=["flag", "grades", "few", "many", "signed", "capped"],
)
def test_the_range_that_samples_keep(column, low, high, piled):
    found = find_lattice(column)
    assert found is not None
    assert (found.low, found.high, found.piled) == (low, high, piled)
    schema = Schema.of(("x",), [found])
    drawn = schema.quantize(np.random.default_rng(1).normal(0, 1e3, (2000, 1)))
    assert low is None or drawn.min() == low
    assert high is None or drawn.max() == high


TABLE = np.column_stack([np.round(BELL * 8 + 60) * 1000, np.round(BELL, 1), BELL])
NAMES = ("salary", "size", "x")


def test_a_value_far_from_the_others_is_no_step():
    """Of normal numbers beside 1e30 (for none) all but that are one value of a lattice of step 1e30."""
    column = np.where(np.arange(300) % 3 == 0, 1e30, np.random.default_rng(0).normal(size=300))
    assert find_lattice(column) is None


def test_dequantize_can_be_said_column_by_column():
    found = Schema.infer(TABLE, NAMES)
    assert found.kinds == ("integer", "lattice", "continuous")
    assert found.integer_columns == ("salary",)
    assert found.lattice_columns == ("salary", "size")
    said = Schema.infer(TABLE, NAMES, {"salary": 500, "size": "none"})
    assert [each and each.step for each in said.lattices] == [500, None, None]
    assert Schema.infer(TABLE, NAMES, found.dequantize_option).steps.tolist() == found.steps.tolist()
    bounds = Schema.infer(TABLE, NAMES, {"size": {"step": 0.1, "low": -5, "high": None}}).lattices[1]
    assert bounds is not None
    assert (bounds.value(np.array(bounds.low)), bounds.high) == (-5, None)
    for wrong, error, words in (
        ({"salry": 1}, ConfigError, "unknown column 'salry'; did you mean 'salary'"),
        ({"salary": 0}, ConfigError, "needs a step above 0"),
        ({"salary": "never"}, ConfigError, "'never' is not known"),
        ({"salary": {"stop": 1}}, ConfigError, "needs a step, or step, low and high"),
        ({"salary": 700}, DataError, "'salary', data row .* is no multiple of the step 700"),
        ({"size": {"low": 0}}, DataError, "'size' holds values beyond the bounds"),
        (["x"], DataError, "'x' lies on no lattice"),
    ):
        with pytest.raises(error, match=words):
            Schema.infer(TABLE, NAMES, wrong)


def test_a_schema_is_stored_with_its_lattices_and_the_first_format_still_read():
    schema = Schema.infer(TABLE, NAMES)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    old = Schema.from_dict({"columns": ["n", "x"], "kinds": ["integer", "continuous"]})
    assert old.lattices == (Lattice(), None)
    with pytest.raises(ConfigError, match="another kind of lattice"):
        Schema(("n",), ("continuous",), (Lattice(),))
    with pytest.raises(ConfigError, match="positive step"):
        Lattice(0.0)
