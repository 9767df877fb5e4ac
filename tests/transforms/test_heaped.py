"""Cells of a lattice are widened where rows heap up, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeflow.transforms import Columns
from modeflow.transforms.heaped import Heaps, find_heaps

N = 3000
RNG = np.random.default_rng(0)
FINE = np.round(RNG.normal(57, 2, N), 1)
HEAPED = np.where(RNG.random(N) < 0.95, np.round(FINE), FINE)


def noisy(values: np.ndarray, step: float) -> torch.Tensor:
    return torch.from_numpy(values + step * (np.random.default_rng(1).random(len(values)) - 0.5))


@pytest.mark.parametrize(
    ("values", "step", "heaps"),
    [
        (HEAPED, 0.1, True),
        (np.where(RNG.random(N) < 0.6, 0, RNG.poisson(20, N)), 1.0, True),
        (np.round(RNG.normal(0, 30, N), -1) + (RNG.random(N) < 0.05), 1.0, True),
        (FINE, 0.1, False),
        (RNG.poisson(1.5, N), 1.0, False),
        (np.where(RNG.random(N) < 0.5, RNG.poisson(3, N), RNG.poisson(60, N)), 1.0, False),
        (RNG.geometric(0.3, N), 1.0, False),
        (RNG.integers(0, 2, N), 1.0, False),
    ],
    ids=["whole among tenths", "zeros", "tens", "tenths", "few counts", "islands", "geometric", "flag"],
)
def test_heaps_are_found_where_they_are(values, step, heaps):
    assert (find_heaps(noisy(values, step), step, 0.0) is not None) == heaps


def test_the_map_is_undone_and_smooths_the_heaps():
    x = torch.stack([noisy(HEAPED, 0.1), noisy(FINE, 0.1)], 1)
    layer = Heaps(2)
    found = find_heaps(x[:, 0], 0.1, 0.0)
    layer.set([found, None])
    wide = torch.cat([x, torch.tensor([[-1e3, 5.0], [1e3, 1e6]], dtype=x.dtype)])
    y, slope = layer(wide)
    assert torch.allclose(layer.inverse(y), wide, atol=1e-9)
    assert torch.equal(y[:, 1], wide[:, 1])
    assert slope[-2:].abs().max() == 0
    assert (y[:, 0].sort().values.diff() >= 0).all()
    # Rows per width: before, ten cells of eleven are nearly empty.
    empty = [
        float((torch.histc(v, 220, float(v.min()), float(v.max())) < 3).double().mean())
        for v in (x[:, 0], y[:-2, 0])
    ]
    assert empty[1] < 0.5 * empty[0]


def test_columns_take_heaps_bounds_and_files_together():
    x = torch.stack([noisy(HEAPED, 0.1), noisy(RNG.integers(0, 2, N), 1.0)], 1)
    inf = torch.inf
    edges = (torch.tensor([-inf, -0.5]), torch.tensor([inf, 1.5]))
    layer = Columns(2).fit(x, None, torch.tensor([0.1, 1.0]), edges, torch.zeros(2))
    assert layer.heaps.knots.shape[1] > 2
    u, logabsdet = layer(x[:50])
    jacobian = torch.autograd.functional.jacobian(lambda z: layer(z)[0].sum(0), x[:50]).permute(1, 0, 2)
    assert torch.allclose(torch.linalg.slogdet(jacobian)[1], logabsdet, atol=1e-9)
    assert torch.allclose(layer.inverse(u)[0], x[:50], atol=1e-9)
    fresh = Columns(2)
    fresh.load_state_dict(layer.half().state_dict())
    assert torch.equal(fresh(x)[0], layer(x)[0])
