r"""From the mixed columns of a table to the features of a model, and back.

A row of D cells becomes F >= D features. Numbers on a line go through `Cells` and `Columns`, angles to
``[-π, π)``, codes of levels stay as they are; a missing cell (NaN) stays missing. A column with *atoms*,
single values that hold a share of the rows of their own (the zeros of rain), becomes two: the number, absent
(NaN) where the cell holds an atom, and at the end of the row a code that says which atom, 0 for none. Then

.. math:: \log p(x) = \log p(u) + \sum_{j\ \text{there}} \log\Big|\frac{\partial u_j}{\partial x_j}\Big|

is a density in the numbers, a probability in the codes and atoms, and the mass of a cell on lattices (by a
mean over points of the cell: a lower bound, see `Cells`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeflow.transforms.cells import Cells
from modeflow.transforms.columns import Columns
from modeflow.transforms.marginals import Marginals
from modeflow.transforms.surjections import Surjection

__all__ = ["Cell", "MixedColumns"]


_OF_LATTICES = ("step", "offset", "low", "high")


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
    ties: tuple[float, ...] = ()


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
        self.scores = True
        self.lattice, self.turning = self._lattice(self.numbers), self._lattice(self.angles)
        drawn = self.lattice or self.turning or any(cell.ties for cell in cells)
        self.exactness = "lower bound" if drawn else "exact"

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
        numbers = self._split(x.double())[0][:, self.numbers]
        if self.lattice is not None:
            numbers = self.lattice(numbers)[0]
        if self.numbers:
            steps, offsets, low, high = (self._of(name, self.numbers) for name in _OF_LATTICES)
            self.columns.fit(numbers, weight, steps, (low, high), None if self.scores else offsets)
            if self.scores:
                self._fit_scores(x.double(), numbers)
        return self

    def _fit_scores(self, x: Tensor, numbers: Tensor) -> None:
        v = self.columns.entries(numbers)[0]
        ties, edges = [], []
        for place, j in enumerate(self.numbers):
            cell = self.cells[j]
            ties.append(self._seen(place, np.array(cell.ties)))
            edge = None
            if cell.step:
                column = numbers[:, place]
                column = column[column == column].numpy()
                first, last = (np.floor((e - cell.offset) / cell.step + 0.5) for e in (column.min(), column.max()))
                if last - first < 100000:
                    edge = self._seen(place, cell.offset + cell.step * (np.arange(first, last + 2) - 0.5))
            edges.append(edge)
        self.marginals.fit(v, self._tie(x), ties, edges)

    def _seen(self, place: int, values: np.ndarray) -> np.ndarray:
        rows = torch.full((len(values), len(self.numbers)), torch.nan, dtype=torch.float64)
        rows[:, place] = torch.from_numpy(values)
        return self.columns.entries(rows)[0][:, place].numpy()

    def _tie(self, x: Tensor) -> Tensor:
        """Which tie every number is, -1 for none, ``(N, numbers)``."""
        found = torch.full((len(x), len(self.numbers)), -1, dtype=torch.long, device=x.device)
        for place, j in enumerate(self.numbers):
            if self.cells[j].ties:
                ties = x.new_tensor(self.cells[j].ties)
                column = x[:, j].contiguous()
                at = torch.searchsorted(ties, column).clamp_max(len(ties) - 1)
                found[:, place] = torch.where(ties[at] == column, at, -1)
        return found

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
        x, flags = self._split(x.double())
        u = x.clone()
        logabsdet = x.new_zeros(len(x))
        if self.numbers:
            numbers = x[:, self.numbers]
            there = numbers == numbers
            if self.lattice is not None:
                numbers = self.lattice(numbers)[0]
                logabsdet = logabsdet + (there[:, self.lattice.where] * self.lattice.steps.log()).sum(1)
            mapped, slope = self.columns.entries(numbers)
            if self.scores:
                tie = self._tie(x)
                mapped, more = self.marginals.entries(mapped, tie)
                slope = torch.where(tie >= 0, 0.0, slope) + more
            u[:, self.numbers] = mapped
            logabsdet = logabsdet + slope.sum(1)
        if self.angles:
            angles = x[:, self.angles]
            there = angles == angles
            if self.turning is not None:
                angles = self.turning(angles)[0]
                logabsdet = logabsdet + (there[:, self.turning.where] * self.turning.steps.log()).sum(1)
            scale, origin = self._turns(x)
            turned = torch.remainder((angles - origin) * scale, 2 * math.pi) - math.pi
            u[:, self.angles] = turned
            logabsdet = logabsdet + (there * scale.log()).sum(1)
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
            v = x[:, self.numbers]
            if self.scores:
                v, tie = self.marginals.inverse(v)
            numbers = self.columns.sample(v)
            if self.scores:
                for place, j in enumerate(self.numbers):
                    if self.cells[j].ties:
                        ties = numbers.new_tensor(self.cells[j].ties)
                        numbers[:, place] = torch.where(tie[:, place] >= 0, ties[tie[:, place].clamp_min(0)], numbers[:, place])
            x[:, self.numbers] = numbers if self.lattice is None else self.lattice.sample(numbers)
        if self.angles:
            scale, origin = self._turns(u)
            angles = torch.remainder(x[:, self.angles] + math.pi, 2 * math.pi) / scale + origin
            x[:, self.angles] = angles if self.turning is None else self.turning.sample(angles)
        for place, j in enumerate(self.flagged):
            for number, atom in enumerate(self.cells[j].atoms, 1):
                x[:, j] = torch.where(flags[:, place] == number, atom, x[:, j])
        return x
