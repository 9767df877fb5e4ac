"""Where the states start: one on each island of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.latents.discrete import DiscreteLatentModel
from modeflow.transforms import Composite, ConditionalAffine

__all__ = ["find_islands", "initialise"]


def find_islands(x: np.ndarray, n_states: int, seed: int = 0, max_rows: int = 10_000) -> Any:
    """Cut the rows ``(N, D)`` into `n_states` clusters; return labels of shape ``(N,)``.

    Islands need not be round, so k-means alone cuts two moons across. The rows are first covered by many
    small cells (k-means), and single linkage joins the cells into islands of any shape, as far as empty
    space lies between them. What falls away as a sliver goes to the nearest island; where there are fewer
    islands than states, the largest is halved (2-means of its cells) until there are enough.
    """
    from sklearn.cluster import KMeans

    if n_states == 1:
        return np.zeros(len(x), dtype=np.int64)
    rng = np.random.default_rng(seed)
    part = x if len(x) <= max_rows else x[rng.choice(len(x), max_rows, replace=False)]
    distinct = len(np.unique(part, axis=0))
    n_cells = int(min(max(10 * n_states, 50), max(len(part) // 8, n_states), distinct))
    if distinct <= n_states:
        return KMeans(distinct, n_init=1, random_state=seed).fit(part).predict(x)
    cells = KMeans(n_cells, n_init=2, random_state=seed).fit(part)
    share = np.bincount(cells.labels_, minlength=n_cells) / len(part)
    labels = _halve_largest(
        cells.cluster_centers_, share, _join_cells(cells, share, n_states), n_states, seed
    )
    return labels[cells.predict(x)]


def _join_cells(cells: Any, share: np.ndarray, n_states: int) -> np.ndarray:
    """Islands of cells by single linkage: as many as are larger than a sliver, at most `n_states`."""
    from scipy.cluster.hierarchy import fcluster, linkage

    centres = cells.cluster_centers_
    tree = linkage(centres, "single")
    best, most = np.zeros(len(centres), dtype=np.int64), 1
    for count in range(2, len(centres) + 1):
        labels = fcluster(tree, count, "maxclust") - 1
        size = np.bincount(labels, weights=share)
        islands = np.flatnonzero(size >= 0.2 / n_states)
        if most < len(islands) <= n_states:
            most = len(islands)
            on_island = np.isin(labels, islands)
            gap = np.linalg.norm(centres[:, None] - centres[None, on_island], axis=-1)
            owner = labels[on_island][gap.argmin(1)]  # a cell on an island is nearest to itself
            best = np.searchsorted(islands, owner)
    return best


def _halve_largest(
    centres: np.ndarray, share: np.ndarray, labels: np.ndarray, n_states: int, seed: int
) -> np.ndarray:
    """Halve the largest cluster that has more than one cell until there are `n_states`."""
    from sklearn.cluster import KMeans

    labels = labels.copy()
    for new in range(int(labels.max()) + 1, n_states):
        size = np.bincount(labels, weights=share)
        size[np.bincount(labels) < 2] = 0.0
        rows = np.flatnonzero(labels == size.argmax())
        halves = KMeans(2, n_init=2, random_state=seed).fit(centres[rows], sample_weight=share[rows])
        labels[rows[halves.labels_ == 1]] = new
    return labels


def initialise(
    model: DiscreteLatentModel,
    x: Tensor,
    seed: int = 0,
    encoder_steps: int = 200,
    batch_size: int = 512,
) -> None:
    """Start a model from clusters of the (standardised) rows ``(N, D)``.

    The prior gets the share of each cluster, the flow's `ConditionalAffine` its mean and scale, and the
    encoder is fitted to the resulting posterior for a few steps. So training starts near a Gaussian mixture
    whose states are all in use, instead of hoping that symmetry breaks well.

    Randomness comes from torch's global generator (seed it beforehand).
    """
    if model.n_states == 1 or model.posterior_net is None:
        return
    labels = torch.from_numpy(find_islands(x.double().numpy(), model.n_states, seed))
    count = torch.bincount(labels, minlength=model.n_states)
    model.prior.set_probs(count / len(labels))

    for affine in _context_affines(model):
        with torch.no_grad():
            for k in range(model.n_states):
                rows = x[labels == k].to(affine.shift)
                if len(rows) == 0:
                    continue
                affine.shift[k] = rows.mean(0)
                if len(rows) > 1:
                    spread = rows.std(0).clamp_min(1e-2)
                    affine.log_scale[k] = spread.log()

    optimiser = torch.optim.Adam(model.posterior_net.parameters(), lr=2e-3)
    for _ in range(encoder_steps):
        rows = x[torch.randint(len(x), (min(batch_size, len(x)),))].to(model.dtype)
        with torch.no_grad():
            exact = model.posterior(rows)
        loss = -(exact * model.posterior_net(rows)).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _context_affines(model: DiscreteLatentModel) -> list[ConditionalAffine]:
    transform = getattr(model.likelihood, "transform", None)
    first = next(iter(transform.transforms), None) if isinstance(transform, Composite) else None
    return [first] if isinstance(first, ConditionalAffine) else []
