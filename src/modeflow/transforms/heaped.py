r"""Lattices on which rows heap up at some values: multiples of ten, whole numbers among tenths, a zero.

A smooth density would have to put a spike at each. Instead the cells of such a column are widened and
narrowed, cell n by

.. math:: (c_n + 1) / (m_n + 1)

with c the counts of the rows and m their running mean over neighbouring cells: rows in a widened cell are
then as dense as in the running mean. Where there are no rows nothing changes, so that islands stay apart. The
map is piecewise linear; in a probability its slope and the width of the cell cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.nets.precision import OwnPrecision

__all__ = ["Heaps", "find_heaps"]

#: Cells of a column that is looked at, and rows it must have.
_CELLS, _ROWS = 4096, 200
#: Cells to either side that the running mean may take in: the fewest that leave it smooth.
_REACH = (2, 5, 12, 25, 63)
#: Nats a row that counts gain over counts blurred with their neighbours', on rows not counted: from the first
#: on there are heaps, below the second none.
_ROUGH, _SMOOTH = 0.1, 0.02


class Heaps(OwnPrecision):
    """Piecewise linear maps of the columns, ``knots`` to ``places``, each of shape (D, M), rising.

    Short lists of knots are filled up with steps of the identity. Beyond its knots a column is shifted.
    """

    knots: Tensor
    places: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name in ("knots", "places"):
            self.register_buffer(name, torch.zeros(features, 0, dtype=torch.float64))

    def set(self, maps: list[tuple[Tensor, Tensor] | None]) -> None:
        """Take the maps found for each column; None for the identity."""
        longest = max((len(m[0]) for m in maps if m is not None), default=0)
        knots = torch.arange(longest, dtype=torch.float64).repeat(len(maps), 1)
        places = knots.clone()
        for j, found in enumerate(maps):
            if found is not None:
                step = found[0][-1] - found[0][-2]
                more = step * torch.arange(1, longest - len(found[0]) + 1)
                knots[j] = torch.cat([found[0], found[0][-1] + more])
                places[j] = torch.cat([found[1], found[1][-1] + more])
        self.knots, self.places = knots, places

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mapped rows (N, D) and the log-derivative of each entry."""
        return self._map(x, self.knots, self.places)

    def inverse(self, y: Tensor) -> Tensor:
        """The rows that are mapped to `y`."""
        return self._map(y, self.places, self.knots)[0]

    def _map(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if a.shape[1] < 2:
            return x, torch.zeros_like(x)
        columns = x.T.contiguous()
        at = torch.searchsorted(a, columns.detach(), right=True).clamp(1, a.shape[1] - 1)
        left, right = a.gather(1, at - 1), a.gather(1, at)
        low, high = b.gather(1, at - 1), b.gather(1, at)
        slope = (high - low) / (right - left)
        before, beyond = columns < a[:, :1], columns >= a[:, -1:]
        slope = torch.where(before | beyond, 1.0, slope)
        start = torch.where(beyond, right, left)
        image = torch.where(beyond, high, low)
        return (image + (columns - start) * slope).T, slope.log().T

    def _load_from_state_dict(self, state_dict, prefix, *args):  # type: ignore[no-untyped-def]
        for name in ("knots", "places"):
            own = getattr(self, name)
            given = state_dict.setdefault(prefix + name, own)
            setattr(self, name, torch.zeros_like(given, device=own.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def find_heaps(column: Tensor, step: float, offset: float) -> tuple[Tensor, Tensor] | None:
    """Knots and places for one (dequantised) column on a lattice; None where its rows lie smoothly."""
    if step <= 0 or len(column) < _ROWS:
        return None
    n = torch.floor((column - offset) / step + 0.5)
    first = float(n.min())
    cells = int(float(n.max()) - first) + 1
    if not 2 < cells <= _CELLS:
        return None
    index = (n - first).long()
    halves = [torch.bincount(index[part::2], minlength=cells).double() for part in (0, 1)]
    if sum(_roughness(halves[i], halves[1 - i]) for i in (0, 1)) / 2 < _ROUGH:
        return None
    counts = halves[0] + halves[1]
    for reach in _REACH:
        mean = _mean(counts, torch.ones(2 * reach + 1, dtype=counts.dtype))
        if _roughness(mean, mean) < _SMOOTH:
            break
    knots = offset + (first - 0.5 + torch.arange(cells + 1, dtype=torch.float64)) * step
    widths = step * (counts + 1) / (mean + 1)
    return knots, knots[0] + torch.cat([torch.zeros(1, dtype=torch.float64), widths.cumsum(0)])


def _mean(counts: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of every cell and its neighbours; at the ends, of those that there are."""
    window, reach = weights.view(1, 1, -1), len(weights) // 2
    around, room = (
        torch.nn.functional.conv1d(each.view(1, 1, -1), window, padding=reach).flatten()
        for each in (counts, torch.ones_like(counts))
    )
    return around / room


def _roughness(seen: Tensor, held: Tensor) -> float:
    """Nats that rows `held` gain a row by the shares of `seen` over those blurred with the cells beside."""
    blurred = _mean(seen, torch.tensor([1.0, 2.0, 1.0], dtype=seen.dtype)) + 0.1
    sharp = seen + blurred * 0.1 + 0.1
    gain = (sharp / sharp.sum()).log() - (blurred / blurred.sum()).log()
    return float((held * gain).sum() / held.sum())
