"""Noise that is a function of the row: distributed as it should be, and independent of the batch."""

from __future__ import annotations

import torch
from scipy import stats

from modeflow.transforms.noise import row_noise, standard_normal, uniform_noise

# Rows of a regular table: what a weak hash would carry into the noise.
ROWS = torch.cartesian_prod(torch.arange(100.0), torch.arange(100.0))


def draws(rows, seed, calls=2):
    with row_noise(rows, seed):
        return [standard_normal(torch.empty(len(rows), 3, dtype=torch.float64)) for _ in range(calls)]


def test_it_is_standard_normal_and_independent():
    """Seeds are fixed; each test below raises a false alarm in 1e-6 of all hashes."""
    a, b = draws(ROWS, 0)
    c, _ = draws(ROWS, 1)
    columns = torch.cat((a, b, c), 1)
    for column in columns.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-6
    # Correlations of 10,000 pairs have standard deviation 0.01: columns, calls, seeds, neighbouring rows.
    correlation = torch.corrcoef(torch.cat((columns, columns.roll(1, 0), columns.roll(100, 0)), 1).T)
    assert (correlation - torch.eye(27)).abs().max() < 0.055
    with row_noise(ROWS, 3):
        u = uniform_noise(torch.empty(len(ROWS), 1))
    assert ((u > 0) & (u < 1)).all()
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-6


def test_it_depends_on_the_row_alone():
    a, _ = draws(ROWS, 0)
    some = torch.tensor([5000, 17, 9999])
    assert torch.equal(draws(ROWS[some], 0)[0], a[some])
    assert torch.equal(draws(ROWS[some].double(), 0)[0], a[some])
    assert not torch.equal(draws(ROWS[some] + 1e-3, 0)[0], a[some])
    assert torch.equal(draws(-torch.zeros(1, 2), 0)[0], draws(torch.zeros(1, 2), 0)[0])
    assert draws(ROWS[:0], 0)[0].shape == (0, 3)


def test_outside_the_block_it_is_torchs_generator():
    torch.manual_seed(0)
    a = standard_normal(torch.empty(4))
    torch.manual_seed(0)
    assert torch.equal(a, torch.randn(4))
