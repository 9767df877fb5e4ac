"""Kinds of columns, dequantisation and the checks before a fit."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from modeflow.data import Schema, Table, check_fit_table, split_table
from modeflow.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
MIXED = np.column_stack([RNG.normal(size=50), RNG.integers(-3, 9, 50), RNG.integers(0, 2, 50)])
NAMES = ("x", "count", "flag")
SCHEMA = Schema.infer(MIXED, NAMES)


def test_whole_columns_are_found():
    assert SCHEMA.kinds == ("continuous", "integer", "integer")
    assert SCHEMA.integer_columns == ("count", "flag")
    assert Schema.infer(MIXED, NAMES, "none").integer_columns == ()
    assert Schema.infer(MIXED, NAMES, ["flag"]).integer_columns == ("flag",)
    with pytest.raises(ConfigError, match=r"unknown column 'flags'; did you mean 'flag'"):
        Schema.infer(MIXED, NAMES, ["flags"])
    with pytest.raises(ConfigError, match=r"dequantize='never'"):
        Schema.infer(MIXED, NAMES, "never")
    with pytest.raises(DataError, match="column 'x' lies on no lattice"):
        Schema.infer(MIXED, NAMES, ["x"])


def test_dict_round_trip_is_plain_json():
    assert Schema.from_dict(json.loads(json.dumps(SCHEMA.to_dict()))) == SCHEMA
    for broken in ({}, {"columns": ["a"], "kinds": []}, {"columns": ["a"], "kinds": ["odd"]}):
        with pytest.raises(ConfigError):
            Schema.from_dict(broken)


def test_samples_have_the_digits_of_their_data():
    """Measurements that hardly repeat are continuous, and were still written with four digits."""
    rng = np.random.default_rng(5)
    values = np.column_stack([np.round(rng.normal(3, 1, 300), 4), rng.normal(size=300)])
    schema = Schema.infer(values, ["a", "b"])
    assert (schema.lattice_columns, schema.decimals) == ((), (4, None))
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again == schema
    drawn = rng.normal(size=(50, 2))
    rounded = again.quantize(drawn)
    np.testing.assert_array_equal(rounded[:, 0], np.round(drawn[:, 0], 4))
    np.testing.assert_array_equal(rounded[:, 1], drawn[:, 1])
    # Who says that a column is continuous is given all digits; a file of an earlier version knows none.
    assert Schema.infer(values, ["a", "b"], "none").decimals == (None, None)
    stored = schema.to_dict()
    del stored["decimals"]
    assert Schema.from_dict(stored).decimals == (None, None)
    for wrong in ("44", [4], [4, "x"]):
        with pytest.raises(ConfigError):
            Schema.from_dict({**schema.to_dict(), "decimals": wrong})


def test_bounds_between_steps_go_inwards():
    values = np.arange(1.0, 9.0).repeat(4)[:, None]
    for low, high, ends in ((0.4, 9.6, (1, 9)), (0.6, 9.4, (1, 9)), (1, 8, (1, 8)), (None, 8.9, (None, 8))):
        schema = Schema.infer(values, ["n"], {"n": {"step": 1, "low": low, "high": high}})
        assert (schema.lattices[0].low, schema.lattices[0].high) == ends
        drawn = schema.quantize(np.linspace(-5, 20, 400)[:, None])
        assert drawn.max() <= high and (low is None or drawn.min() >= low)


def test_validate_reorders_and_names_what_differs():
    turned = SCHEMA.validate(MIXED[:, [2, 0, 1]], ["flag", "x", "count"])
    np.testing.assert_array_equal(turned, MIXED)
    with pytest.raises(DataError, match="missing 'flag'; unexpected 'flog'"):
        SCHEMA.validate(MIXED, ["x", "count", "flog"])
    with pytest.raises(DataError, match=r"has 3 columns .*the data 2"):
        SCHEMA.validate(MIXED[:, :2])
    wrong = MIXED.copy()
    wrong[3, 1] = 0.6
    with pytest.warns(UserWarning, match=r"'count' has steps of 1 .*the first holds 0\.6"):
        assert SCHEMA.validate(wrong)[3, 1] == 1
    with pytest.raises(DataError, match="missing value"):
        SCHEMA.validate(np.full((2, 3), np.nan))


def test_quantize_takes_the_middle_of_the_bin():
    noise = np.random.default_rng(1).uniform(-0.499, 0.499, MIXED.shape) * [0, 1, 1]
    np.testing.assert_array_equal(SCHEMA.quantize(MIXED + noise), MIXED)
    assert SCHEMA.quantize(np.zeros((2, 4, 3))).shape == (2, 4, 3)


def good_table():
    return np.random.default_rng(2).normal(size=(40, 2))


def test_fit_check_passes_good_tables_silently():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_fit_table(good_table(), ("a", "b"))
        check_fit_table(MIXED, NAMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:9], "9 rows; at least 10"),
        (lambda x: x * [1, 0], "column is constant: 'b'"),
        (lambda x: np.repeat(x[:2], 20, axis=0), "fewer than 3 distinct rows"),
        (lambda x: np.where(x == x[4, 1], np.nan, x), r"'b' \(1\)"),
        (lambda x: np.where(x == x[4, 0], np.inf, x), "column 'a', data row 5 is infinite"),
    ],
)
def test_fit_check_refuses(change, words):
    with pytest.raises(DataError, match=words):
        check_fit_table(change(good_table()), ("a", "b"))


def test_fit_check_warns_of_ties_in_continuous_columns():
    rounded = good_table()
    rounded[:, 1] = np.exp(np.round(rounded[:, 1], 1))
    with pytest.warns(UserWarning, match=r"repeat in 'b': .*'b' lie on no regular lattice"):
        check_fit_table(rounded, ("a", "b"))
    # One value that fills more than a fifth of the rows, all others distinct.
    spiked = good_table()
    spiked[:9, 1] = 0.25
    with pytest.warns(UserWarning, match="'b'"):
        check_fit_table(spiked, ("a", "b"))
    schema = Schema.infer(MIXED, NAMES, "none")
    with pytest.warns(UserWarning, match=r"dequantize=\['count', 'flag'\]"):
        check_fit_table(MIXED, NAMES, schema=schema)


def test_split_is_a_seeded_partition():
    table = Table(np.arange(200.0).reshape(100, 2), ("a", "b"))
    split = split_table(table, seed=3, validation=0.2, test=0.1)
    assert split.sizes == (70, 20, 10)
    together = np.sort(np.concatenate([part.values[:, 0] for part in split]))
    np.testing.assert_array_equal(together, table.values[:, 0])
    again = split_table(table, seed=3, validation=0.2, test=0.1)
    np.testing.assert_array_equal(again.test.values, split.test.values)
    assert not np.array_equal(split_table(table, 4, 0.2, 0.1).test.values, split.test.values)
    np.testing.assert_array_equal(table.values[split.indices[0]], split.train.values)


def test_split_refuses_empty_parts():
    table = Table(np.ones((4, 1)), ("a",))
    with pytest.raises(DataError, match="part would be empty"):
        split_table(table)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split_table(table, test=0.0)
    with pytest.raises(ConfigError, match="leave nothing"):
        split_table(table, validation=0.5, test=0.5)
