"""Mixed columns to features: volumes, atoms, angles, missing cells."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import kstest

from modeflow.densities import Density, Preprocessed
from modeflow.errors import DataError
from modeflow.nets.randomness import seeded
from modeflow.transforms.marginals import find_grid, find_ties
from modeflow.transforms.mixed import Cell, MixedColumns

CELLS = (
    Cell(),
    Cell(levels=3),
    Cell(low=0.0, atoms=(0.0, 9.0)),
    Cell(period=360.0, origin=-180.0),
    Cell(step=1.0, low=-0.5, atoms=(0.0,)),
    Cell(period=24.0, step=1.0, origin=-0.5),
)
SMOOTH = CELLS[:4]


def table(cells=CELLS, n=400, seed=0, missing=0.1):
    rng = np.random.default_rng(seed)
    rain = np.where(rng.random(n) < 0.4, 0.0, rng.gamma(2.0, 1.0, n))
    rain[rng.random(n) < 0.05] = 9.0
    count = np.where(rng.random(n) < 0.5, 0, 1 + rng.poisson(20, n))
    columns = [
        3 + 2 * rng.normal(size=n),
        rng.integers(0, 3, n),
        rain,
        rng.uniform(-180, 180, n),
        count,
        rng.integers(0, 24, n),
    ]
    x = np.column_stack(columns).astype(float)[:, : len(cells)]
    x[rng.random(x.shape) < missing] = np.nan
    return torch.from_numpy(x)


def fitted(cells=CELLS, **options):
    layer = MixedColumns(cells)
    with seeded(0):
        return layer.fit(table(cells, **options))


def test_features_are_named_by_the_cells():
    layer = MixedColumns(CELLS)
    assert layer.event_shape == (6,) and layer.features == 8
    assert layer.levels == (0, 3, 0, 0, 0, 0, 3, 2)
    assert layer.circular == (False, False, False, True, False, True, False, False)
    assert layer.exactness == "lower bound" and MixedColumns(SMOOTH).exactness == "exact"


def test_there_and_back():
    """Atoms, levels, missing cells and places on lattices to the digit; numbers but for rounding."""
    layer, x = fitted(), table(seed=1)
    with seeded(0):
        u, _ = layer(x)
    assert u.shape == (len(x), 8)
    back = layer.sample(u)
    assert torch.equal(back.isnan(), x.isnan())
    whole = [1, 4]
    assert torch.equal(back[:, whole].nan_to_num(-1), x[:, whole].nan_to_num(-1))
    assert torch.equal((back[:, 5] % 24).nan_to_num(-1), x[:, 5].nan_to_num(-1))
    for atom in (0.0, 9.0):
        assert torch.equal(back[:, 2] == atom, x[:, 2] == atom)
    torch.testing.assert_close(back.nan_to_num(-1)[:, :4], x.nan_to_num(-1)[:, :4], atol=1e-9, rtol=1e-9)
    angles = u[:, [3, 5]]
    assert ((angles >= -math.pi) & (angles < math.pi) | angles.isnan()).all()
    # A number is there, or its flag says which atom: never both, never neither but where it is missing.
    for number, flag in ((2, 6), (4, 7)):
        assert torch.equal(u[:, flag].isnan(), x[:, number].isnan())
        assert torch.equal(u[:, number].isnan(), x[:, number].isnan() | (u[:, flag] > 0))


def test_the_volume_is_that_of_the_numbers_that_are_there():
    layer, x = fitted(SMOOTH), table(SMOOTH, 60, seed=2)
    found = layer(x)[1]
    for row, total in zip(x, found, strict=True):
        expected = 0.0
        for j in (0, 2, 3):
            here = row.clone().unsqueeze(0).requires_grad_()
            u = layer(here)[0][0, j]
            if not u.isnan():
                (slope,) = torch.autograd.grad(u, here)
                expected += float(slope[0, j].abs().log())
        assert float(total) == pytest.approx(expected, abs=1e-9)


def test_a_missing_cell_says_nothing_of_the_scale():
    whole, holes = table(SMOOTH, missing=0.0), table(SMOOTH, missing=0.0)
    keep = torch.arange(0, len(whole), 2)
    holes[1::2, 0] = torch.nan
    a, b = MixedColumns(SMOOTH).fit(whole[keep]), MixedColumns(SMOOTH).fit(holes)
    torch.testing.assert_close(a.columns.mean[0], b.columns.mean[0])
    torch.testing.assert_close(a.columns.scale[0], b.columns.scale[0])
    with pytest.raises(DataError, match="constant"):
        holes[2:, 0] = torch.nan
        holes[:2, 0] = 1.0
        MixedColumns(SMOOTH).fit(holes)


class Independent(Density):
    """Numbers normal, angles and codes uniform; what is missing counts for nothing."""

    dtype = torch.float64

    def __init__(self, layer):
        super().__init__((layer.features,))
        self.levels, self.circular = layer.levels, layer.circular

    def _log_prob(self, x, context):
        total = torch.zeros(len(x), dtype=x.dtype)
        for j, (levels, circular) in enumerate(zip(self.levels, self.circular, strict=True)):
            there = x[:, j] == x[:, j]
            if levels:
                one = torch.full_like(total, -math.log(levels))
            elif circular:
                one = torch.full_like(total, -math.log(2 * math.pi))
            else:
                one = torch.distributions.Normal(0.0, 1.0).log_prob(x[:, j].nan_to_num(0.0))
            total = total + torch.where(there, one, 0.0)
        return total


def test_the_mass_of_a_row_is_one():
    """Summed over levels, atoms and hours, integrated over the rest; one column at a time, others missing."""
    layer = fitted()
    model = Preprocessed(layer, Independent(layer), draws=64).eval()
    assert model.event_shape == (6,)

    def density(j, values):
        x = torch.full((len(values), 6), torch.nan, dtype=torch.float64)
        x[:, j] = values
        model.draws = 64 if CELLS[j].step else 1
        return model.log_prob(x).exp()

    levels = torch.arange(3.0, dtype=torch.float64)
    assert float(density(1, levels).sum()) == pytest.approx(1, abs=1e-12)
    hours = torch.arange(24.0, dtype=torch.float64)
    assert float(density(5, hours).sum()) == pytest.approx(1, abs=1e-12)
    line = torch.linspace(-60, 60, 40001, dtype=torch.float64)
    assert float(torch.trapezoid(density(0, line), line)) == pytest.approx(
        1, abs=2e-3
    )  # the density jumps at knots
    turn = torch.linspace(-180, 179.99, 1001, dtype=torch.float64)
    assert float(torch.trapezoid(density(3, turn), turn)) == pytest.approx(1, abs=1e-3)
    rain = torch.linspace(1e-4, 80, 200001, dtype=torch.float64)
    mass = torch.trapezoid(density(2, rain), rain) + density(2, torch.tensor([0.0, 9.0])).sum()
    # One of three flags each; a sliver below the bound has the rest.
    assert float(mass) == pytest.approx(1, abs=5e-3)
    counts = torch.arange(-3.0, 400.0, dtype=torch.float64)
    assert float(density(4, counts).sum()) == pytest.approx(1, abs=5e-3)
    nothing = torch.full((1, 6), torch.nan, dtype=torch.float64)
    assert float(model.log_prob(nothing)) == 0


def test_values_that_repeat_have_a_probability():
    """Exit rates: 1/n for small n, numbers between; masses of ties and the integral of the rest make one."""
    rng = np.random.default_rng(3)
    n = 4000
    column = np.where(rng.random(n) < 0.7, 1 / rng.integers(2, 9, n), rng.beta(1, 6, n))
    layer = MixedColumns((Cell(low=0.0, high=1.0),)).fit(torch.from_numpy(column[:, None]))
    ties = layer.marginals.ties[0]
    assert torch.equal(ties, torch.from_numpy(np.unique(1 / np.arange(2, 9))))
    assert layer.exactness == "lower bound"
    model = Preprocessed(layer, Independent(layer), draws=256).eval()
    share = model.log_prob(ties.unsqueeze(1)).exp()
    seen = torch.tensor([float((column == float(t)).mean()) for t in ties])
    torch.testing.assert_close(share.float(), seen, atol=0.01, rtol=0.02)
    model.draws = 1
    between = torch.linspace(0, 1, 200_003, dtype=torch.float64)[1:-1]
    rest = torch.trapezoid(model.log_prob(between.unsqueeze(1)).exp(), between)
    assert float(share.sum() + rest) == pytest.approx(1, abs=5e-3)
    u = layer.eval()(torch.from_numpy(column[:, None]))[0]
    assert torch.equal(layer.sample(u)[:, 0] == ties.unsqueeze(1), torch.from_numpy(column) == ties[:, None])
    drawn = layer.sample(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))
    hits = (drawn == ties).double().mean(0)
    assert (hits - seen).abs().max() < 5 * math.sqrt(0.25 / 20_000) + 0.01
    again = MixedColumns((Cell(low=0.0, high=1.0),))
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.eval()(torch.from_numpy(column[:, None]))[0], u)
    assert np.array_equal(find_ties(1e-12 * column), 1e-12 * np.unique(1 / np.arange(2, 9)))
    # Measurements of which two are equal by chance have none.
    assert not len(find_ties(np.round(rng.normal(size=4000), 3)))


def test_what_a_model_has_beyond_all_rows_stays_near_them():
    """Models put a few rows in ten thousand at scores that no row has: not at incomes a thousand times the
    largest. Rows far out keep a density."""
    rng = np.random.default_rng(4)
    incomes = np.exp(2 * rng.normal(size=4000))
    one_far = np.append(rng.normal(size=3999), 60.0)
    atop = np.where(rng.random(4000) < 0.3, 3.0, np.minimum(rng.normal(size=4000), 2.9))
    x = torch.from_numpy(np.stack([incomes, one_far, np.round(1000 * incomes), atop], 1))
    layer = MixedColumns((Cell(low=0.0), Cell(), Cell(low=-0.5, step=1.0), Cell())).fit(x).eval()
    far = layer.sample(torch.tensor([[6.5], [-6.5]], dtype=torch.float64).expand(2, 4))
    low, high = x.amin(0), x.amax(0)
    assert (far[0] < torch.tensor([10.0, 2.5, 10.0, 1.5]) * high).all()
    assert (far[1] >= low - 0.5 * (high - low)).all()
    for beyond in (high + 0.2 * (high - low), 10 * high, low - 0.2 * (high - low)):
        u, logabsdet = layer(beyond.unsqueeze(0))
        assert u.isfinite().all()
        assert logabsdet.isfinite().all()
    # Rising all the way.
    grid = torch.linspace(-9, 9, 5001, dtype=torch.float64).unsqueeze(1).expand(-1, 4)
    assert (layer.sample(grid).diff(dim=0) >= 0).all()


def test_knots_that_fall_on_one_another_by_rounding():
    """A knot between two rows may lie on the tie between them, and the room beyond a lattice may end at the
    edge of its last cell, but for rounding."""
    for seed in range(20):
        away = np.random.default_rng(seed).integers(1, 2**12, 300) / 2.0**13
        rates = torch.from_numpy(np.concatenate([np.full(400, 0.5), 0.5 - away, 0.5 + away])[:, None])
        layer = MixedColumns((Cell(low=0.0, high=1.0),)).fit(rates).eval()
        half = torch.tensor([[0.5]], dtype=torch.float64)
        u, volume = layer(half)
        assert layer.sample(u) == half
        assert float(volume.exp()) == pytest.approx(np.ptp(ndtri([0.3, 0.7])), rel=0.01)
    for step in (0.1, 0.01, 0.3, 0.05, 7.0):
        whole = np.append(np.random.default_rng(0).integers(0, 11, 300), [0, 10])
        cells = torch.from_numpy(step * (0.5 + whole))[:, None]
        layer = MixedColumns((Cell(step=step, offset=0.5 * step),)).fit(cells).eval()
        assert (layer.marginals.knots.diff() > 1e-6).all()
        assert torch.allclose(layer.sample(layer(cells)[0]), cells)


def test_cells_of_a_lattice_that_repeat_lie_between_knots_of_their_own():
    """Amounts on cents, most of them one of a few, which have the mass that they were seen with."""
    rng = np.random.default_rng(5)
    n = 6000
    comb = np.round(0.89 * rng.integers(1, 40, n), 2)
    column = np.where(rng.random(n) < 0.8, comb, np.round(rng.gamma(2.0, 10.0, n), 2))
    layer = MixedColumns((Cell(step=0.01, low=-0.005),))
    with seeded(0):
        layer.fit(torch.from_numpy(column[:, None]))
    model = Preprocessed(layer, Independent(layer), draws=32).eval()
    cents = torch.arange(0, 40_000, dtype=torch.float64) / 100
    mass = model.log_prob(cents.unsqueeze(1)).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=5e-3)
    seen = torch.tensor([float((column == k).mean()) for k in np.round(0.89 * np.arange(1, 40), 2)])
    found = mass[torch.from_numpy(np.round(89 * np.arange(1, 40)).astype(int))]
    torch.testing.assert_close(found.float(), seen, rtol=0.1, atol=2e-4)
    drawn = layer.sample(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))[:, 0].numpy()
    comb = np.round(89 * np.arange(1, 40))
    on, share = (np.isin(np.round(100 * each), comb).mean() for each in (drawn, column))
    assert on == pytest.approx(share, abs=0.03)
    # Counts that are smooth have no such cells, however many rows each has; whole degrees among thirds are.
    degrees = rng.poisson(30, 4000).astype(float)
    assert not len(find_ties(degrees, 1.0))
    assert len(find_ties(np.append(degrees, [20.333, 30.667]), 1 / 3)) > 20


def ages(n=1500, seed=5):
    """Whole and half years, one row in fifty of an infant, to the hundredth."""
    rng = np.random.default_rng(seed)
    years = np.round(2 * np.clip(rng.normal(35, 12, n), 2, 80)) / 2
    return np.where(rng.random(n) < 0.02, np.round(rng.uniform(0.05, 2, n), 2), years)


def test_the_coarse_values_of_a_fine_lattice():
    column = ages()
    half = find_grid(column, 0.01)
    assert half[1] - half[0] == 0.5 and half[0] <= 1 and half[-1] == np.floor(2 * column.max()) / 2
    assert np.isin(column, half).mean() > 0.97
    assert len(find_grid(np.append(column, np.nan), 0.01)) == len(half)
    rng = np.random.default_rng(6)
    thousands = np.where(
        rng.random(900) < 0.95, 1000 * rng.integers(1, 40, 900), rng.integers(1000, 40000, 900)
    )
    assert np.array_equal(find_grid(thousands.astype(float), 1.0), 1000.0 * np.arange(1, 40))
    for other, step in (
        (np.round(rng.normal(40, 10, 900), 2), 0.01),  # nothing coarse in it
        (rng.integers(0, 90, 900).astype(float), 1.0),
        (np.where(rng.random(900) < 0.6, np.round(column[:900]), column[:900] + 0.13), 0.01),  # too few on it
        (np.full(9, 3.0), 1.0),
    ):
        assert not len(find_grid(other, step))


def test_coarse_values_have_cells_of_their_own_and_the_mass_is_one():
    column = ages()
    layer = MixedColumns((Cell(step=0.01, low=-0.005),))
    with seeded(0):
        layer.fit(torch.from_numpy(column[:, None]))
    coarse = find_grid(column, 0.01)
    model = Preprocessed(layer, Independent(layer), draws=64).eval()
    cells = torch.round(torch.arange(-500, 12_000, dtype=torch.float64)) * 0.01
    mass = model.log_prob(cells[:, None]).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=5e-3)
    on = np.isin(np.round(100 * cells.numpy()), np.round(100 * coarse))
    assert float(mass[torch.from_numpy(on)].sum()) == pytest.approx(np.isin(column, coarse).mean(), abs=0.01)
    absent = np.setdiff1d(np.round(100 * coarse), np.round(100 * column)) / 100
    assert len(absent) and float(model.log_prob(torch.from_numpy(absent[:, None])).min()) > -math.log(1e5)
    drawn = layer.sample(torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)))[:, 0].numpy()
    share = (np.abs(2 * drawn - np.round(2 * drawn)) < 1e-6).mean()
    # Four errors of 20,000 draws are .004; the rest is what stretches without a row are given.
    assert abs(share - np.isin(column, coarse).mean()) < 0.01
    assert np.abs(100 * drawn - np.round(100 * drawn)).max() < 1e-6


def test_every_column_looks_gaussian():
    rng = np.random.default_rng(4)
    columns = np.column_stack([rng.lognormal(0, 3, 5000), rng.standard_cauchy(5000), rng.poisson(4, 5000)])
    layer = MixedColumns((Cell(), Cell(), Cell(step=1.0, low=-0.5)))
    with seeded(0):
        u = layer.fit(torch.from_numpy(columns))(torch.from_numpy(columns))[0]
    for column in u.T:  # at the 1 % level of Kolmogorov's test for 5000 rows: .023; fitted, far below
        assert kstest(column.numpy(), "norm").statistic < 0.02


@pytest.mark.parametrize("part", ["marginals", "columns.heaps"])
def test_what_is_loaded_stays_on_the_device_of_the_module(part):
    """Knots have other shapes in every file, and came to lie on the CPU: no run went on on a GPU."""
    layer = fitted().get_submodule(part)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied to the meta device
        there = copy.deepcopy(layer).to("meta")
        there.load_state_dict(layer.state_dict())
    assert {buffer.device.type for buffer in there.buffers()} == {"meta"}
