r"""The density of two columns on a grid: the others summed out where the model can, drawn, or held.

.. math:: p(x_a, x_b \mid x_c) \propto p(x_a, x_b, x_c) = \int p(x_a, x_b, x_c, x_r)\, dx_r

over the cells of the grid, c the columns given and r the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from modeflow.errors import ConfigError, DataError
from modeflow.exploring.views import Explored, Rows

__all__ = ["DensityMap", "density_map", "grid_size", "level_of_mass"]

#: Cells a side, at most and at least; seconds that the densities of a grid may take.
_MOST, _LEAST, _SECONDS = 32, 14, 0.08
#: Rows drawn for a map that is counted, and cells a side.
_DRAWN, _COUNTED = 5000, 28
#: Samples that say how much of the probability is less dense.
_FEWEST = 50


@dataclass(frozen=True)
class DensityMap:
    """A density on a grid.

    Attributes:
        x, y: places of its cells, ``(G,)`` and ``(H,)``; without a second column one at 0.
        density: in every cell, ``(H, G)``, the densest 1; of levels their probability.
        level: than how much of the probability every cell is denser, ``(H, G)``, in [0, 1].
        said: what it is, in words.
    """

    x: np.ndarray
    y: np.ndarray
    density: np.ndarray
    level: np.ndarray
    said: str


def density_map(
    explored: Explored,
    across: str,
    up: str | None,
    given: Mapping[str, float],
    states: frozenset[int] | None = None,
) -> DensityMap:
    """The density of one or two columns given cells of others.

    Arguments:
        across, up: names of the columns; without `up` of one alone. given: encoded cells of others by name.
        states: of a discrete latent, those whose part of the density is shown; all if None.
    """
    given = {name: value for name, value in given.items() if name not in (across, up)}
    key = ("map", across, up, tuple(sorted(given.items())), states)
    return explored.keep(key, lambda: _found(explored, across, up, given, states))


def _found(
    explored: Explored, across: str, up: str | None, given: Mapping[str, float], states: frozenset[int] | None
) -> DensityMap:
    others = [name for name in explored.names if name not in (across, up, *given)]
    words = f"given {explored.words(given)}" if given else ""
    out = f"{_listed(others)} summed out" if others else ""
    try:
        return _by_density(explored, across, up, given, ", ".join(filter(None, (words, out))), states)
    except DataError:
        if not others:
            raise
    return _by_counts(explored, across, up, given, words, states)


def _by_density(
    explored: Explored,
    across: str,
    up: str | None,
    given: Mapping[str, float],
    words: str,
    states: frozenset[int] | None,
) -> DensityMap:
    grid = _Grid.of(explored, across, up, grid_size(explored.seconds))
    rows = grid.rows(explored, given)
    log_prob, kind = explored.density(rows)
    if states is not None:
        with np.errstate(divide="ignore"):
            log_prob = log_prob + np.log(explored.state_shares(rows, states))
        words = ", ".join(filter(None, (words, _states_text(states))))
    said = f"{kind[0].upper()}{kind[1:]}" + (f"; {words}" if words else "")
    density = _relative(log_prob.reshape(grid.shape))
    level = _level_of_samples(explored, given, states, grid, density)
    return DensityMap(grid.x, grid.y, density, level, said + ".")


def _by_counts(
    explored: Explored,
    across: str,
    up: str | None,
    given: Mapping[str, float],
    words: str,
    states: frozenset[int] | None,
) -> DensityMap:
    """The share of samples in every cell, smoothed along numbers."""
    rows = explored.samples(given, 1, _DRAWN)
    values = rows.values[_in_states(rows, states)]
    if states is not None:
        words = ", ".join(filter(None, (words, _states_text(states))))
    grid = _Grid.of(explored, across, up, _COUNTED)
    counts = np.zeros(grid.shape)
    np.add.at(counts, grid.cells(explored, values), 1.0)
    for axis, name in ((1, across), (0, up)):
        if name is not None and not explored.axes[name].codes:
            counts = gaussian_filter1d(counts, 1.0, axis=axis, mode="nearest")
    counted = f"An estimate, counted among {len(values):,} samples and smoothed"
    said = "; ".join(filter(None, (counted, words)))
    return DensityMap(grid.x, grid.y, counts / (counts.max() or 1.0), level_of_mass(counts), said + ".")


@dataclass(frozen=True)
class _Grid:
    """Cells of one or two columns: what is asked for in each, and where it is drawn.

    Attributes:
        across, up: names of the columns. at, above: encoded cells, ``(G,)`` and ``(H,)``. x, y: places.
    """

    across: str
    up: str | None
    at: np.ndarray
    above: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, explored: Explored, across: str, up: str | None, most: int) -> _Grid:
        at, x = explored.axes[across].grid(most)
        above, y = (np.zeros(1), np.zeros(1)) if up is None else explored.axes[up].grid(most)
        return cls(across, up, at, above, x, y)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.above), len(self.at)

    def rows(self, explored: Explored, given: Mapping[str, float]) -> np.ndarray:
        """An encoded row for every cell, with what is given, the others missing, ``(H G, D)``."""
        found = np.full((len(self.at) * len(self.above), len(explored.names)), np.nan)
        found[:, explored.names.index(self.across)] = np.tile(self.at, len(self.above))
        if self.up is not None:
            found[:, explored.names.index(self.up)] = np.repeat(self.above, len(self.at))
        for name, value in given.items():
            found[:, explored.names.index(name)] = value
        return found

    def cells(self, explored: Explored, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cells in which encoded rows lie, those beyond the grid left out."""
        i = _nearest(self.x, explored.axes[self.across].places(values[:, explored.names.index(self.across)]))
        j = np.zeros(len(values), dtype=np.int64)
        if self.up is not None:
            j = _nearest(self.y, explored.axes[self.up].places(values[:, explored.names.index(self.up)]))
        inside = (i >= 0) & (j >= 0)
        return j[inside], i[inside]


def _relative(log_prob: np.ndarray) -> np.ndarray:
    """Densities as shares of the largest; zeros where all are zero."""
    top = log_prob.max()
    return np.exp(log_prob - top) if np.isfinite(top) else np.zeros_like(log_prob)


def level_of_mass(mass: np.ndarray) -> np.ndarray:
    """Of every cell the share of all mass in cells that hold no more; the fullest have 1.

    Arguments:
        mass: of every cell, of any shape.
    """
    flat = mass.ravel()
    order = np.sort(flat)
    below = np.cumsum(order) / (order.sum() or 1.0)
    # Cells that are alike have one level: that of the last of them.
    found = below[np.searchsorted(order, flat, side="right") - 1]
    return np.asarray(np.where(flat > 0, found, 0.0).reshape(mass.shape))


def _level_of_samples(
    explored: Explored,
    given: Mapping[str, float],
    states: frozenset[int] | None,
    grid: _Grid,
    density: np.ndarray,
) -> np.ndarray:
    """Of every cell the share of samples that lie where it is less dense.

    They know how much a peak holds that is narrower than a cell, which the density at a point does not. Of a
    slice, which has no samples, by the cells' own mass.
    """
    try:
        rows = explored.samples(given)
    except (ConfigError, DataError):
        return level_of_mass(density)
    theirs = np.sort(density[grid.cells(explored, rows.values[_in_states(rows, states)])])
    if len(theirs) < _FEWEST:
        return level_of_mass(density)
    found = np.searchsorted(theirs, density.ravel(), side="right") / len(theirs)
    return np.asarray(found.reshape(density.shape))


def _nearest(grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The cell of every value, -1 beyond the grid and for missing ones."""
    edges = (grid[1:] + grid[:-1]) / 2
    found = np.searchsorted(edges, values)
    half = (edges[0] - grid[0], grid[-1] - edges[-1]) if len(edges) else (0.5, 0.5)
    outside = ~((values >= grid[0] - half[0]) & (values <= grid[-1] + half[1]))
    return np.where(outside, -1, found)


def _in_states(rows: Rows, states: frozenset[int] | None) -> np.ndarray:
    """Which rows are in one of these states of a discrete latent, ``(N,)``."""
    if states is None:
        return np.ones(len(rows.values), dtype=bool)
    return np.isin(rows.states["state"], list(states))


def _states_text(states: frozenset[int]) -> str:
    return f"states {_listed([str(k) for k in sorted(states)])}" if states else "no state"


def grid_size(seconds: float) -> int:
    """Cells a side whose densities are found soon enough, by what one takes."""
    return int(np.clip((_SECONDS / seconds) ** 0.5, _LEAST, _MOST))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    return ", ".join(names[: 3 if more else 4]) + more
