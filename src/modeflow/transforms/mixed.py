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
from modeflow.transforms.marginals import Edges, Marginals, ends_beyond, find_grid, find_ties
from modeflow.transforms.surjections import Surjection

__all__ = ["Cell", "MixedColumns"]


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

    @property
    def flags(self) -> dict[int, int]:
        """Place of the flag among the features, by that of the cell it is of."""
        return {j: len(self.cells) + i for i, j in enumerate(self.flagged)}

    def fit(self, x: Tensor, weight: Tensor | None = None) -> MixedColumns:
        """Set the maps of the columns of numbers by rows ``x (N, D)``.

        Raises:
            DataError: if a column of numbers is constant.
        """
        if not self.numbers:
            return self
        numbers = self._split(x.double())[0][:, self.numbers]
        steps, low, high = (self._of(name, self.numbers) for name in ("step", "low", "high"))
        repeated = [find_ties(c.numpy(), step) for c, step in zip(numbers.T, steps.tolist(), strict=True)]
        ties = [np.zeros(0) if step else found for found, step in zip(repeated, steps.tolist(), strict=True)]
        self.marginals.set_ties(ties)
        tie = self.marginals.tie_of(numbers)
        cells = numbers
        if self.lattice is not None:
            numbers = self.lattice(numbers)[0]
        self.columns.fit(numbers, weight, steps, (low, high))
        edges = [self._edges(place, cells[:, place], heavy) for place, heavy in enumerate(repeated)]
        at = self.columns.entries(self.marginals.ties.T)[0].T
        beyond = self.columns.entries(ends_beyond(cells))[0]
        self.marginals.fit(self.columns.entries(numbers)[0], tie, at, edges, beyond)
        return self

    def _edges(self, place: int, column: Tensor, heavy: np.ndarray) -> Edges | None:
        """Edges of the cells that rows lie in, in units of `Columns`; None for a column on no lattice.

        Arguments:
            place: of the column among the numbers. column: its values. heavy: those that have many rows.
        """
        cell = self.cells[self.numbers[place]]
        if not cell.step:
            return None
        # In whole numbers, so that neighbours have one edge between them.
        coarse = find_grid(column.numpy(), cell.step)
        used, many = (
            np.unique(np.round((np.concatenate([values, coarse]) - cell.offset) / cell.step))
            for values in (column[column == column].numpy(), heavy)
        )
        found = np.unique(np.concatenate([used - 0.5, used + 0.5]))
        rows = torch.full((len(found), len(self.numbers)), torch.nan, dtype=torch.float64)
        rows[:, place] = torch.from_numpy(cell.offset + cell.step * found)
        kept = np.isin(found, [many - 0.5, many + 0.5])
        return Edges(self.columns.entries(rows)[0][:, place].numpy(), kept, np.isin(found, many - 0.5))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cells with atoms taken out, ``(N, D)``, and the flags, ``(N, flagged)``."""
        flags = x.new_zeros(x.shape[0], len(self.flagged))
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
        # Any value will do: the row has no probability. (A missing one is none that every model takes.)
        x, flags = self._split(torch.where(impossible, 0.0, x))
        u = x.clone()
        logabsdet = torch.where(impossible.any(1), -torch.inf, 0.0).to(u)
        if self.numbers:
            numbers, volume = _drawn(self.lattice, x[:, self.numbers])
            v, slope = self.columns.entries(numbers)
            tie = self.marginals.tie_of(x[:, self.numbers])
            u[:, self.numbers], more = self.marginals(v, tie)
            logabsdet = logabsdet + volume + (torch.where(tie >= 0, 0.0, slope) + more).sum(1)
        if self.angles:
            angles, volume = _drawn(self.turning, x[:, self.angles])
            scale, origin = self._turns(x)
            u[:, self.angles] = torch.remainder((angles - origin) * scale, 2 * math.pi) - math.pi
            logabsdet = logabsdet + volume + ((angles == angles) * scale.log()).sum(1)
        return torch.cat((u, flags), 1), logabsdet

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


def _drawn(lattice: Cells | None, x: Tensor) -> tuple[Tensor, Tensor]:
    """Points of the cells of what lies on lattices, and the logarithm of the steps of a row's cells."""
    return (x, x.new_zeros(x.shape[0])) if lattice is None else lattice(x)
