r"""The tree of the features that say most of one another (Chow and Liu).

.. math::
    I(i; j) = \sum_{a, b} p_{ij}(a, b) \log \frac{p_{ij}(a, b)}{p_i(a)\, p_j(b)}, \qquad
    \text{tree} = \arg\max \sum_{(i, j)} I(i; j)

of features cut into bins: reals into quantile bins, codes into their levels. All pairs of bins are counted at
once, by the product of the one-hot matrix with itself. A cell that is not there is left out of the pairs it
would be in. What chance adds to the estimate, ``(L_i - 1)(L_j - 1) / 2 n``, is taken off.

Reference:
    Chow and Liu, *Approximating discrete probability distributions with dependence trees*, 1968
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.densities.features import Feature
from modeflow.latents.tree.structure import Tree

__all__ = ["chow_liu", "mutual_information"]

#: Bins of a real of few features, and of many.
_BINS, _BINS_OF_MANY, _MANY = 16, 10, 50
#: Most levels that are told apart: the others are one.
_LEVELS = 64
#: Entries of the one-hot matrix made at once.
_BLOCK = 2**25


def chow_liu(x: Tensor, features: Sequence[Feature]) -> Tree:
    """The tree of largest mutual information, rooted in its centre.

    Arguments:
        x: rows, ``(N, F)``, NaN where there is no value. features: what they are.
    """
    edges = _spanning_tree(mutual_information(x, features))
    return Tree.of_edges(len(features), edges)


def mutual_information(x: Tensor, features: Sequence[Feature]) -> np.ndarray:
    """Mutual information of all pairs of binned features, nats, ``(F, F)``; zero on the diagonal."""
    bins = _BINS if len(features) <= _MANY else _BINS_OF_MANY
    places, segments, start = [], [], 0
    for j, feature in enumerate(features):
        bin_of, count = _binned(x[:, j], feature, bins)
        places.append(torch.where(bin_of >= 0, bin_of + start, -1))
        segments += [j] * count
        start += count
    counts = _pair_counts(torch.stack(places, 1), start)
    return _information(counts, np.array(segments), len(features))


def _binned(values: Tensor, feature: Feature, bins: int) -> tuple[Tensor, int]:
    """The bin of every value, -1 for none, and how many there are."""
    known = ~values.isnan()
    if feature.kind == "code":
        codes = torch.where(known, values, 0.0).long()
        if feature.levels <= _LEVELS:
            return torch.where(known, codes, -1), feature.levels
        frequent = torch.bincount(codes[known], minlength=feature.levels).argsort(
            descending=True, stable=True
        )
        rank = torch.empty_like(frequent)
        rank[frequent] = torch.arange(feature.levels)
        return torch.where(known, rank[codes].clamp_max(_LEVELS - 1), -1), _LEVELS
    if not bool(known.any()):
        return torch.full(values.shape, -1), 1
    ordered = values[known].double().sort().values
    cut = ordered[torch.linspace(0, len(ordered) - 1, bins + 1).round().long()][1:-1].unique()
    found = torch.searchsorted(cut, torch.where(known, values.double(), 0.0), right=True)
    return torch.where(known, found, -1), len(cut) + 1


def _pair_counts(places: Tensor, width: int) -> np.ndarray:
    """How often each pair of bins is met, ``(width, width)``; exact in single precision up to 2^24 rows."""
    counts = torch.zeros(width, width)
    for part in places.split(max(1, _BLOCK // width)):
        hot = torch.zeros(len(part), width + 1).scatter_(1, torch.where(part < 0, width, part), 1.0)
        counts.addmm_(hot[:, :width].mT, hot[:, :width])
    return counts.double().numpy()


def _information(counts: np.ndarray, segments: np.ndarray, features: int) -> np.ndarray:
    """From pair counts to mutual information, each pair of features by the rows that have both."""
    member = F.one_hot(torch.from_numpy(segments), features).double().numpy()
    total = member.T @ counts @ member
    # Of each bin how often it is met where the other feature is there.
    margin = counts @ member
    own = member.T @ _x_log_x(margin)
    n = np.maximum(total, 1.0)
    found = (member.T @ _x_log_x(counts) @ member - own - own.T) / n + np.log(n)
    used = member.T @ (margin > 0)
    chance = (used - 1).clip(0) * (used.T - 1).clip(0) / (2 * n)
    found = np.where(total > 0, found - chance, 0.0)
    np.fill_diagonal(found, 0.0)
    return np.asarray(found + found.T) / 2  # alike up to rounding


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return np.asarray(x * np.log(np.maximum(x, 1e-300)))


def _spanning_tree(weight: np.ndarray) -> list[tuple[int, int]]:
    """Edges of the maximum spanning tree (Prim's algorithm, F² operations)."""
    count = len(weight)
    best, near = weight[0].copy(), np.zeros(count, dtype=int)
    best[0] = -np.inf
    edges = []
    for _ in range(count - 1):
        new = int(best.argmax())
        edges.append((int(near[new]), new))
        best[new] = -np.inf
        closer = (weight[new] > best) & (best > -np.inf)
        best[closer], near[closer] = weight[new][closer], new
    return edges
