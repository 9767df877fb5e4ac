r"""From the units of a column to normal scores, by its own distribution function.

.. math:: u = \Phi^{-1}(\hat F(v))

with F̂ rising in straight lines between knots that hold some rows each. Then every column on its own looks
Gaussian, and what is left to a model is what columns say of one another. Values that repeat (*ties*: exit
rates of 1/2, 1/3, 1/4) are jumps of F̂: a tie has an interval of normal scores of its own, as wide as it
has rows, and is a point of it drawn uniformly. With the interval's width w

.. math:: P(v) = \int p(u)\,du = w\, E\, p(u)

so that one draw gives a lower bound, as in a cell of a lattice (`modeflow.transforms.cells`). On a lattice
the knots lie at edges of cells, and a cell that holds many more rows than those around it (amounts paid in
round thousands, steps of 0.89) lies between two of its own. So do the cells of coarse values that nearly all
rows lie on (`find_grid`), those that no row has among them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from modeflow.nets.precision import OwnPrecision
from modeflow.transforms.noise import in_row_noise, uniform_noise

__all__ = ["Edges", "Marginals", "ends_beyond", "find_grid", "find_ties"]

#: Fewest rows between two knots, and knots at the most; fewest at either end of a column, towards which
#: stretches hold fewer and fewer rows: how the map goes on beyond is judged by them.
_ROWS, _KNOTS, _END_ROWS = 30, 200, 4
#: Rows that a stretch without any is given, so that the map rises.
_PSEUDO = 0.1
#: Scores that three rows in a million have or none, and how much further out is given what share of the range
#: of a column: a model has a few rows in ten thousand there that no column has, and to put them straight on
#: would be to draw incomes of a thousand times the largest (on a scale that is logarithmic far out).
_RARE, _LEAKED, _ROOM = 4.5, 2.0, 0.05
#: Least of this room, of that which going straight on takes.
_LEAST_ROOM = 1e-3
#: Of the mean steepness of a map, the least with which it goes on; scores over which its end is judged.
_SLOWEST, _OUTERMOST = 0.25, 0.5
#: Rows of a tie where chance makes none; how many times what chance makes; values to either side that show
#: the density; and the share of the rows that the ties of a column have.
_TIE_ROWS, _TIE_EXCESS, _NEIGHBOURS, _TIED = 3, 1.5, 10, 0.1
#: Of the coarse values of a fine lattice: the share of rows on them, steps between two at the least, and how
#: many there are at the most.
_ON, _COARSE, _POINTS = 0.9, 5, 1000
_BEYOND = 2**40


@dataclass(frozen=True)
class Edges:
    """Of cells of a lattice: rising places, which of them must be knots, and which of these begin a cell that
    lies between knots of its own."""

    places: np.ndarray
    kept: np.ndarray
    begins: np.ndarray


class Marginals(OwnPrecision):
    """Piecewise linear maps of D columns to normal scores, with jumps at ties; in float64.

    Attributes:
        knots, places: of the maps, ``(D, M)``, rising; a tie is a knot twice. Short lists go on evenly.
        ties: the values that repeat, in the units of the data, rising, ``(D, T)``; filled up by infinity.
        begins: the knot at which each tie begins, ``(D, T)``; filled up by a number beyond all.
    """

    knots: Tensor
    places: Tensor
    ties: Tensor
    begins: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        for name in ("knots", "places", "ties"):
            self.register_buffer(name, torch.zeros(features, 0, dtype=torch.float64))
        self.register_buffer("begins", torch.zeros(features, 0, dtype=torch.long))

    def set_ties(self, ties: Sequence[np.ndarray]) -> None:
        """Take the values that repeat, of every column."""
        most = max((len(each) for each in ties), default=0)
        filled = [np.concatenate([each, np.full(most - len(each), np.inf)]) for each in ties]
        self.ties = torch.from_numpy(np.stack(filled)) if filled else self.ties

    def tie_of(self, x: Tensor) -> Tensor:
        """Which tie of its column every number is, ``(N, D)``; -1 for none."""
        if not self.ties.shape[1]:
            return torch.full(x.shape, -1, dtype=torch.long, device=x.device)
        columns = x.T.contiguous()
        at = torch.searchsorted(self.ties, columns).clamp_max(self.ties.shape[1] - 1)
        return torch.where(self.ties.gather(1, at) == columns, at, -1).T

    def fit(self, v: Tensor, tie: Tensor, at: Tensor, edges: Sequence[Edges | None], beyond: Tensor) -> None:
        """Learn the maps from rows.

        Arguments:
            v: units of the columns, ``(N, D)``, NaN where missing. tie: of each, see `tie_of`.
            at: where the ties lie in these units, ``(D, T)``.
            edges: of the cells of a lattice, in these units; None for others.
            beyond: `ends_beyond` of the columns, in these units.
        """
        found = []
        for j, places in enumerate(at.numpy()):
            places = places[np.isfinite(self.ties[j].numpy())]
            found.append(_map(v[:, j].numpy(), tie[:, j].numpy(), places, edges[j], beyond[:, j].numpy()))
        longest, most = (max((len(each[i]) for each in found), default=0) for i in (0, 2))
        self.knots, self.places = (
            torch.from_numpy(np.stack([_longer(each[i], longest) for each in found])) for i in (0, 1)
        )
        filled = [np.concatenate([begin, np.full(most - len(begin), _BEYOND)]) for *_, begin in found]
        self.begins = torch.from_numpy(np.stack(filled).astype(np.int64))

    def forward(self, v: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
        """Normal scores and log-derivatives (of a tie the logarithm of its width), ``(N, D)`` each; NaN stays
        NaN, with a derivative of one."""
        there = v == v
        u, slope = self._line(torch.where(there, v, 0.0), self.knots, self.places)
        if self.begins.shape[1]:
            begin = self.begins.gather(1, tie.clamp_min(0).T).clamp_max(self.places.shape[1] - 2)
            low, high = self.places.gather(1, begin).T, self.places.gather(1, begin + 1).T
            e = uniform_noise(v) if self.training or in_row_noise() else 0.5
            u = torch.where(tie >= 0, low + (high - low) * e, u)
            slope = torch.where(tie >= 0, (high - low).log(), slope)
        return torch.where(there, u, torch.nan), torch.where(there, slope, 0.0)

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Units of the columns, and the ties that are hit in units of the data (NaN for none), ``(N, D)``."""
        there = u == u
        columns = torch.where(there, u, 0.0)
        v = self._line(columns, self.places, self.knots)[0]
        value = torch.full_like(v, torch.nan)
        if self.begins.shape[1]:
            last = self.places.shape[1] - 1
            at = torch.searchsorted(self.places, columns.T.contiguous(), right=True).clamp(1, last)
            jump = self.knots.gather(1, at - 1) == self.knots.gather(1, at)
            number = (torch.searchsorted(self.begins, at - 1, right=True) - 1).clamp_min(0)
            value = torch.where(jump, self.ties.gather(1, number), torch.nan).T
        return torch.where(there, v, torch.nan), torch.where(there, value, torch.nan)

    def _line(self, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        columns = x.T.contiguous()
        at = torch.searchsorted(a, columns.detach(), right=True).clamp(1, a.shape[1] - 1)
        left, right = a.gather(1, at - 1), a.gather(1, at)
        low, high = b.gather(1, at - 1), b.gather(1, at)
        slope = (high - low) / (right - left)
        return (low + (columns - left) * slope).T, slope.log().T

    def _load_from_state_dict(self, state_dict, prefix, *args):  # type: ignore[no-untyped-def]
        for name in ("knots", "places", "ties", "begins"):
            given = state_dict.get(prefix + name)
            if given is not None:
                setattr(self, name, torch.zeros_like(given, device=self.ties.device))
        super()._load_from_state_dict(state_dict, prefix, *args)


def find_ties(column: np.ndarray, step: float = 0.0) -> np.ndarray:
    """Values of a column that repeat by more than chance; none where they have few of its rows.

    Three rows make a tie, and more where decimals are few or cells wide: rounding alone makes measurements
    equal, as often as the density around them says.

    Arguments:
        column: numbers, ``(N,)``. step: of the lattice they lie on, 0 where that is to be seen from decimals.
    """
    from scipy.ndimage import median_filter  # slow to import

    values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
    if len(values) < 2:
        return np.zeros(0)
    reach = min(_NEIGHBOURS, len(values) - 1)
    last = np.clip(np.arange(len(values)) + reach, 2 * reach, len(values) - 1)
    first = np.maximum(last - 2 * reach, 0)
    density = np.minimum(median_filter(counts, 2 * reach + 1) * (last - first), len(column))
    by_chance = density * (step or _resolution(values)) / np.maximum(values[last] - values[first], 1e-300)
    by_chance = np.minimum(by_chance, 1e9)
    # Half as many again as the density says, and three of its errors.
    repeated = counts >= _TIE_ROWS * (1 + np.sqrt(by_chance)) + _TIE_EXCESS * by_chance
    if counts[repeated].sum() < _TIED * counts.sum():
        return np.zeros(0)
    return values[repeated]


def find_grid(column: np.ndarray, step: float) -> np.ndarray:
    """The coarse values that nearly all rows of a fine lattice lie on: whole and half years among ages that
    have two decimals for infants. None where there are no such.

    They are the multiples, within the range of the rows, of a step 1, 2.5 or 5 times a power of ten that is
    five steps of the lattice or more and holds nine rows in ten. Of several steps it is the one by which the
    rows are told in the fewest nats: a row on a coarse value by the share of that value (each counted once
    more than it occurs), any other by the share of all others and one of the cells of the lattice.

    Arguments:
        column: values, NaN where missing, ``(N,)``. step: of their lattice.
    """
    values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
    if len(values) < 2:
        return np.zeros(0)
    span, rows = float(values[-1] - values[0]), int(counts.sum())
    fewest, found = rows * math.log(span / step + 1), np.zeros(0)
    powers = range(math.floor(math.log10(_COARSE * step)), math.floor(math.log10(span)) + 1)
    for coarse in (float(f"{head}e{power}") for power in powers for head in (1, 2.5, 5)):
        ratio, first, last = coarse / step, math.ceil(values[0] / coarse), math.floor(values[-1] / coarse)
        if ratio < _COARSE - 0.5 or abs(ratio - round(ratio)) > 1e-6 * ratio or last - first >= _POINTS:
            continue
        on = counts[np.abs(values - np.round(values / coarse) * coarse) < 1e-3 * step]
        rest, total = rows - int(on.sum()), rows + last - first + 2
        nats = -float(on @ np.log((on + 1) / total)) + rest * math.log(total / (rest + 1) * (span / step + 1))
        if rest <= (1 - _ON) * rows and nats < fewest:
            fewest, found = nats, np.arange(first, last + 1) * coarse
    return found


def _resolution(values: np.ndarray) -> float:
    """The last decimal of numbers that are written with few; 0 for others."""
    span = float(values[-1] - values[0])
    for digits in (d for d in range(-3, 7) if 10.0**-d <= span):
        scaled = values * 10.0**digits
        if (np.abs(scaled - np.round(scaled)) <= 1e-6 + 1e-7 * np.abs(scaled)).all():
            return 10.0**-digits
    return 0.0


def _longer(values: np.ndarray, count: int) -> np.ndarray:
    more = 1 + np.arange(count - len(values))
    return np.concatenate([values, values[-1] + more * (values[-1] - values[-2])])


def _map(
    v: np.ndarray, tie: np.ndarray, ties: np.ndarray, edges: Edges | None, beyond: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Knots, places, and the knots at which ties begin, of one column."""
    there = v == v
    v, tie = v[there], tie[there]
    free = np.sort(v[tie < 0])
    held = max(_ROWS, -(-len(v) // _KNOTS))
    cut = _at_quantiles(free, held) if edges is None else _at_edges(free, edges, held)
    jumps = np.bincount(tie[tie >= 0], minlength=len(ties)).astype(float)
    positions = np.concatenate([cut, ties, ties])
    mass = np.concatenate([np.zeros(len(cut) + len(ties)), jumps])
    # A cut may lie on a tie, or two ties at one place (in rounded units): each tie still is two neighbours.
    number = np.concatenate([np.full(len(cut), -1), np.arange(len(ties)), np.arange(len(ties))])
    order = np.lexsort((np.arange(len(positions)), number, positions))
    knots, mass = positions[order], mass[order]
    before = np.searchsorted(free, knots).astype(float)
    rises = np.diff(knots, prepend=knots[0]) > 0
    new = np.diff(before, prepend=before[0])
    given = np.full(len(knots), _PSEUDO)
    if edges is not None and edges.begins.any():
        # What lies between cells with knots of their own is given a share of the rows there, all in all.
        between = rises & ~np.isin(np.append(np.nan, knots[:-1]), edges.places[edges.begins])
        given[between] *= min(1.0, (float(new[between].sum()) + 1) / max(int(between.sum()), 1))
    total = np.cumsum(new + mass + given * rises)
    # Half a row beyond either end.
    places = ndtri((total + 0.5) / (total[-1] + 1.0))
    (low, low_places), (high, high_places) = (
        _beyond(knots, places, *end) for end in zip((-1, 1), np.diff(beyond)[::2], strict=True)
    )
    knots = np.concatenate([low[::-1], knots, high])
    places = np.concatenate([low_places[::-1], places, high_places])
    begins = np.flatnonzero((order >= len(cut)) & (order < len(cut) + len(ties)))
    return knots, places, len(low) + begins


def ends_beyond(x: Tensor) -> Tensor:
    """A little below all values of columns ``(N, D)`` (NaN where missing), the least, the greatest, and a
    little above: ``(4, D)``, rising."""
    low, high = (torch.where(x == x, x, fill) for fill in (torch.inf, -torch.inf))
    low, high = low.amin(0), high.amax(0)
    room = _ROOM * (high - low)
    return torch.stack([low - room, low, high, high + room])


def _beyond(knots: np.ndarray, places: np.ndarray, end: int, room: float) -> tuple[np.ndarray, np.ndarray]:
    """Knots beyond one end (-1 or 1), outwards: straight on to scores that no row has, then little `room` for
    more of them, and from there on as before."""
    # From the end inwards, as distances from it.
    rise, run = (np.abs(each - each[-1])[::-1] if end > 0 else each - each[0] for each in (knots, places))
    # Not of a single cell, which may be narrow.
    first = np.append(np.flatnonzero((rise > 0) & (run >= _OUTERMOST)), -1)[0]
    inner = np.flatnonzero((run >= run[first] + 1) & (rise > rise[first]))
    slopes = [rise[first] / run[first], rise[-1] / run[-1]]
    if len(inner):  # one row far from all others makes its own stretch steep
        slopes[0] = min(slopes[0], (rise[inner[0]] - rise[first]) / (run[inner[0]] - run[first]))
    slope = max(slopes[0], _SLOWEST * slopes[1])
    last = -1 if end > 0 else 0
    rare = max(_RARE, abs(places[last]) + 0.25)
    scores = np.array([rare, rare + _LEAKED, rare + _LEAKED + 1.0])
    # Never none: where rounding leaves no room two knots would be one.
    straight = slope * _LEAKED
    room = min(straight, max(_LEAST_ROOM * straight, room))
    steps = np.array([slope * (rare - abs(places[last])), room, slope])
    return knots[last] + end * steps.cumsum(), end * scores


def _at_quantiles(free: np.ndarray, held: int) -> np.ndarray:
    """Knots between which so many rows lie, and one beyond either end."""
    if not len(free):
        return np.array([-1.0, 1.0])
    evenly = np.linspace(0, len(free) - 1, max(2, len(free) // held + 1)).round().astype(int)[1:-1]
    ends = _END_ROWS * 2 ** np.arange(max(0, math.ceil(math.log2(min(held, len(free) / 4) / _END_ROWS))))
    index = np.unique([*ends, *evenly, *(len(free) - ends)]).astype(int)
    margin = _margin(free)
    return np.unique([free[0] - margin, *(free[index - 1] + free[index]) / 2, free[-1] + margin])


def _at_edges(free: np.ndarray, edges: Edges, held: int) -> np.ndarray:
    """The same among the edges of cells, so that the map is straight within a cell."""
    cut, last, places = [], 0, edges.places
    within = (places > free[0]) & (places < free[-1])
    counts = np.searchsorted(free, places[within])
    for edge, count, kept in zip(places[within], counts, edges.kept[within], strict=True):
        fewest = min(held, max(_END_ROWS, min(last, len(free) - count)))
        if kept or (count - last >= fewest and len(free) - count >= _END_ROWS):
            cut.append(edge)
            last = count
    below, above = places[places <= free[0]], places[places >= free[-1]]
    first = below[-1] if len(below) else free[0] - _margin(free)
    return np.unique([first, *cut, above[0] if len(above) else free[-1] + _margin(free)])


def _margin(free: np.ndarray) -> float:
    return float(free[-1] - free[0]) * 1e-3 + 1e-9
