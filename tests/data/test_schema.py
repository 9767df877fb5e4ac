"""Kinds of columns, dequantisation and the checks before a fit."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy.integrate import trapezoid
from scipy.stats import kstest, norm

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


def test_dequantize_stays_in_the_bin_and_quantize_undoes_it():
    noisy = SCHEMA.dequantize(MIXED, np.random.default_rng(1))
    np.testing.assert_array_equal(noisy[:, 0], MIXED[:, 0])
    shift = noisy[:, 1:] - MIXED[:, 1:]
    assert (abs(shift) <= 0.5).all() and shift.std() > 0.2
    np.testing.assert_array_equal(SCHEMA.quantize(noisy), MIXED)
    assert SCHEMA.quantize(np.zeros((2, 4, 3))).shape == (2, 4, 3)


def offsets(schema, values, n_draws):
    seen = []

    def log_prob(rows):
        seen.append(rows - values)
        return np.zeros(len(rows))

    np.testing.assert_allclose(schema.averaged(log_prob, values, n_draws), 0, atol=1e-12)
    return np.stack(seen)


def test_offsets_lie_inside_the_bin_and_are_zero_elsewhere():
    u = offsets(SCHEMA, MIXED, 20)
    assert u.shape == (20, *MIXED.shape)
    np.testing.assert_array_equal(u[..., 0], 0)
    assert (abs(u[..., 1:]) < 0.5).all()
    assert len(np.unique(u[:, 0, 1])) == 20
    assert not offsets(Schema(("a",), ("continuous",)), np.ones((3, 1)), 64).any()
    with pytest.raises(ConfigError):
        offsets(SCHEMA, MIXED, 0)


def test_offsets_depend_on_the_row_alone_and_are_uniform():
    rng = np.random.default_rng(4)
    values = np.column_stack([rng.normal(size=4000), rng.integers(0, 900, (4000, 2))])
    u = offsets(SCHEMA, values, 2)
    np.testing.assert_array_equal(u[:, 7], offsets(SCHEMA, values[7:8], 2)[:, 0])
    # Over rows each offset is uniform: Kolmogorov-Smirnov, four tests, false alarm 4e-4 in all.
    for draw in u:
        for column in draw.T[1:]:
            assert kstest(column, "uniform", (-0.5, 1.0)).pvalue > 1e-4
    assert abs(np.corrcoef(u[0, :, 1], u[0, :, 2])[0, 1]) < 4 / np.sqrt(4000)


def test_the_score_of_integers_is_a_lower_bound_in_expectation():
    # One draw, whose bound is loosest: the mean over many rows is E_u log p(n + u), below log P(n).
    schema = Schema(("x", "n"), ("continuous", "integer"))
    x = np.random.default_rng(5).normal(size=5000)  # distinguishes the rows; the density ignores it
    values = np.column_stack([x, np.full(5000, 1.0)])
    scores = schema.averaged(lambda rows: norm.logpdf(rows[:, 1], scale=0.4), values, 1)
    u = np.linspace(-0.5, 0.5, 20001)
    expected = trapezoid(norm.logpdf(1 + u, scale=0.4), u)
    assert expected < np.log(norm.cdf(1.5 / 0.4) - norm.cdf(0.5 / 0.4)) - 0.3
    error = scores.std() / np.sqrt(5000)
    assert abs(scores.mean() - expected) < 4 * error  # false alarm 6e-5


def test_averaging_over_offsets_gives_the_probability_of_the_integer():
    # A normal density of scale 1.5: P(n) is known from its distribution function.
    schema = Schema(("n",), ("integer",))
    n = np.arange(-6, 7)
    exact = np.log(norm.cdf((n + 0.5) / 1.5) - norm.cdf((n - 0.5) / 1.5))
    estimate = schema.averaged(lambda rows: norm.logpdf(rows[:, 0], scale=1.5), n[:, None] * 1.0, 64)
    np.testing.assert_allclose(estimate, exact, atol=0.02)


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
