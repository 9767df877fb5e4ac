r"""From the units of a column to normal scores, by its own distribution function.

.. math:: u = \Phi^{-1}(\hat F(v))

with F̂ rising in straight lines between knots that hold some rows each. Then every column on its own looks
Gaussian, and what is left to a model is what columns say of one another. Values that repeat (*ties*: exit rates
of 1/2, 1/3, 1/4) are jumps of F̂: a tie has an interval of normal scores of its own, as wide as it has rows, and
is a point of it drawn uniformly. With the interval's width w

.. math:: P(v) = \int p(u)\,du = w\, E\, p(u)

so that one draw gives a lower bound, as in a cell of a lattice (`modeflow.transforms.cells`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from modeflow.transforms.noise import in_row_noise, uniform_noise

__all__ = ["Marginals"]

#: Fewest rows between two knots, and knots at the most.
_ROWS, _KNOTS = 30, 200
#: Rows that a stretch without any is given, so that the map rises.
_PSEUDO = 0.1


class Marginals(torch.nn.Module):
    """Piecewise linear maps of D columns to normal scores, with jumps at ties.

    Attributes:
        knots, places: ``(D, M)``, of the map; a tie is a knot twice. Short lists go on in steps of the last.
        ties: ``(D, T)``, index of the knot at which each tie begins.
    """

    knots: Tensor
    places: Tensor
    begins: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("knots", torch.zeros(features, 0, dtype=torch.float64))
        self.register_buffer("places", torch.zeros(features, 0, dtype=torch.float64))
        self.register_buffer("begins", torch.zeros(features, 0, dtype=torch.long))

    def fit(
        self,
        v: Tensor,
        tie: Tensor,
        ties: Sequence[np.ndarray],
        edges: Sequence[np.ndarray | None],
    ) -> None:
        """Learn the maps from rows.

        Arguments:
            v: ``(N, D)``, NaN where missing. tie: ``(N, D)``, index of the tie that each is, -1 for none.
            ties: where those of every column lie, rising. edges: of the cells of a lattice, rising, or None.
        """
        found = [
            _map(v[:, j].numpy(), tie[:, j].numpy(), ties[j], edges[j]) for j in range(v.shape[1])
        ]
        longest = max(len(k) for k, *_ in found)
        most = max(len(b) for *_, b in found)
        knots, places = np.zeros((len(found), longest)), np.zeros((len(found), longest))
        begins = np.zeros((len(found), most), dtype=np.int64)
        for j, (k, p, b) in enumerate(found):
            more = 1 + np.arange(longest - len(k))
            knots[j] = np.concatenate([k, k[-1] + more * (k[-1] - k[-2])])
            places[j] = np.concatenate([p, p[-1] + more * (p[-1] - p[-2])])
            begins[j, : len(b)] = b
        self.knots, self.places = torch.from_numpy(knots), torch.from_numpy(places)
        self.begins = torch.from_numpy(begins)

    def entries(self, v: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores and log-derivatives (of ties the logarithm of their width), ``(N, D)`` each."""
        columns = torch.where(v == v, v, 0.0).T.contiguous()
        u, slope = self._line(columns, self.knots, self.places)
        u, slope = u.T, slope.T
        if self.begins.shape[1]:
            at = tie.clamp_min(0).T
            begin = self.begins.gather(1, at)
            low, high = self.places.gather(1, begin).T, self.places.gather(1, begin + 1).T
            e = uniform_noise(v.new_empty(v.shape)) if self.training or in_row_noise() else 0.5
            u = torch.where(tie >= 0, low + (high - low) * e, u)
            slope = torch.where(tie >= 0, (high - low).log(), slope)
        there = v == v
        return torch.where(there, u, torch.nan), torch.where(there, slope, 0.0)

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Column units, and which ties they are, -1 for none; ``(N, D)`` each."""
        columns = torch.where(u == u, u, 0.0).T.contiguous()
        at = torch.searchsorted(self.places, columns, right=True).clamp(1, self.places.shape[1] - 1)
        v = self._line(columns, self.places, self.knots)[0].T
        tie = torch.full_like(at, -1)
        if self.begins.shape[1]:
            flat = self.knots.gather(1, at - 1) == self.knots.gather(1, at)
            number = torch.searchsorted(self._real_begins(), at - 1, right=True) - 1
            tie = torch.where(flat, number, tie)
        return torch.where(u == u, v, torch.nan), tie.T

    def _real_begins(self) -> Tensor:
        # Filled up lists hold zeros: those places are beyond all.
        rising = self.begins.clone()
        for j in range(rising.shape[1] - 1):
            rising[:, j + 1] = torch.where(self.begins[:, j + 1] > 0, self.begins[:, j + 1], 2**40)
        return rising.contiguous()

    def _line(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.searchsorted(a, x.detach(), right=True).clamp(1, a.shape[1] - 1)
        left, right = a.gather(1, at - 1), a.gather(1, at)
        low, high = b.gather(1, at - 1), b.gather(1, at)
        slope = (high - low) / (right - left)
        return low + (x - left) * slope, slope.log()


def _map(
    v: np.ndarray, tie: np.ndarray, ties: np.ndarray, edges: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots, places, and the knots at which ties begin, of one column."""
    there = v == v
    v, tie = v[there], tie[there]
    free = np.sort(v[tie < 0])
    held = max(_ROWS, -(-len(v) // _KNOTS))
    cut = _cells(free, edges, held) if edges is not None else _quantiles(free, held)
    jumps = np.bincount(tie[tie >= 0], minlength=len(ties)) if len(ties) else np.zeros(0, dtype=int)
    positions = np.concatenate([cut, ties, ties])
    rank = np.concatenate([np.zeros(len(cut)), np.zeros(len(ties)), np.ones(len(ties))])
    order = np.lexsort((rank, positions))
    knots = positions[order]
    mass = np.concatenate([np.zeros(len(cut)), np.zeros(len(ties)), jumps.astype(float)])[order]
    before = np.searchsorted(free, knots, side="left").astype(float)
    steps = np.diff(before, prepend=before[0])
    rises = np.diff(knots, prepend=knots[0]) > 0
    total = np.cumsum(steps + mass + _PSEUDO * rises)
    whole = total[-1] + 1.0
    # Rows below the first knot and above the last: none, but for half a row each.
    places = ndtri((total + 0.5) / whole)
    begins = np.flatnonzero((knots[:-1] == knots[1:]))
    return knots, places, begins


def _quantiles(free: np.ndarray, held: int) -> np.ndarray:
    if len(free) < 2:
        centre = free[0] if len(free) else 0.0
        return np.array([centre - 1.0, centre + 1.0])
    index = np.unique(np.linspace(0, len(free) - 1, max(2, len(free) // held + 1)).round().astype(int))
    inner = index[1:-1]
    middle = (free[inner - 1] + free[inner]) / 2
    margin = (free[-1] - free[0]) * 1e-3 + 1e-9
    return np.unique(np.concatenate([[free[0] - margin], middle, [free[-1] + margin]]))


def _cells(free: np.ndarray, edges: np.ndarray, held: int) -> np.ndarray:
    inside = edges[(edges > free[0]) & (edges < free[-1])]
    low = edges[edges <= free[0]]
    high = edges[edges >= free[-1]]
    margin = (free[-1] - free[0]) * 1e-3 + 1e-9
    cut = [low[-1] if len(low) else free[0] - margin]
    last = 0
    for edge, count in zip(inside, np.searchsorted(free, inside), strict=True):
        if count - last >= held:
            cut.append(edge)
            last = count
    cut.append(high[0] if len(high) else free[-1] + margin)
    return np.array(cut)
