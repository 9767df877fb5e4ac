"""Axes: where cells lie, where a density is looked at, and what readers write."""

from __future__ import annotations

import numpy as np
import pytest

from modeflow.data.columns import Feature
from modeflow.errors import DataError
from modeflow.exploring.axes import LEVELS_SHOWN, axis_of


def words(values):
    return [f"{v:g}" for v in values]


def axis(feature, *columns):
    return axis_of(feature, [np.array(c, dtype=float) for c in columns], words, float)


def test_levels_have_places_in_their_order():
    found = axis(Feature("city", "categorical", levels=3), [0, 2, 2, np.nan], [2, 2, 0])
    assert found.codes == (0, 1, 2)
    assert np.array_equal(found.places(np.array([2.0, np.nan, 0.0, -np.inf])), [2, np.nan, 0, np.nan], True)
    assert found.ticks == ([0.0, 1.0, 2.0], ["0", "1", "2"])
    at, places = found.grid(2)
    assert at.tolist() == places.tolist() == [0, 1, 2]


def test_rare_levels_have_no_place():
    counts = np.repeat(np.arange(100.0), np.arange(100) + 1)
    found = axis(Feature("name", "categorical", levels=100), counts)
    assert found.codes == tuple(range(100 - LEVELS_SHOWN, 100))
    assert np.isnan(found.places(np.array([3.0]))[0])


@pytest.mark.parametrize(
    "feature, expected",
    [
        (Feature("n", "integer", step=1.0), list(range(11))),
        (Feature("n", "integer", step=2.0, offset=1.0), [-1 + 2 * k for k in range(1, 6)]),
    ],
)
def test_a_coarse_lattice_is_looked_at_whole(feature, expected):
    got, places = axis(feature, [0.0, 10.0]).grid(20)
    assert (
        got is places
        and set(expected) <= set(got.tolist())
        and np.allclose((got - feature.offset) % feature.step, 0)
    )


def test_a_fine_lattice_is_looked_at_where_rows_heap_up():
    """Ages to a ten-thousandth, nearly all of them whole: pieces of 0.7 years are told by the whole one."""
    ages = np.concatenate(
        [np.repeat(np.arange(1.0, 71.0), 3), np.linspace(0.4, 70.4, 30).round(4), [0.0] * 9]
    )
    found = axis(Feature("age", "lattice", step=1e-4, atoms=(0.0,)), ages)
    at, places = found.grid(100)
    inside = (at >= places - 0.353) & (at <= places + 0.353)
    assert inside.all() and len(at) == 100 and np.allclose(np.diff(places), 0.704)
    assert (at == np.round(at)).sum() == 70 and 0.0 not in at
    assert np.allclose(np.round(at / 1e-4) * 1e-4, at)
    assert found.range[0] < 0 and found.range[1] > 70


def test_rows_of_one_level_are_parted_and_the_same_each_time():
    found = axis(Feature("city", "categorical", levels=2), [0, 1])
    values = np.zeros(50)
    first = found.jittered(values, 0)
    assert len(np.unique(first)) == 50 and np.abs(first).max() < 0.5
    assert np.array_equal(first, found.jittered(values, 0)) and not np.array_equal(
        first, found.jittered(values, 1)
    )
    real = axis(Feature("x", "real"), [0.0, 1.0])
    assert np.array_equal(real.jittered(np.array([0.25]), 0), [0.25])


def test_limits_as_written():
    values = np.array([1.0, 2.0, 3.0, np.nan])
    real = axis(Feature("x", "real"), values)
    assert real.between("1.5", " ", values).tolist() == [False, True, True, False]
    assert real.between("3", "2", values).tolist() == [False, True, True, False]
    with pytest.raises(DataError, match="x is a number, received 'wide'"):
        real.between("wide", "", values)
    city = axis(Feature("city", "categorical", levels=3), [0, 1, 2])
    assert city.between("1", "", np.array([0.0, 1.0, 2.0])).tolist() == [False, True, True]
    with pytest.raises(DataError, match="'7' is no level of city"):
        city.between("7", "", np.array([0.0]))


def test_nothing_to_go_by():
    found = axis(Feature("x", "real"), [np.nan], [])
    assert (found.low, found.high) == (0.0, 1.0)
    one = axis(Feature("x", "real"), [3.0, 3.0])
    assert one.low < 3 < one.high
