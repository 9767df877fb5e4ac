"""The maps of the columns of a table: bounds, robust scale, tails."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from modeflow.transforms import Columns, Standardize
from modeflow.transforms.columns import lost_digits

DOUBLE = torch.float64
INF = math.inf


def open_edges(d: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((d,), -INF), torch.full((d,), INF)


def test_clean_data_is_standardised_and_nothing_else():
    rng = np.random.default_rng(0)
    islands = np.where(rng.random((4000, 1)) < 0.05, 100.0, 0.0) + rng.normal(size=(4000, 1))
    tables = [rng.normal(3, 2, (1000, 1)), islands, rng.standard_t(5, (2000, 1)), rng.normal(9, 1, (1000, 1))]
    for table in tables:
        x = torch.from_numpy(table)
        seen = Columns(1).fit(x, edges=open_edges(1))(x)[0]
        torch.testing.assert_close(seen, Standardize(1).fit(x)(x)[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e9, 1e200])
def test_a_far_row_does_not_set_the_scale(far):
    x = torch.randn(1000, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    x[7] = far
    layer = Columns(2).fit(x)
    bulk = torch.cat([x[:7], x[8:]])
    assert torch.allclose(layer.scale, bulk.std(0), rtol=0.05)
    assert layer.mean.abs().max() < 0.1
    u, logabsdet = layer(x)
    assert 8 < u[7, 0] < 500
    assert torch.isfinite(logabsdet).all()
    assert torch.allclose(layer.inverse(u)[0], x, rtol=1e-12)


def test_the_rows_left_out_of_the_scale_are_counted_by_weight():
    x = torch.randn(500, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    x[:10] = 1e5
    light = torch.ones(500, dtype=DOUBLE)
    light[:10] = 0.1
    assert Columns(1).fit(x, light).scale < 2
    assert Columns(1).fit(x).scale > 1e4  # two percent are an island, not a few odd rows


@pytest.mark.parametrize("unit", [1e-310, 1e-200, 1e-12, 1e9, 1e200])
def test_units_cost_no_digits(unit):
    x = torch.randn(200, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    for table in (x, x.exp()):
        u, logabsdet = Columns(1).fit(table, edges=open_edges(1))(table)
        v, scaled = Columns(1).fit(table * unit, edges=open_edges(1))(table * unit)
        assert torch.allclose(u, v, atol=1e-9)
        assert torch.allclose(scaled + math.log(unit), logabsdet, atol=1e-9)


@pytest.mark.parametrize("offset", [1e14, 1.7e18])
def test_a_large_offset_is_no_constant(offset):
    x = (
        torch.randn(500, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(3)) * offset * 1e-14
        + offset
    )
    layer = Columns(1).fit(x)
    u = layer(x)[0]
    assert u.std() == pytest.approx(1, abs=0.01)
    assert lost_digits(layer, x) == []


def test_columns_whose_values_float32_confuses_are_known():
    x = torch.randn(500, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    x[250:, 1] += 1e12
    assert lost_digits(Columns(2).fit(x), x) == [1]


@pytest.mark.parametrize(
    ("law", "bounded"),
    [
        (stats.lognorm(0.4), True),
        (stats.lognorm(1), True),
        (stats.lognorm(2), True),
        (stats.expon(), True),
        (stats.halfnorm(), True),
        (stats.norm(4, 1), False),
        (stats.lognorm(0.2), False),
        (stats.uniform(5, 1), False),
    ],
)
def test_a_bound_at_zero_is_put_where_rows_crowd_or_skew(law, bounded):
    x = torch.from_numpy(law.rvs((2000, 1), random_state=np.random.default_rng(5)))
    for sign in (1, -1):
        layer = Columns(1).fit(sign * x, edges=open_edges(1))
        assert bool((layer.low if sign > 0 else layer.high).isfinite()) == bounded
    # Without edges there is none.
    assert not Columns(1).fit(x).low.isfinite()


def test_lognormal_rows_become_normal():
    x = torch.from_numpy(stats.lognorm(2).rvs((3000, 1), random_state=np.random.default_rng(6)))
    u = Columns(1).fit(x, edges=open_edges(1))(x)[0][:, 0].numpy()
    assert stats.kstest(u, "norm").pvalue > 1e-3  # moments are fitted: the false-alarm rate is below 1e-3


def test_samples_keep_the_bounds_and_scores_go_beyond_them():
    rng = np.random.default_rng(7)
    x = torch.from_numpy(np.stack([rng.exponential(1, 2000), rng.integers(0, 2, 2000) + 0.0], 1))
    noisy = x + torch.tensor([0, 1.0]) * (torch.rand(2000, 2, dtype=DOUBLE) - 0.5)
    low, high = torch.tensor([-INF, -0.5]), torch.tensor([INF, 1.5])
    layer = Columns(2).fit(noisy, None, torch.tensor([0.0, 1.0]), (low, high))
    u = torch.randn(20_000, 2, dtype=DOUBLE) * 5
    y = layer.sample(u)
    assert (y[:, 0] > 0).all()
    assert (y[:, 1] >= -0.5).all()
    assert (y[:, 1] <= 1.5).all()
    inside = ((y[:, 0] > layer.sliver[0]) & (y[:, 1] > -0.499) & (y[:, 1] < 1.499)).nonzero().flatten()
    assert torch.allclose(layer.inverse(u)[0][inside], y[inside], atol=1e-9)
    beyond = torch.tensor([[-1.0, 3.0], [-1e6, -40.0]], dtype=DOUBLE)
    v, logabsdet = layer(beyond)
    assert torch.isfinite(v).all()
    assert v.abs().max() < 60
    assert torch.isfinite(logabsdet).all()


def test_a_model_file_of_the_first_format_is_affine():
    layer = Columns(2)
    layer.load_state_dict({"mean": torch.tensor([1.0, 2.0]), "scale": torch.tensor([2.0, 4.0])})
    x = torch.tensor([[1e6, -3.0]], dtype=DOUBLE)
    torch.testing.assert_close(layer(x)[0], torch.tensor([[(1e6 - 1) / 2, -1.25]], dtype=DOUBLE))
    assert layer.sample(layer(x)[0])[0, 0] == pytest.approx(1e6)


def test_casts_keep_the_bounds():
    x = torch.rand(300, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(8)).exp() * 1e30 - 1e30
    layer = Columns(1).fit(x, edges=open_edges(1))
    expected = layer(x)[0]
    assert torch.equal(layer.half()(x)[0], expected)
    fresh = Columns(1)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x)[0], expected)
