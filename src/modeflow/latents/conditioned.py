r"""Any density of rows as one with conditionals: its own where it has them, else by quadrature and by draws.

.. math:: p(x_m \mid x_o) = \frac{p(x_o, x_m)}{p(x_o)}, \qquad p(x_o) = \int p(x_o, x_m)\, dx_m

All that is asked of the density is its value and its samples. One missing column is summed or integrated over
by quadrature, right to a few thousandths of a nat, and drawn by its distribution function
(`modeflow.densities.slices`). Several come from a proposal q whose conditionals are exact, which is fitted to
samples of the density (`modeflow.estimators.proposing`): of S draws one is taken by its weight,

.. math:: x_m^s \sim q(x_m \mid x_o), \qquad w_s = \frac{p(x_o, x_m^s)}{q(x_m^s \mid x_o)}, \qquad
    p(x_o) = E\, w_s,

(sampling-importance-resampling), and where few of the draws count, more are made; what is taken is then drawn
once more, one missing column after the other given all others, each exactly from the conditional of the
density (a sweep of Gibbs' sampler, which leaves that distribution as it is).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from modeflow.densities.beside import Beside
from modeflow.densities.features import Feature, with_flags
from modeflow.densities.slices import Slice, columns_of, missing_columns, slice_of
from modeflow.errors import ConfigError
from modeflow.latents.base import Description, LatentModel
from modeflow.latents.weighted import chosen_evenly, effective_draws, log_mean
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.noise import even_streams, in_row_noise, open_uniform, uniform_noise

__all__ = ["Conditioned", "Proposal"]

#: Draws of the proposal for a row, and for every completion of it; how many times as many where fewer than so
#: many of them count.
_DRAWS, _TIMES, _MORE, _COUNTING = 64, 4, 16, 16.0
#: Completions of a row that are swept at the most.
_SWEPT = 100
#: Draws of a proposal by which a marginal is estimated; among how many offsets of lattices they are shared.
_BOUND_DRAWS, _OFFSETS = 512, 4
#: Rows that are evaluated at once; rows that are integrated over, each at about 270 nodes.
_ROWS, _INTEGRATED = 16_384, 64


class Proposal(Protocol):
    """Draws missing cells of rows ``(B, F)`` given the others, with their density."""

    @property
    def noise_width(self) -> int:
        """Uniform numbers that a draw takes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its rows."""

    def drawn(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Full rows ``(S, B, F)`` by uniform numbers ``(S, B, noise_width)``, and ``log q(x_m | x_o)``, nats,
        ``(S, B)``."""


class Conditioned(LatentModel):
    """A latent-variable model, and what stands beside it, as a density that fills missing cells.

    Whatever follows from quadrature or from draws is an estimate; `exactness_of` says of rows whether the
    model sums out itself what they lack. A column without a value in a row (`Feature.flag`) is not missing.

    Arguments:
        model: of rows ``(B, F)``. features: what the numbers of a row are.
        beside: what shares the mass with it. proposal: for rows that lack several columns.
    """

    fills = True
    marginals: Exactness = "estimate"

    def __init__(
        self,
        model: LatentModel,
        features: Sequence[Feature],
        beside: Beside | None = None,
        proposal: Proposal | None = None,
    ) -> None:
        super().__init__(model.event_shape)
        self.model, self.beside, self.features = model, beside, tuple(features)
        self.proposal = proposal
        self.chunk_rows, self.exactness = model.chunk_rows, weakest("estimate", model.exactness)
        self._columns = columns_of(self.features)

    # -- what is known of rows ---------------------------------------------------------------------

    def missing(self, x: Tensor) -> Tensor:
        """How many columns rows lack, ``(B,)``."""
        return missing_columns(with_flags(x, self.features), self.features).sum(1)

    def asks(self, x: Tensor) -> Tensor:
        """Of which rows the missing cells are drawn by the proposal, ``(B,)``."""
        count = self.missing(x)
        return (count > 1) & (count < len(self._columns)) & ~self._exactly(x)

    def _exactly(self, x: Tensor) -> Tensor:
        """Of which rows the model itself sums out what they lack, ``(B,)``."""
        if self.beside is not None or self.model.marginals != "exact":
            return self.missing(x) == 0
        return self.model.sums_out(x)

    def sums_out(self, x: Tensor) -> Tensor:
        """Of all rows, though not exactly (`marginals`)."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def exactness_of(self, x: Tensor) -> Exactness:
        return self.model.exactness_of(x) if bool(self._exactly(x).all()) else self.exactness

    # -- the density -------------------------------------------------------------------------------

    def whole(self, x: Tensor) -> Tensor:
        """Log-density of rows of which the model needs nothing more, nats, ``(B,)``."""
        found = [self.model.log_prob(part) for part in x.split(_ROWS)]
        log_prob = torch.cat(found) if found else x.new_zeros(0)
        return log_prob if self.beside is None else self.beside.lift(x, log_prob)

    @torch.no_grad()
    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = with_flags(x, self.features)
        found = x.new_zeros(len(x))  # of a row of which nothing is known: the density integrates to one
        exactly = self._exactly(x)
        found[exactly] = self.whole(x[exactly])
        for rows, place in self._single(x):
            found[rows] = self._slice(x[rows], place).log_total()
        for rows in _pieces(self.asks(x), _ROWS // _BOUND_DRAWS):
            part = x[rows]
            found[rows] = log_mean(self._drawn(part, self._row_noise(part))[1])
        return found

    def _single(self, x: Tensor) -> Iterator[tuple[Tensor, int]]:
        """Rows that lack one column, of several, and its place; so many at a time."""
        if len(self._columns) == 1:
            return
        lacking = missing_columns(x, self.features)
        alone = (lacking.sum(1) == 1) & ~self._exactly(x)
        for i, place in enumerate(self._columns):
            for rows in _pieces(alone & lacking[:, i], _INTEGRATED):
                yield rows, place

    def _slice(self, x: Tensor, place: int) -> Slice:
        """The density of rows ``(B, F)`` along a column, sought about what they have there."""
        return slice_of(self.whole, x, place, self.features, x[:, place])

    def _asked(self) -> Proposal:
        """The proposal, where there is one."""
        if self.proposal is None:
            raise ConfigError("rows that lack several columns need a proposal, which this density has not")
        return self.proposal

    def _drawn(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Full rows by the proposal, ``(S, B, F)``, and the logarithms of their weights, ``(S, B)``."""
        q = self._asked()
        full, log_q = q.drawn(x.to(q.dtype), noise)
        full = full.to(x)
        return full, self.whole(full.flatten(0, 1)).view_as(log_q) - log_q

    def _row_noise(self, x: Tensor) -> Tensor:
        """Noise for draws by which a marginal is estimated, a function of the row."""
        draws = max(1, _BOUND_DRAWS // _OFFSETS) if in_row_noise() else _BOUND_DRAWS
        like = x.new_empty(len(x), self._asked().noise_width, dtype=torch.float64)
        parts = []
        for stream in even_streams(x, draws, self):
            with stream:
                parts.append(uniform_noise(like))
        return torch.stack(parts)

    # -- missing cells -----------------------------------------------------------------------------

    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.completions(x, 1, generator)[0]

    @torch.no_grad()
    def completions(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The rows n times with every missing cell drawn given the others, ``(n, B, F)``; see the module.

        Arguments:
            x: rows, ``(B, F)``. n: how many. generator: source of randomness.
        """
        self._check_event(x)
        x = with_flags(x, self.features)
        full, count = x.repeat(n, 1, 1), self.missing(x)
        exactly = self._exactly(x)
        if bool((holed := exactly & (count > 0)).any()):
            full[:, holed] = self.model.completions(x[holed], n, generator)
        if bool((nothing := (count == len(self._columns)) & ~exactly).any()):
            drawn = self.samples(n * int(nothing.sum()), generator)
            full[:, nothing] = drawn.view(n, -1, x.shape[1]).to(x)
        for rows, place in self._single(x):
            full[:, rows] = self._redrawn(full[:, rows], place, generator)
        for rows in _pieces(self.asks(x), _ROWS // max(_DRAWS, _TIMES * n)):
            full[:, rows] = self._resampled(x[rows], n, generator)
        return full

    def samples(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Rows of the density, ``(n, F)``."""
        rows = self.model.decode(self.model.draw(n, generator)[0], n, generator)
        return rows if self.beside is None else self.beside.mixed_in(rows, generator)[0]

    def _redrawn(self, full: Tensor, place: int, generator: torch.Generator | None) -> Tensor:
        """Rows ``(n, B, F)``, alike in all that but one column, with this drawn given the others."""
        levels = open_uniform(tuple(full.shape[:2]), torch.float64, full.device, generator)
        return self._slice(full[0], place).draw(full, levels)

    def _resampled(self, x: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        """Rows n times, ``(n, B, F)``: from among draws of the proposal, more where few of these count, and
        redrawn column by column where few still do."""
        width = self._asked().noise_width

        def chosen(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
            noise = open_uniform((count, len(rows), width), torch.float64, x.device, generator)
            drawn, weights = self._drawn(rows, noise)
            first = open_uniform((len(rows), 1), torch.float64, x.device, generator)
            which = chosen_evenly(weights, n, first).mT
            return drawn[which, torch.arange(len(rows), device=x.device)], effective_draws(weights)

        count = max(_DRAWS, _TIMES * n)
        full, effective = chosen(x, count)
        more = min(_MORE * count, _ROWS)
        for row in _pieces(effective < _COUNTING, _ROWS // more) if more > count else ():
            full[:, row], effective[row] = chosen(x[row], more)
        for row in (effective < _COUNTING).nonzero().flatten():
            if n <= _SWEPT:
                full[:, row] = self._swept(full[:, row], x[row], generator)
        return full

    def _swept(self, full: Tensor, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Completions ``(n, F)`` of one row, every missing column drawn once more given all others."""
        lacking = missing_columns(x.unsqueeze(0), self.features)[0]
        for place in (place for place, lacks in zip(self._columns, lacking.tolist(), strict=True) if lacks):
            full = self._redrawn(full.unsqueeze(0), place, generator)[0]
        return full

    # -- for the contract ----------------------------------------------------------------------------

    def infer(self, x: Tensor) -> Tensor | None:
        return self.model.infer(x)

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor | None, Tensor]:
        return self.model.draw(n, generator, temperature)

    def describe(self) -> Description:
        return self.model.describe()

    def read(self, x: Tensor) -> Tensor:
        return self.model.read(x)


def _pieces(which: Tensor, size: int) -> list[Tensor]:
    """Indices where it is true, so many at a time."""
    found = which.nonzero().flatten()
    return list(found.split(max(1, size))) if len(found) else []
