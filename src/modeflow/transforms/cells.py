r"""Columns on lattices (counts, prices in cents): from a value to a point of its cell.

Such columns have probabilities, not densities: a continuous model fitted to them can put an unbounded density
on the values of the lattice, and its likelihood then means nothing. They are dequantised instead. With p the
density of a real vector and s the steps of the lattices, a row x has the probability

.. math:: P(x) = \int p(x + s u)\, s_1 \cdots s_D\, du = s_1 \cdots s_D\, E_u\, p(x + s u),
    \qquad u \sim U(-\tfrac12, \tfrac12)^D.

One draw of u gives the bound :math:`E_u \log p(x + s u) + \sum \log s \le \log P(x)` (Jensen), which training
maximises; a mean over draws inside the logarithm (`modeflow.densities.Preprocessed`) is in expectation a
lower bound that converges to :math:`\log P(x)`. In a table that also has continuous columns the same formula
gives their density times the probability of the others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.nets.precision import OwnPrecision
from modeflow.transforms.noise import in_row_noise, uniform_noise
from modeflow.transforms.surjections import Surjection

__all__ = ["Cells"]


class Cells(OwnPrecision, Surjection):
    """``x + s u`` of columns on lattices, u uniform in ±1/2; the way back rounds to the lattice.

    The noise is fresh while training and a function of the row within `modeflow.transforms.noise.row_noise`.
    Otherwise a value stays where it is, in the middle of its cell; a missing one (NaN) stays missing, and
    adds nothing to the log-determinant. Works in float64, like `Standardize`.

    Arguments:
        steps: of the lattices, 0 for continuous columns, ``(D,)``.
        offsets: a value of each lattice, ``(D,)``; zeros if None.

    Attributes:
        where: the columns on lattices. steps, offsets: theirs.
    """

    exactness = "lower bound"
    steps: Tensor
    offsets: Tensor
    where: Tensor

    def __init__(self, steps: Tensor, offsets: Tensor | None = None) -> None:
        super().__init__()
        steps = steps.double()
        where = torch.nonzero(steps).flatten()
        offsets = torch.zeros_like(steps) if offsets is None else offsets.double()
        for name, value in (("steps", steps[where]), ("offsets", offsets[where]), ("where", where)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        there = x[:, self.where] == x[:, self.where]
        volume = (there * self.steps.log()).sum(1)
        if not (self.training or in_row_noise()):
            return x, volume
        u = uniform_noise(x.new_empty(x.shape[0], len(self.where), dtype=torch.float64)) - 0.5
        return x.double().index_add(1, self.where, u * self.steps), volume

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        cell = torch.round((u.double()[:, self.where] - self.offsets) / self.steps)
        return u.double().index_copy(1, self.where, self.offsets + self.steps * cell)
