"""What is wrong with a mixed table, each in one line that says what to do."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from modeflow import NVF, FlowDensity
from modeflow.errors import ConfigError, DataError

SMALL = {"latent_options": {"states": 4}, "max_epochs": 1, "random_state": 0}


def table(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=n), "city": rng.choice(["Rome", "Oslo"], n)})


def with_words(count: int, n: int) -> pd.DataFrame:
    return table(n).assign(word=[f"w{i}" for i in np.random.default_rng(1).integers(count, size=n)])


def with_hole() -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(60, 2))
    values[3, 1] = np.nan
    return values


def without_a_row() -> pd.DataFrame:
    frame = table()
    frame.loc[[4, 7]] = [np.nan, None]
    return frame


def refused(estimator, X) -> str:
    with pytest.raises((ConfigError, DataError)) as error:
        estimator.fit(X)
    text = str(error.value)
    assert "\n" not in text
    return text


CASES = {
    "an unknown kind": (table(), {"city": "catgorical"}, "'city'.*'catgorical'.*did you mean 'categorical'"),
    "an unknown column": (table(), {"ctiy": "drop"}, "no column 'ctiy'; did you mean 'city'"),
    "thousands of levels": (
        with_words(3000, 6000), {"word": "categorical"}, "'word' has .* levels, more than 1000.*, or merge",
    ),
    "text in a real column": (
        table(), {"city": "real"}, "'city', data row 1 holds .*no number.*'categorical' or 'drop'",
    ),
    "fractions in an integer": (table(), {"x": "integer"}, "'x', data row 1 holds .*no whole number"),
    "a row without cells": (without_a_row(), None, "data row 5 has no cell at all .and 1 more.: leave"),
    "no rows": (table()[:0], None, "no rows"),
    "columns all dropped": (
        table(), {"x": "drop", "city": "drop"}, "no column to model: all are constant or dropped",
    ),
    "columns all constant": (pd.DataFrame({"a": ["x"] * 9, "b": 1}), None, "no column to model: all are"),
    "names of rows": (
        with_words(3000, 60), None, r"'word' \(.*\) names the rows.*: pass columns={'word': 'drop'}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(name):
    frame, columns, message = CASES[name]
    assert re.search(message, refused(NVF(columns=columns, **SMALL), frame))


def test_text_among_numbers_is_a_slip():
    frame = table()
    frame["x"] = frame["x"].astype(str)
    frame.loc[30, "x"] = "1.5m"
    text = refused(NVF(**SMALL), frame)
    assert text == (
        "column 'x' holds numbers, and text such as '1.5m' in data row 31: correct these cells, or say its "
        "kind"
    )


def test_many_columns_of_names_are_counted():
    frame = table()
    for i in range(5):
        frame[f"id{i}"] = [f"{i}-{row}" for row in range(len(frame))]
    text = refused(NVF(**SMALL), frame)
    assert "and 2 more name the rows" in text and "'id2': 'drop', ...}" in text and "id3" not in text


def test_plain_flows_and_other_latents_say_who_takes_words_and_holes():
    for X, what in (
        (table(), "column 'city' is not numbers"),
        (with_hole(), "1 missing value .* data row 4"),
    ):
        with pytest.raises(DataError, match=what + r".*, or fit NVF with latent='auto' or 'tree'"):
            FlowDensity().fit(X)
    for estimator in (NVF(latent="discrete"), NVF(3)):
        with pytest.raises(ConfigError, match=r"'discrete' takes complete rows, .* missing cells.*'tree'"):
            estimator.fit(with_hole())
    with pytest.raises(ConfigError, match=r"'continuous' takes complete columns of numbers alone.*'tree'"):
        NVF(latent="continuous", columns={"city": "categorical"}).fit(table())


def test_rows_to_score():
    fitted = NVF(**SMALL).fit(table())
    for rows, message in (
        (table().rename(columns={"city": "town"}), "missing 'city'; unexpected 'town'"),
        (table().assign(x="?word"), r"column 'x', data row 1 holds '\?word'.*no number"),
        (table().assign(x=np.inf), "column 'x', data row 1 is infinite"),
        ([[1.0, "Rome"]], "a table is a data frame"),
    ):
        with pytest.raises(DataError, match=message):
            fitted.score_samples(rows)
