r"""From the mixed columns of a table to the features of a model, and back.

A row of D cells becomes F >= D features. Numbers on a line become normal scores (`Cells`, `Columns`,
`Marginals`), angles go to ``[-π, π)``, codes of levels stay as they are; a missing cell (NaN) stays
missing. A column with *atoms*, single values that hold a share of the rows of their own (the zeros of
rain), becomes two: the number, absent (NaN) where the cell holds an atom, and at the end of the row a code
that says which atom, 0 for none. Then

.. math:: \log p(x) = \log p(u) + \sum_{j\ \text{there}} \log\Big|\frac{\partial u_j}{\partial x_j}\Big|

is a density in the numbers, a probability in codes, atoms and ties, and the mass of a cell on lattices (by
a mean over points of the cell: a lower bound, see `Cells`). A cell that is minus infinity is none that its
column can have: such a row has no probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeflow.transforms.base import Exactness
from modeflow.transforms.cells import Cells
from modeflow.transforms.columns import Columns
from modeflow.transforms.marginals import Marginals, find_grid, find_ties
from modeflow.transforms.surjections import Surjection

__all__ = ["Cell", "MixedColumns"]


#: Cells of a lattice whose edges are looked at.
_MOST_CELLS = 100_000


@dataclass(frozen=True)
class Cell:
    """What the cells of one column hold.

    Attributes:
        levels: number of levels where they are codes, 0 for numbers.
        period: of an angle, 0 for numbers on a line. origin: where its period begins.
        step, offset: of its lattice, 0 for none. low, high: ends of its (dequantised) range, where known.
        atoms: values that are no part of the continuous rest.
    """

    levels: int = 0
    period: float = 0.0
    origin: float = 0.0
    step: float = 0.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    atoms: tuple[float, ...] = ()


class MixedColumns(Surjection):
    """Cells to features, see the module.

    Arguments:
        cells: of the D columns.

    Attributes:
        event_shape: ``(D,)``, what it takes. features: F.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        self.cells = tuple(cells)
        self.event_shape = (len(self.cells),)
        places = list(enumerate(self.cells))
        self.numbers = [j for j, cell in places if not cell.levels and not cell.period]
        self.angles = [j for j, cell in places if cell.period]
        self.flagged = [j for j, cell in places if cell.atoms]
        self.features = len(self.cells) + len(self.flagged)
        self.columns = Columns(len(self.numbers))
        self.marginals = Marginals(len(self.numbers))
        self.lattice, self.turning = self._lattice(self.numbers), self._lattice(self.angles)

    @property
    def exactness(self) -> Exactness:  # type: ignore[override]
        """A lower bound where cells are drawn from: on lattices, and at ties."""
        drawn = self.lattice or self.turning or self.marginals.ties.shape[1]
        return "lower bound" if drawn else "exact"

    def _of(self, name: str, where: Sequence[int]) -> Tensor:
        return torch.tensor([getattr(self.cells[j], name) for j in where], dtype=torch.float64)

    def _lattice(self, where: Sequence[int]) -> Cells | None:
        steps = self._of("step", where)
        return Cells(steps, self._of("offset", where)) if bool(steps.any()) else None

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels of every feature, 0 for numbers and angles, flags included, ``F`` of them."""
        flags = (1 + len(self.cells[j].atoms) for j in self.flagged)
        return (*(cell.levels for cell in self.cells), *flags)

    @property
    def circular(self) -> tuple[bool, ...]:
        """Which features are angles, ``F`` of them."""
        return (*(cell.period > 0 for cell in self.cells), *(False for _ in self.flagged))

    def fit(self, x: Tensor, weight: Tensor | None = None) -> MixedColumns:
        """Set the maps of the columns of numbers by rows ``x (N, D)``.

        Raises:
            DataError: if a column of numbers is constant.
        """
        if not self.numbers:
            return self
        numbers = self._split(x.double())[0][:, self.numbers]
        self.marginals.set_ties(
            [_ties(self.cells[j], column.numpy()) for j, column in zip(self.numbers, numbers.T, strict=True)]
        )
        tie = self._tie_of(numbers)
        if self.lattice is not None:
            numbers = self.lattice(numbers)[0]
        steps, low, high = (self._of(name, self.numbers) for name in ("step", "low", "high"))
        self.columns.fit(numbers, weight, steps, (low, high))
        edges = [self._edges(place, numbers[:, place]) for place in range(len(self.numbers))]
        at = self.columns.entries(self.marginals.ties.T)[0].T
        self.marginals.fit(self.columns.entries(numbers)[0], tie, at, edges)
        return self

    def _edges(self, place: int, column: Tensor) -> np.ndarray | None:
        """Edges of the cells of a lattice that rows lie in, in units of `Columns`; None where too many."""
        cell = self.cells[self.numbers[place]]
        if not cell.step:
            return None
        known = column[column == column]
        first, last = ((end - cell.offset) / cell.step for end in (float(known.min()), float(known.max())))
        if last - first > _MOST_CELLS:
            return None
        edges = cell.offset + cell.step * (torch.arange(math.floor(first), math.ceil(last) + 1) + 0.5)
        rows = torch.full((len(edges), len(self.numbers)), torch.nan, dtype=torch.float64)
        rows[:, place] = edges
        return self.columns.entries(rows)[0][:, place].numpy()

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cells with atoms taken out, ``(N, D)``, and the flags, ``(N, flagged)``."""
        flags = x.new_zeros(len(x), len(self.flagged))
        if self.flagged:
            x = x.clone()
        for place, j in enumerate(self.flagged):
            column = x[:, j].clone()
            for number, atom in enumerate(self.cells[j].atoms, 1):
                flags[:, place] = torch.where(column == atom, float(number), flags[:, place])
            flags[:, place] = torch.where(column == column, flags[:, place], torch.nan)
            x[:, j] = torch.where(flags[:, place] > 0, torch.nan, column)
        return x, flags

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = x.double()
        impossible = x == -torch.inf
        x, flags = self._split(torch.where(impossible, torch.nan, x))
        u = x.clone()
        logabsdet = torch.where(impossible.any(1), -torch.inf, 0.0).to(u)
        if self.numbers:
            tie = self._tie_of(x[:, self.numbers])
            numbers, volume = _drawn(self.lattice, x[:, self.numbers])
            v, slope = self.columns.entries(numbers)
            u[:, self.numbers], more = self.marginals(v, tie)
            logabsdet = logabsdet + (torch.where(tie >= 0, 0.0, slope + volume) + more).sum(1)
        if self.angles:
            angles, volume = _drawn(self.turning, x[:, self.angles])
            scale, origin = self._turns(x)
            u[:, self.angles] = torch.remainder((angles - origin) * scale, 2 * math.pi) - math.pi
            logabsdet = logabsdet + (volume + (angles == angles) * scale.log()).sum(1)
        return torch.cat((u, flags), 1), logabsdet

    def _tie_of(self, numbers: Tensor) -> Tensor:
        """Which tie of its column every number is; a number on a lattice is that of its cell."""
        if self.lattice is not None and self.marginals.ties.shape[1]:
            numbers = self.lattice.sample(numbers)
        return self.marginals.tie_of(numbers)

    def _turns(self, x: Tensor) -> tuple[Tensor, Tensor]:
        period, origin = (self._of(name, self.angles).to(x.device) for name in ("period", "origin"))
        return 2 * math.pi / period, origin

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        u = u.double()
        x, flags = u[:, : len(self.cells)].clone(), u[:, len(self.cells) :]
        if self.numbers:
            v, tie = self.marginals.inverse(x[:, self.numbers])
            numbers = self.columns.sample(v)
            numbers = numbers if self.lattice is None else self.lattice.sample(numbers)
            x[:, self.numbers] = torch.where(tie == tie, tie, numbers)
        if self.angles:
            scale, origin = self._turns(u)
            angles = torch.remainder(x[:, self.angles] + math.pi, 2 * math.pi) / scale + origin
            x[:, self.angles] = angles if self.turning is None else self.turning.sample(angles)
        for place, j in enumerate(self.flagged):
            for number, atom in enumerate(self.cells[j].atoms, 1):
                x[:, j] = torch.where(flags[:, place] == number, atom, x[:, j])
        return x


def _ties(cell: Cell, column: np.ndarray) -> np.ndarray:
    """Values with an interval of their own: those that repeat in a continuous column, and coarse ones that
    nearly all rows of a fine lattice lie on."""
    if not cell.step:
        return find_ties(column)
    number = np.round((find_grid(column, cell.step) - cell.offset) / cell.step)
    return np.asarray(cell.offset + cell.step * number)


def _drawn(lattice: Cells | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the cells of what lies on lattices, and the logarithm of the step of every entry, 0 where it
    lies on none or is missing."""
    volume = torch.zeros_like(x)
    if lattice is None:
        return x, volume
    there = x[:, lattice.where] == x[:, lattice.where]
    volume[:, lattice.where] = there * lattice.steps.log()
    return lattice(x)[0], volume
