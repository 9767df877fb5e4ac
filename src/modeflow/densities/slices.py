r"""Densities of rows along one column, the others held: levels, a number, or a number with atoms.

.. math:: p(x_j \mid x_{-j}) = \frac{p(x_j, x_{-j})}{\int p(t, x_{-j})\, dt}

A sum over the levels of a column, or an integral over its numbers by quadrature
(`modeflow.densities.quadrature`): about 270 densities for a row, right to a few thousandths of a nat. All
that is asked of the density is its value, so that these conditionals are those of any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeflow.densities.features import Feature
from modeflow.densities.quadrature import Curve, curve_of

__all__ = ["Slice", "columns_of", "missing_columns", "slice_of"]


@dataclass(frozen=True)
class Slice:
    """A density of rows as a function of one column.

    Attributes:
        place: of the column. log_weights: of its levels, or atoms, ``(B, L)``; L is 0 where there are none.
        curve: of its numbers; None for levels. flag: place of the code that says which atom it is, or none.
    """

    place: int
    log_weights: Tensor
    curve: Curve | None = None
    flag: int | None = None

    @property
    def _parts(self) -> Tensor:
        """Logarithms of what the numbers hold together, and the levels, ``(B, 1 + L)`` or ``(B, L)``."""
        if self.curve is None:
            return self.log_weights
        return torch.cat([self.curve.log_integral().unsqueeze(1), self.log_weights], 1)

    def log_total(self) -> Tensor:
        """The logarithm of the integral over the column, ``(B,)``: the density of the others."""
        return self._parts.logsumexp(1)

    def draw(self, rows: Tensor, levels: Tensor) -> Tensor:
        """Rows with the column drawn given the others, by its distribution function.

        Arguments:
            rows: ``(n, B, F)``, whose own cells in the column are not looked at.
            levels: uniform numbers, ``(n, B)``.

        Returns:
            ``(n, B, F)``; NaN in the column where the density is zero whatever it is.
        """
        rows, u = rows.clone(), levels.T.double().contiguous()
        edges = self._parts.double().softmax(1).cumsum(1)
        which = torch.searchsorted(edges, u * edges[:, -1:]).clamp_max(edges.shape[1] - 1)
        if self.curve is None:
            drawn = torch.where(edges[:, -1:] > 0, which.double(), torch.nan)
        else:
            # What is left of the uniform number, once it has said that it is a number.
            inside = (u / edges[:, :1].clamp_min(1e-300)).clamp(0, 1)
            drawn = self.curve.quantiles(torch.where(which == 0, inside, 0.5)).double()
            drawn = torch.where(which == 0, drawn, torch.nan)
        rows[:, :, self.place] = drawn.T.to(rows)
        if self.flag is not None:
            rows[:, :, self.flag] = which.T.to(rows)
        return rows


def slice_of(
    log_prob: Callable[[Tensor], Tensor], rows: Tensor, column: int, features: Sequence[Feature], near: Tensor
) -> Slice:
    """A density along one column.

    Arguments:
        log_prob: of rows ``(N, F)``, nats, ``(N,)``. rows: ``(B, F)``. column: its place; what the rows have
            there, and in its flag, is not looked at. features: what the columns are.
        near: a value of each row about which the density may have mass, ``(B,)``; NaN for none.
    """
    feature = features[column]

    def at(values: Tensor, flag: float | None = None) -> Tensor:
        """Log-densities with these values of the column, ``(B, G)``."""
        many = rows.repeat_interleave(values.shape[1], 0)
        many[:, column] = values.flatten()
        if flag is not None and feature.flag is not None:
            many[:, feature.flag] = flag
        return log_prob(many).view(values.shape)

    if feature.levels:
        levels = torch.arange(feature.levels, dtype=rows.dtype, device=rows.device)
        return Slice(column, at(levels.expand(len(rows), -1)))
    near = torch.where(near.isnan(), 0.0, near)
    curve = curve_of(lambda nodes: at(nodes, 0.0), near, feature.circular)
    atoms = 0 if feature.flag is None else features[feature.flag].levels - 1
    absent = rows.new_full((len(rows), 1), torch.nan)
    found = [at(absent, float(atom)) for atom in range(1, atoms + 1)]
    weights = torch.cat(found, 1) if found else rows.new_zeros(len(rows), 0)
    return Slice(column, weights, curve, feature.flag)


def columns_of(features: Sequence[Feature]) -> list[int]:
    """Places of the columns: of all features but the flags of others."""
    flags = {feature.flag for feature in features}
    return [place for place in range(len(features)) if place not in flags]


def missing_columns(x: Tensor, features: Sequence[Feature]) -> Tensor:
    """Which columns of rows ``(B, F)`` are not known, ``(B, C)``: neither a value nor that there is none."""
    places = columns_of(features)
    unknown = x[:, places].isnan()
    for i, place in enumerate(places):
        if (flag := features[place].flag) is not None:
            unknown[:, i] &= x[:, flag].isnan() | (x[:, flag] == 0)
    return unknown
