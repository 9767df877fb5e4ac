"""Columns that are functions of others are named, all others left in peace."""

from __future__ import annotations

import numpy as np
import pytest

from modeflow.data import check_fit_table
from modeflow.data.dependence import find_dependence

Z = np.random.default_rng(0).normal(size=(500, 3))
NOISE = np.random.default_rng(1).normal(size=500)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (Z[:, 0], "'d' is a copy of 'a'"),
        (2.54 * Z[:, 1] + 7, "'d' is a linear function of 'b'"),
        (Z[:, 0] - 1e3 * Z[:, 2], "'d' is a linear function of 'a', 'c'"),
        (Z.sum(1) * 1e-200, "'d' is a linear function of 'a', 'b', 'c'"),
        (Z[:, 0] + 1e-8 * NOISE, "'d' is a linear function of 'a'"),
        (1e14 + np.round(Z[:, 0], 1), None),
        (np.exp(Z[:, 1]), "'d' is a monotone function of 'b'"),
        (-(Z[:, 1] ** 3), "'d' is a monotone function of 'b'"),
        (Z[:, 0] + 1e-3 * NOISE, None),
        (Z[:, 0] * Z[:, 1], None),
        (np.round(Z[:, 0]), None),
    ],
    ids=[
        "copy",
        "units",
        "sum",
        "sum of three",
        "noise",
        "rounded",
        "exp",
        "falling",
        "close",
        "product",
        "bins",
    ],
)
def test_dependence_is_named(column, words):
    found = find_dependence(np.column_stack([Z, column]), ("a", "b", "c", "d"))
    assert found == ([] if words is None else [words])


def test_several_at_once_in_one_warning():
    x = np.column_stack([Z, Z[:, 0], Z.sum(1)])
    with pytest.warns(
        UserWarning, match=r"functions of others: 'd' is a copy of 'a'; 'e' is a linear .*drop"
    ):
        check_fit_table(x, tuple("abcde"))


def test_far_rows_and_wide_tables_are_no_dependence():
    far = np.r_[Z, [[1e9, 1e9, 1e9]]]
    assert find_dependence(far, ("a", "b", "c")) == []
    wide = np.random.default_rng(2).normal(size=(40, 60))
    assert find_dependence(wide, [f"x{i}" for i in range(60)]) == []
    spiked = np.where(np.random.default_rng(3).random((500, 2)) < 0.99, 0.0, Z[:, :2])
    assert find_dependence(spiked, ("a", "b")) == []
