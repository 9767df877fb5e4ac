"""Toy distributions: densities integrate to one, samples follow them, names are parsed.

Monte Carlo checks use fixed seeds and thresholds of four standard errors or p > 1e-4: with a new seed each
of them would fail by chance about once in ten thousand runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal

from modeflow.data import TOYS, toy
from modeflow.errors import ConfigError, DataError

EXACT = [
    "ring",
    "ring:k=3,sigma=0.3",
    "grid:k=9,sigma=0.4",
    "gaussians:k=4,d=2",
    "pair:d=2",
    "rings:k=3,sigma=0.2",
    "shapes",
]
ALL = [*EXACT, "checkerboard", "moons", "spirals", "pinwheel", "swiss-roll", "gaussians", "pair", "ring:d=5"]


def grid_of(rows, cells):
    """Midpoints of a grid over the rows' range (with margins), and the cell's edges."""
    low, high = rows.min(0), rows.max(0)
    margin = 0.25 * (high - low)
    edges = [np.linspace(a, b, cells + 1) for a, b in zip(low - margin, high + margin, strict=True)]
    middles = [(e[1:] + e[:-1]) / 2 for e in edges]
    area = float(np.prod([e[1] - e[0] for e in edges]))
    return np.stack(np.meshgrid(*middles, indexing="ij"), -1).reshape(-1, len(low)), edges, area


@pytest.mark.parametrize("spec", EXACT)
def test_density_integrates_to_one(spec):
    # The integrands are smooth and vanish at the border, where the midpoint rule converges very fast.
    shape = toy(spec)
    points, _, area = grid_of(shape.sample(2000, seed=1), 500)
    assert np.exp(shape.log_prob(points)).sum() * area == pytest.approx(1.0, abs=1e-5)


def test_checkerboard_is_uniform_on_dark_squares():
    shape = toy("checkerboard:cells=3,side=0.5")
    assert len(shape._dark) == 5
    axis = (np.arange(300) + 0.5) / 300 * 2 - 1
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(shape.log_prob(points))
    # 300 midpoints cut no square of side 0.5 exactly, hence the wide tolerance.
    assert density.mean() * 4 == pytest.approx(1.0, abs=0.02)
    assert shape.log_prob(np.array([[0.0, 0.0], [0.5, 0.0], [0.9, 0.0]])).tolist() == [
        -np.log(1.25),
        -np.inf,
        -np.inf,
    ]
    assert np.isfinite(shape.log_prob(shape.sample(2000))).all()
    assert shape.entropy() == (pytest.approx(np.log(1.25)), 0.0)


@pytest.mark.parametrize("spec", [*EXACT, "checkerboard"])
def test_samples_follow_the_density(spec):
    """Chi-square of binned samples against integrals of the density over the bins (p > 1e-4)."""
    shape = toy(spec)
    n, cells, fine = 20_000, 12, 40
    rows = shape.sample(n, seed=2)
    _, edges, _ = grid_of(rows, cells)
    points, _, area = grid_of(rows, cells * fine)
    mass = np.exp(shape.log_prob(points)).reshape(cells, fine, cells, fine).sum((1, 3)) * area
    seen = np.histogram2d(*rows.T, bins=edges)[0]
    if spec == "checkerboard":  # its jumps make the quadrature coarse: merge into the squares themselves
        side = np.linspace(-4, 4, 5)
        seen, mass = np.histogram2d(*rows.T, bins=[side, side])[0], np.indices((4, 4)).sum(0) % 2 == 0
        mass = mass / 8
        assert seen[mass == 0].sum() == 0
    expected = n * mass.ravel()
    big = expected > 5
    observed = np.append(seen.ravel()[big], seen.ravel()[~big].sum())
    expected = np.append(expected[big], n - expected[big].sum())
    keep = expected > 5
    statistic = ((observed - expected)[keep] ** 2 / expected[keep]).sum()
    assert chi2.sf(statistic, keep.sum() - 1) > 1e-4


@pytest.mark.parametrize("spec", EXACT)
def test_entropy_of_samples_is_that_of_the_density(spec):
    """E[-log p] over samples against -∫ p log p on a grid: sees a scale that is off by a few percent."""
    shape = toy(spec)
    value, error = shape.entropy(40_000)
    points, _, area = grid_of(shape.sample(2000, seed=1), 500)
    log_p = shape.log_prob(points)
    assert abs(value + (np.exp(log_p) * log_p).sum() * area) < 4 * error


def test_entropy_blocks_do_not_repeat_each_other():
    assert toy("pair").entropy(100_000)[0] != toy("pair").entropy(50_000)[0]


def test_mixture_density_in_ten_dimensions_against_scipy():
    shape = toy("gaussians:k=3,d=10,sigma=0.7,separation=2")
    x = shape.sample(20)
    parts = [multivariate_normal(m, 0.49 * np.eye(10)).pdf(x) for m in shape.modes]
    np.testing.assert_allclose(shape.log_prob(x), np.log(np.mean(parts, axis=0)), rtol=1e-12)


def test_rings_density_survives_tiny_noise():
    shape = toy("rings:sigma=1e-4")
    on_ring = shape.log_prob(np.array([[3.0, 0.0], [0.0, 0.0]]))
    assert on_ring[0] == pytest.approx(np.log(0.5 / (2 * np.pi * 3) / (1e-4 * np.sqrt(2 * np.pi))), rel=1e-5)
    assert np.isfinite(on_ring[1]) and on_ring[1] < -1e6


def test_entropy_of_isolated_modes_is_known():
    # log K + d/2 log(2πe s²) when modes do not overlap; within four standard errors.
    for spec, k, d, s in (("gaussians:separation=20", 8, 10, 1.0), ("ring:k=4,sigma=0.02", 4, 2, 0.02)):
        value, error = toy(spec).entropy(60_000)
        exact = np.log(k) + d / 2 * np.log(2 * np.pi * np.e * s**2)
        assert 0 < error < 0.02
        assert abs(value - exact) < 4 * error


def test_labels_name_the_true_component():
    for spec in ("ring", "grid", "gaussians", "gaussians:k=20,d=3,seed=5", "pair"):
        shape = toy(spec)
        x, labels = shape.sample_with_labels(1000)
        assert (shape.posterior(x).argmax(1) == labels).mean() > 0.99, spec
        assert len(np.unique(labels)) == len(shape.modes)


def test_separation_is_what_was_asked():
    for spec, distance in (("gaussians:k=8,d=10,separation=6,sigma=2", 12.0), ("grid:separation=3", 3.0)):
        modes = toy(spec).modes
        gaps = np.linalg.norm(modes[:, None] - modes, axis=-1)
        assert gaps[gaps > 0].min() == pytest.approx(distance)


@pytest.mark.parametrize("spec", ALL)
def test_every_toy_samples_repeatably(spec):
    shape = toy(spec)
    x, labels = shape.sample_with_labels(101, seed=7)
    assert x.shape == (101, shape.dim) and labels.shape == (101,)
    assert x.dtype == np.float64 and np.isfinite(x).all()
    np.testing.assert_array_equal(x, shape.sample(101, seed=7))
    assert not np.array_equal(x, shape.sample(101, seed=8))
    if shape.has_density:
        assert shape.log_prob(x).shape == (101,)
        with pytest.raises(DataError, match="needs rows"):
            shape.log_prob(x[:, :0])
    else:
        with pytest.raises(ConfigError, match="no closed-form density"):
            shape.log_prob(x)


def test_moons_are_the_published_ones():
    from sklearn.datasets import make_moons

    rows, labels = make_moons(1024, noise=0.01, random_state=2022)
    mine = toy("moons").sample_with_labels(1024, seed=2022)
    np.testing.assert_array_equal(mine[0], rows - [0.5, 0.25])
    np.testing.assert_array_equal(mine[1], labels)


def test_every_registered_toy_is_tested():
    assert {spec.split(":")[0] for spec in ALL} == set(TOYS)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("rinng", "no toy is called 'rinng'; did you mean 'ring'"),
        ("ring:sgima=1", "no parameter 'sgima'; did you mean 'sigma'"),
        ("ring:k=2.5", "k=2.5 in .* must be a whole number"),
        ("ring:k", "'k' in .* not of the form"),
        ("ring:sigma=-1", "sigma=-1.0 must be a positive"),
        ("ring:d=1", "d=1 must be at least 2"),
        ("grid:k=24", "needs a 2-th power, got k=24; try 25"),
        ("rings:k=0", "k=0 must be at least 1"),
        ("moons:noise=-1", "must not be negative"),
    ],
)
def test_bad_names_and_parameters(spec, words):
    with pytest.raises(ConfigError, match=words):
        toy(spec)
