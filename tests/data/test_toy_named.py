"""The named islands: a density of rows with holes that is a density, by other grids than its own."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from modeflow.data.toy_named import NamedShapes

TOY = NamedShapes()
GRID = np.linspace(-9.0, 9.0, 721)


def rows_at(x, y, shape):
    n = max(np.size(x), np.size(y))
    columns = {"x": x, "y": y, "shape": shape}
    return pl.DataFrame({k: [v] * n if np.ndim(v) == 0 else v for k, v in columns.items()},
                        schema={"x": pl.Float64, "y": pl.Float64, "shape": pl.String})  # fmt: skip


def test_a_missing_number_is_integrated_out():
    whole = TOY.sample(12, seed=1)
    for name in ("x", "y"):
        holes = whole.with_columns(pl.lit(None, pl.Float64).alias(name))
        for row, hole in zip(whole.rows(named=True), np.exp(TOY.log_prob(holes)), strict=True):
            line = rows_at(**{**row, name: GRID})
            assert hole == pytest.approx(np.trapezoid(np.exp(TOY.log_prob(line)), GRID), rel=1e-6)
            mean = TOY.means(rows_at(**{**row, name: None}).cast({name: pl.Float64}))[0, "xy".index(name)]
            density = np.exp(TOY.log_prob(line))
            assert mean == pytest.approx((GRID @ density) / density.sum(), abs=1e-4)


def test_a_missing_name_is_summed_out_and_bayes_gives_it_back():
    whole = TOY.sample(50, seed=2)
    hidden = TOY.log_prob(whole.with_columns(pl.lit(None, pl.String).alias("shape")))
    joint = np.stack([TOY.log_prob(whole.with_columns(pl.lit(name).alias("shape"))) for name in TOY.names], 1)
    np.testing.assert_allclose(np.logaddexp.reduce(joint, axis=1), hidden, atol=1e-10)
    np.testing.assert_allclose(np.exp(joint - hidden[:, None]), TOY.name_probs(whole), atol=1e-10)
    np.testing.assert_allclose(hidden, TOY.shapes.log_prob(whole.select("x", "y").to_numpy()), atol=1e-10)


def test_rows_follow_the_density_and_holes_their_share():
    """At four standard errors each: by chance about one new seed in a thousand would fail."""
    whole = TOY.sample(6000, seed=3)
    names = TOY.name_probs(whole).mean(0)
    for name, share in zip(TOY.names, names, strict=True):
        assert abs((whole["shape"] == name).mean() - share) < 4 * (0.25 / 6000) ** 0.5
    holes = TOY.with_holes(whole, 0.3, seed=3)
    assert max(np.sum([holes[c].is_null().to_numpy() for c in holes.columns], axis=0)) == 1
    for column in holes.columns:
        assert abs(holes[column].null_count() / 6000 - 0.1) < 4 * (0.1 * 0.9 / 6000) ** 0.5
    same = holes["x"].is_not_null()
    assert holes.filter(same)["x"].equals(whole.filter(same)["x"])
