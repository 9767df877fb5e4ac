"""Pictures as values."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from modeflow.exploring.figures import density_figure, points_figure
from modeflow.exploring.maps import DensityMap, density_map
from modeflow.exploring.views import Rows


def drawn(explored, rows, across, up, **more):
    return points_figure(rows, explored.names, explored.axes[across], explored.axes.get(up), **more)


def test_points_are_the_rows_that_have_a_place(mixed):
    rows = mixed.rows("training")
    figure, count = drawn(mixed, rows, "height", "city", node="height")
    there = np.isfinite(rows.values[:, :2]).all(1)
    assert count == there.sum() < len(rows.values)
    found = np.sort(np.concatenate([trace["customdata"] for trace in figure["data"]]))
    assert np.array_equal(found, np.flatnonzero(there))
    assert [trace["name"] for trace in figure["data"]] == [
        f"state {k}" for k in np.unique(rows.states["height"])
    ]
    assert figure["layout"]["yaxis"]["ticktext"] == ["Oslo", "Rome"]
    json.dumps(figure, allow_nan=False)


def test_states_and_selections(numbers):
    rows = numbers.rows("training")
    figure, count = drawn(numbers, rows, "a", "b", node="state", states=[1], selected=[0, 1, 2, 3])
    mine = np.flatnonzero(rows.states["state"] == 1)
    (trace,) = figure["data"]
    assert count == len(mine) and trace["customdata"] == mine.tolist()
    assert trace["selectedpoints"] == np.flatnonzero(mine < 4).tolist()
    assert np.allclose(trace["x"], rows.values[mine, 0], rtol=1e-5)
    none, count = drawn(numbers, rows, "a", "b", node="state", states=[])
    assert (none["data"], count) == ([], 0)


def test_one_column_is_strewn(flow):
    figure, count = drawn(flow, flow.samples(), "a", None)
    assert count == 500 and not figure["layout"]["yaxis"]["visible"]
    assert np.abs(figure["data"][0]["y"]).max() < 0.5
    found = density_map(flow, "a", None, {})
    picture = density_figure(found, flow.axes["a"], None)
    assert picture["data"][0]["zsmooth"] is False and np.shape(picture["data"][0]["z"])[0] == 1


def test_text_of_cells_is_no_markup(numbers):
    frame = pl.DataFrame({"a": ["<b>x</b>"], "b": ["&"]})
    rows = Rows(frame, np.zeros((1, 2)), {}, 1)
    figure, _ = drawn(numbers, rows, "a", "b")
    assert "<b>" not in figure["data"][0]["text"][0] and "&lt;b&gt;" in figure["data"][0]["text"][0]


def test_a_map_of_levels_is_not_smoothed(mixed):
    found = density_map(mixed, "height", "city", {})
    figure = density_figure(found, mixed.axes["height"], mixed.axes["city"])
    assert figure["data"][0]["zsmooth"] is False
    z = np.array(figure["data"][0]["z"])
    assert z.shape == (2, len(found.x)) and z.min() >= 0 and z.max() <= 1
    json.dumps(figure, allow_nan=False)


def test_a_browser_stretches_even_maps_alone(numbers):
    x, y = numbers.axes["a"], numbers.axes["b"]
    places, level = np.linspace(0, 1, 4), np.zeros((4, 4))
    even = DensityMap(places, places, level, level, "")
    uneven = DensityMap(places**2, places, level, level, "")
    kinds = [density_figure(each, x, y)["data"][0]["zsmooth"] for each in (even, uneven)]
    assert kinds == ["fast", "best"]
