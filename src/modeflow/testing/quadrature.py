"""Integrals of a density over a grid in one or two dimensions, and tests of samples against them."""

from __future__ import annotations

import math

import torch
from scipy.stats import chi2
from torch import Tensor

from modeflow.testing.tools import require

__all__ = ["box_around", "check_blocks", "check_counts", "check_entropy", "midpoints"]


def box_around(samples: Tensor, margin: float = 0.6) -> tuple[Tensor, Tensor]:
    """Corners of a box that holds the samples ``(N, D)`` and `margin` times their range on each side.

    For the 4,000 samples of a Gaussian (range 7 σ) the box ends beyond 7 σ.
    """
    low, high = samples.amin(0), samples.amax(0)
    return low - margin * (high - low), high + margin * (high - low)


def midpoints(low: Tensor, high: Tensor, cells: int) -> tuple[Tensor, float]:
    """Midpoints ``(cells**D, D)`` of a regular grid, and the volume of one cell."""
    step = (high - low) / cells
    axes = [low[d] + step[d] * (torch.arange(cells, dtype=low.dtype) + 0.5) for d in range(len(low))]
    return torch.cartesian_prod(*axes).reshape(-1, len(low)), float(step.prod())


def check_counts(
    samples: Tensor,
    mass: Tensor,
    low: Tensor,
    high: Tensor,
    cells: int,
    where: str = "",
    masses: Tensor | None = None,
) -> None:
    """Pearson's χ² of the counts of samples in blocks of the grid, at a false-alarm rate of 1e-6.

    `masses`, independent estimates of which `mass` is the mean, widen the test by their own error.
    """
    features = samples.shape[1]
    blocks = 40
    per_block = cells // blocks
    index = torch.arange(cells) // per_block
    index = index.clamp_max(blocks - 1)
    place = index if features == 1 else (index[:, None] * blocks + index[None, :]).flatten()
    expected = torch.zeros(blocks**features, dtype=mass.dtype).index_add(0, place, mass)
    cell = ((samples - low) / (high - low) * cells).long().clamp(0, cells - 1)
    block = index[cell]
    flat = block[:, 0] if features == 1 else block[:, 0] * blocks + block[:, 1]
    seen = torch.bincount(flat, minlength=len(expected)).double()
    expected = expected * len(samples)
    full = expected >= 8
    if masses is not None:
        parts = masses.new_zeros(len(masses), len(expected)).index_add(1, place, masses) * len(samples)
        # What is too thin to test alone is left out: its own error would not be known well.
        expected, seen = expected[full], seen[full]
        variance = expected + parts[:, full].var(0) / len(masses)
        _compare(seen, expected, variance, where)
    else:
        check_blocks(seen, expected, where)


def check_blocks(seen: Tensor, expected: Tensor, where: str = "") -> None:
    """Pearson's χ² of counts in blocks, at a false-alarm rate of 1e-6.

    Arguments:
        seen, expected: how many samples lie in each, and should, ``(n,)``.
    """
    full = expected >= 8
    count = seen.sum()
    # What is too thin to test alone is tested together.
    expected = torch.cat((expected[full], (count - expected[full].sum()).clamp_min(0)[None]))
    seen = torch.cat((seen[full], (count - seen[full].sum())[None]))
    if expected[-1] < 8:
        expected, seen = expected[:-1], seen[:-1]
    _compare(seen, expected, expected, where)


def _compare(seen: Tensor, expected: Tensor, variance: Tensor, where: str) -> None:
    statistic = float(((seen - expected).square() / variance).sum())
    p = float(chi2.sf(statistic, max(len(expected) - 1, 1)))
    require(
        p > 1e-6,
        f"samples do not follow the density{where}: chi-squared {statistic:.1f} "
        f"in {len(expected)} blocks, p = {p:.1g}",
    )


def check_entropy(at_samples: Tensor, on_grid: Tensor, mass: Tensor, where: str = "") -> None:
    """Mean log-density of samples against its integral, within five standard errors."""
    expected = float((mass * on_grid).nan_to_num(nan=0.0).sum())
    mean = float(at_samples.mean())
    error = float(at_samples.std()) / math.sqrt(len(at_samples))
    require(
        abs(mean - expected) < 5 * error + 1e-3,
        f"the mean log-density of samples is {mean:.4f} ± {error:.4f}, its integral {expected:.4f}{where}",
    )
