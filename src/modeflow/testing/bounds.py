"""Checks of a density that is known as a lower bound only, through its unbiased one-draw estimate.

In training mode the exponential of such a `log_prob` is an unbiased estimate of the density, with noise of
its own in every row. So its integrals are right on average, however far the bound is from the density.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modeflow.testing.quadrature import box_around, check_counts, midpoints
from modeflow.testing.tools import require, seeded

if TYPE_CHECKING:
    from modeflow.densities.base import Density

__all__ = ["check_bound"]

_REPEATS = 12


def _estimate(density: Density, x: Tensor, context: Tensor | None) -> Tensor:
    """One unbiased estimate of p(x) a row."""
    return torch.cat([density.log_prob(part, context) for part in x.split(30_000)]).exp()


def check_bound(density: Density, context: Tensor | None, samples: Tensor, cells: int = 240) -> None:
    """The estimates integrate to one, and samples follow the density they estimate.

    Two features: a grid, and the counts of samples in blocks of it. Otherwise: ``E_g[p̂ f / g]`` under a wide
    Student-t g against the mean of f over samples, for f = 1 and six cosines. Five standard errors are
    allowed: a false alarm less than once in 100,000 runs; the seeds are fixed.
    """
    density.train()
    try:
        with seeded(23):
            if samples.shape[1] == 2:
                _grid(density, context, samples, cells)
            else:
                _weighted(density, context, samples)
    finally:
        density.eval()


def _grid(density: Density, context: Tensor | None, samples: Tensor, cells: int) -> None:
    low, high = box_around(samples)
    grid, volume = midpoints(low, high, cells)
    masses = torch.stack([_estimate(density, grid, context) * volume for _ in range(_REPEATS)])
    totals = masses.sum(1)
    mean, error = float(totals.mean()), float(totals.std()) / math.sqrt(_REPEATS)
    require(
        abs(mean - 1) < 5 * error + 2e-3,
        f"the estimate of the density integrates to {mean:.4f} ± {error:.4f}, not 1",
    )
    require(error < 0.02, f"the estimates spread too far for a test (± {error:.3f}): lower `scale`")
    check_counts(samples, masses.mean(0), low, high, cells, masses=masses)


def _weighted(density: Density, context: Tensor | None, samples: Tensor) -> None:
    features = samples.shape[1]
    freedom, n = 5.0, 200_000
    centre = samples.mean(0)
    factor = torch.linalg.cholesky(
        2 * torch.cov(samples.mT) + 1e-9 * torch.eye(features, dtype=samples.dtype)
    )
    chi = torch.distributions.Chi2(torch.tensor(freedom, dtype=samples.dtype)).sample((n, 1))
    x = centre + torch.randn(n, features, dtype=samples.dtype) @ factor.mT * (freedom / chi).sqrt()
    z = torch.linalg.solve_triangular(factor, (x - centre).mT, upper=False).square().sum(0)
    log_g = (
        math.lgamma((freedom + features) / 2)
        - math.lgamma(freedom / 2)
        - 0.5 * features * math.log(freedom * math.pi)
        - factor.diagonal().log().sum()
        - 0.5 * (freedom + features) * torch.log1p(z / freedom)
    )
    weight = _estimate(density, x, context) / log_g.exp()
    direction = torch.randn(6, features, dtype=samples.dtype) / samples.std(0)
    for k in range(7):
        here = weight if k == 0 else weight * torch.cos(x @ direction[k - 1])
        there = torch.ones(2) if k == 0 else torch.cos(samples @ direction[k - 1])
        error = math.sqrt(float(here.var()) / n + float(there.var()) / len(there))
        difference = float(here.mean() - there.mean())
        require(
            abs(difference) < 5 * error + 1e-9,
            f"samples do not follow the density: a mean differs by {difference:.4f} ± {error:.4f}",
        )
        require(error < 0.05, f"the estimates spread too far for a test (± {error:.3f}): lower `scale`")
