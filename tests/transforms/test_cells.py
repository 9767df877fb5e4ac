"""Columns on lattices: the probability of a value as the mass of its cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import kstest, norm

from modeflow.densities import Density, Preprocessed
from modeflow.errors import ConfigError
from modeflow.nets.randomness import seeded
from modeflow.transforms import Cells

DOUBLE = torch.float64


class Known(Density):
    """A density by a function of its rows; keeps them."""

    dtype = DOUBLE

    def __init__(self, features, log_prob):
        super().__init__((features,))
        self.function, self.seen = log_prob, []

    def _log_prob(self, x, context):
        self.seen.append(x.numpy())
        return torch.from_numpy(self.function(x.numpy()))

    def _sample(self, n, context, generator, temperature=1.0):
        return torch.randn(n, *self.event_shape, dtype=DOUBLE, generator=generator)


def scored(steps, values, draws, log_prob=None, offsets=None):
    """Scores of rows, and the points of their cells, (draws, N, D)."""
    flat = log_prob or (lambda rows: np.zeros(len(rows)))
    inner = Known(len(steps), flat)
    layer = Cells(torch.tensor(steps), None if offsets is None else torch.tensor(offsets))
    model = Preprocessed(layer, inner, draws).eval()
    assert model.exactness == "lower bound" and model.evaluations == draws
    return model.log_prob(torch.from_numpy(np.array(values, dtype=float))).numpy(), np.stack(inner.seen)


def mixed(n=50, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(size=n), rng.integers(-3, 900, n), rng.integers(0, 2, n)])


def test_noise_lies_inside_the_cell_and_is_zero_elsewhere():
    values = mixed()
    score, points = scored([0.0, 1.0, 2.0], values, 20)
    np.testing.assert_allclose(score, math.log(2), atol=1e-12)
    u = points - values
    assert u.shape == (20, *values.shape)
    np.testing.assert_array_equal(u[..., 0], 0)
    assert (abs(u[..., 1]) < 0.5).all() and (abs(u[..., 2]) < 1).all() and abs(u[..., 2]).max() > 0.9
    assert len(np.unique(u[:, 0, 1])) == 20
    with pytest.raises(ConfigError):
        scored([1.0], values[:, 1:2], 0)


def test_noise_depends_on_the_row_alone_and_is_uniform():
    values = mixed(4000, 4)
    _, points = scored([0.0, 1.0, 1.0], values, 2)
    u = points - values
    _, alone = scored([0.0, 1.0, 1.0], values[7:8], 2)
    np.testing.assert_array_equal(points[:, 7], alone[:, 0])
    # Over rows each offset is uniform: Kolmogorov-Smirnov, four tests, false alarm 4e-4 in all.
    for draw in u:
        for column in draw.T[1:]:
            assert kstest(column, "uniform", (-0.5, 1.0)).pvalue > 1e-4
    assert abs(np.corrcoef(u[0, :, 1], u[0, :, 2])[0, 1]) < 4 / np.sqrt(4000)
    # It tells rows apart that float32 would not.
    rows = 1e14 + np.arange(2000.0)[:, None]
    shift = scored([1.0], rows, 1)[1][0] - rows
    assert len(np.unique(np.round(shift, 1))) > 5
    assert abs(shift.mean()) < 4 * math.sqrt(1 / 12 / 2000)  # false alarm 6e-5


def test_one_draw_is_a_lower_bound_in_expectation():
    # The mean over many rows is E_u log p(n + u), below log P(n).
    x = np.random.default_rng(5).normal(size=5000)  # distinguishes the rows; the density ignores it
    values = np.column_stack([x, np.full(5000, 1.0)])
    scores, _ = scored([0.0, 1.0], values, 1, lambda rows: norm.logpdf(rows[:, 1], scale=0.4))
    u = np.linspace(-0.5, 0.5, 20001)
    expected = trapezoid(norm.logpdf(1 + u, scale=0.4), u)
    assert expected < np.log(norm.cdf(1.5 / 0.4) - norm.cdf(0.5 / 0.4)) - 0.3
    error = scores.std() / np.sqrt(5000)
    assert abs(scores.mean() - expected) < 4 * error  # false alarm 6e-5


@pytest.mark.parametrize("step", [1.0, 1000.0, 0.01])
def test_many_draws_give_the_probability_of_the_value(step):
    # A normal density: P(n) is known from its distribution function.
    n = np.arange(-6, 7)
    values = (n + 0.25)[:, None] * step
    cells = norm.cdf([n + 0.75, n - 0.25], scale=1.5)

    def log_prob(rows):
        return norm.logpdf(rows[:, 0], scale=1.5 * step)

    found, _ = scored([step], values, 64, log_prob, [0.25 * step])
    np.testing.assert_allclose(found, np.log(cells[0] - cells[1]), atol=0.02)
    # Evenly spread draws: several times exacter than independent ones would be.
    assert abs(np.exp(found).sum() - 1) < 2e-4


def test_training_draws_afresh_and_samples_are_rounded():
    values = torch.from_numpy(mixed())
    layer = Cells(torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, 0.25]))
    with seeded(0):
        first, second = layer(values)[0], layer(values)[0]
    assert not torch.equal(first, second) and torch.equal(first[:, 0], values[:, 0])
    assert ((first - values).abs()[:, 2] <= 0.25).all()
    middle, volume = layer.eval()(values)
    assert torch.equal(middle, values) and torch.allclose(volume, torch.tensor(0.5).log().double())
    model = Preprocessed(layer, Known(3, lambda x: x[:, 0]))
    drawn = model.sample(200, generator=torch.Generator().manual_seed(0)).numpy()
    assert np.array_equal(drawn[:, 1], np.round(drawn[:, 1]))
    np.testing.assert_allclose((drawn[:, 2] - 0.25) / 0.5, np.round((drawn[:, 2] - 0.25) / 0.5), atol=1e-12)
    back = layer.sample(first)
    np.testing.assert_array_equal(back[:, :2], values[:, :2])


def test_the_buffers_stay_exact_in_another_precision():
    layer = Cells(torch.tensor([0.01], dtype=DOUBLE), torch.tensor([0.003], dtype=DOUBLE)).float()
    assert layer.steps.dtype == DOUBLE and layer.steps.item() == 0.01 and not layer.state_dict()
