"""Tables of any kind are read as the same numbers and codes, or refused in one line."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from modeflow.errors import ConfigError, DataError
from modeflow.metrics import synthetic
from modeflow.metrics.synthetic.coding import code_tables

COLUMNS = {
    "a": [1.5, None, -2.0],
    "code": [3, 1, 3],
    "text": ["u", None, "v"],
    "flag": [True, False, None],
    "day": [date(2020, 1, 1), date(2020, 1, 2), None],
}


def frames():
    frame = pl.DataFrame(COLUMNS)
    plain = pd.DataFrame({name: pd.Series(values) for name, values in COLUMNS.items()})
    plain["day"] = pd.to_datetime(plain["day"])
    typed = plain.astype({"a": "Float64", "code": "Int64", "text": "string", "flag": "boolean"})
    arrays = {
        "a": np.array([1.5, np.nan, -2.0], dtype=np.float32),
        "code": np.array([3.0, 1.0, 3.0]),
        "text": np.array(["u", None, "v"], dtype=object),
        "flag": ["True", "False", None],
        "day": np.array(["2020-01-01", "2020-01-02", "NaT"], dtype="datetime64[D]"),
    }
    return {"polars": frame, "pandas": plain, "nullable": typed, "arrays": arrays}


@pytest.mark.parametrize("name", ["polars", "pandas", "nullable", "arrays"])
def test_every_kind_of_table_is_read_alike(name):
    coded = code_tables({"first": frames()["polars"], "second": frames()[name]}, ["code"])
    assert coded.numeric == ("a", "day") and coded.categorical == ("code", "text", "flag")
    assert coded.names == tuple(COLUMNS)
    first, second = coded.tables
    np.testing.assert_array_equal(first.numbers, second.numbers)
    np.testing.assert_array_equal(first.codes, second.codes)
    assert first.codes.tolist() == [[1, 0, 1], [0, 2, 0], [1, 1, 2]]
    assert coded.levels[:2] == (("1", "3"), ("u", "v", "\0missing"))
    assert first.numbers[1, 1] - first.numbers[0, 1] == 86_400 and np.isnan(first.numbers[2, 1])


def test_levels_of_numbers_have_their_numbers_and_those_of_a_category_have_none():
    values = pd.DataFrame({"n": [10, 9, 9], "c": pd.Categorical([2, 1, 2]), "b": [True, False, True]})
    coded = code_tables({"first": values, "second": values.iloc[::-1]}, ["n"])
    assert coded.categorical == ("n", "c", "b")
    numbers, category, boolean = coded.level_numbers
    assert numbers.tolist() == [9, 10] and category is None and boolean.tolist() == [0, 1]


def test_levels_that_another_table_adds_are_known_to_both():
    coded = code_tables({"first": {"c": ["a", "c"]}, "second": {"c": ["b", "c"]}})
    assert coded.levels == (("a", "b", "c"),)
    assert [rows.codes[:, 0].tolist() for rows in coded.tables] == [[0, 2], [1, 2]]
    text_for_number = code_tables({"first": {"c": [1, 2]}, "second": {"c": ["2", "x"]}}, ["c"])
    assert text_for_number.level_numbers == (None,) and text_for_number.levels == (("1", "2", "x"),)


def test_columns_of_which_nothing_is_known():
    coded = code_tables(
        {"a": {"x": [1.0, 2.0], "t": ["u", "v"]}, "b": {"x": [None, None], "t": [None, None]}}
    )
    assert np.isnan(coded.tables[1].numbers).all() and coded.tables[1].codes.tolist() == [[2], [2]]
    stamps = {"when": [datetime(2020, 1, 1), None]}
    assert code_tables({"a": stamps}).numeric == ("when",)


GOOD = {"x": [1.0, 2.0], "t": ["u", "v"]}
BAD = {
    "lacks": ({"x": [1.0, 2.0]}, "has no column 't'"),
    "adds": ({**GOOD, "z": [1, 2]}, "column 'z' that real has not"),
    "empty": ({"x": [], "t": []}, "synthetic has no rows"),
    "ragged": ({"x": [1.0], "t": ["u", "v"]}, "column 'x' has 1 rows, others 2"),
    "text": ({"x": ["one", "two"], "t": ["u", "v"]}, "column 'x' holds text.*categorical"),
    "infinite": ({"x": [1.0, np.inf], "t": ["u", "v"]}, "'x' is infinite at row 1"),
    "an array": (np.zeros((2, 2)), "must be a pandas or polars frame"),
    "nothing": ({}, "has no columns"),
    "deep": ({"x": np.zeros((2, 2)), "t": ["u", "v"]}, "one-dimensional"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_tables_that_do_not_go_together(case):
    table, message = BAD[case]
    with pytest.raises(DataError, match=message):
        synthetic.shape(GOOD, table)


@pytest.mark.parametrize(
    ("names", "message"), [(["tt"], "no column 'tt'; did you mean 't'"), ("t", "a list")]
)
def test_columns_named_wrongly(names, message):
    with pytest.raises(ConfigError, match=message):
        synthetic.shape(GOOD, GOOD, names)
