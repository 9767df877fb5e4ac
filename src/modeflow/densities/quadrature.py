r"""Integrals of densities over one number of a row, and draws of it, by the trapezoid rule on nodes that go
where the mass is.

Nodes begin far apart and close together about zero, where standardised columns lie, and about a value that is
likely to carry mass. Then the intervals that may hold most are halved, all rows at once, a few times, and on
while their ends say that a peak is coarse: one far narrower than the first intervals is found by the
logarithm of its slopes. (One that is a thousandth as wide as the column, and far from the value, may be
missed.) Between nodes the function is taken for a line, of which integrals are trapezoids and the
distribution function a piece of a parabola:

.. math:: \int_{t_i}^{t_i + s h} f = h \left(s f_i + \tfrac12 s^2 (f_{i+1} - f_i)\right), \qquad s \in [0, 1]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Curve", "curve_of", "log_integral"]

#: Nodes of the first grid, how far it reaches (of the line ``sinh`` times a half), those about a value;
#: intervals halved in a round, and rounds; rounds at the most, and the share of the integral that intervals
#: may differ by from what their ends alone say.
_NODES, _REACH = 96, 5.0
_ABOUT = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
_HALVED, _ROUNDS = 40, 4
_MOST, _COARSE = 14, 0.1


class Curve(NamedTuple):
    """A function of one number for every row, linear between nodes and zero beyond them.

    Attributes:
        nodes: increasing, ``(B, G)``. log_f: its logarithms there, ``(B, G)``.
    """

    nodes: Tensor
    log_f: Tensor

    @property
    def log_masses(self) -> Tensor:
        """Logarithms of its integrals between the nodes, ``(B, G - 1)``."""
        sides = torch.logaddexp(self.log_f[:, :-1], self.log_f[:, 1:]) - math.log(2)
        return self.nodes.diff(dim=1).log() + sides

    def log_integral(self) -> Tensor:
        """``log ∫ f(t) dt``, ``(B,)``; minus infinity where f is zero at all nodes."""
        return self.log_masses.logsumexp(1)

    def quantiles(self, levels: Tensor) -> Tensor:
        """Where the distribution function of the density that f is a multiple of reaches levels between 0
        and 1, ``(B, n)`` both; NaN where f is zero at all nodes."""
        masses = self.log_masses.double()
        edges = masses.softmax(1).cumsum(1)
        wanted = (levels.double() * edges[:, -1:]).contiguous()
        found = torch.searchsorted(edges, wanted).clamp_max(edges.shape[1] - 1)
        # An interval without mass is never gone into, nor is the rounding of the sum before one gone beyond.
        before = torch.where(found > 0, edges.gather(1, (found - 1).clamp_min(0)), 0.0)
        share = ((wanted - before) / (edges.gather(1, found) - before).clamp_min(1e-300)).clamp(0, 1)
        ends = self.log_f.double()
        a, b = ends.gather(1, found), ends.gather(1, found + 1)
        top = torch.maximum(a, b)
        a, b = (a - top).exp(), (b - top).exp()
        # The root of s a + s²(b - a)/2 = share (a + b)/2 that is right where a is b.
        mass = share * (a + b) / 2
        s = 2 * mass / (a + (a.square() + 2 * (b - a) * mass).clamp_min(0).sqrt()).clamp_min(1e-300)
        left, right = (self.nodes.double().gather(1, at) for at in (found, found + 1))
        value = left + s.clamp(0, 1) * (right - left)
        return torch.where(edges[:, -1:] > 0, value, torch.nan).to(self.nodes.dtype)


def curve_of(log_f: Callable[[Tensor], Tensor], near: Tensor, circular: bool = False) -> Curve:
    """A function of one number for every row, at nodes where its mass is.

    Arguments:
        log_f: logarithms of f at nodes ``(B, G)``, in which every row has its own, of the same shape.
        near: a value of each row about which f may have mass, ``(B,)``.
        circular: whether t is an angle, of ``[-π, π)``; else it is any number.
    """
    if circular:
        grid = torch.linspace(-math.pi, math.pi, _NODES, dtype=near.dtype, device=near.device)
    else:
        grid = torch.linspace(-_REACH, _REACH, _NODES, dtype=near.dtype, device=near.device).sinh() / 2
    about = near.new_tensor([*_ABOUT, *(-a for a in _ABOUT)])
    own = near.unsqueeze(1) + about
    if circular:
        own = own.clamp(-math.pi, math.pi)
    nodes = torch.cat([grid.expand(len(near), -1), own], 1).sort(1).values
    values = log_f(nodes)
    for number in range(_MOST):
        if number >= _ROUNDS and not _coarse(nodes, values):
            break
        # What an interval may hold, at the most if f goes from one end to the other.
        most = nodes.diff(dim=1).log() + torch.maximum(values[:, :-1], values[:, 1:])
        left = most.topk(_HALVED, dim=1).indices
        middle = (nodes.gather(1, left) + nodes.gather(1, left + 1)) / 2
        nodes, order = torch.cat([nodes, middle], 1).sort(1)
        values = torch.cat([values, log_f(middle)], 1).gather(1, order)
    return Curve(nodes, values)


def _coarse(nodes: Tensor, values: Tensor) -> bool:
    """Whether the trapezoids of a row may be far from its function, which lies between their ends."""
    peak = values.amax(1, keepdim=True)
    f, width = (values - torch.where(peak.isfinite(), peak, 0.0)).exp(), nodes.diff(dim=1)
    off = (width * f.diff(dim=1).abs()).sum(1)
    return bool((off > _COARSE * (width * (f[:, 1:] + f[:, :-1])).sum(1)).any())


def log_integral(log_f: Callable[[Tensor], Tensor], near: Tensor, circular: bool = False) -> Tensor:
    r"""``log ∫ f(t) dt`` over the line, or over the circle ``[-π, π)``, of every row, ``(B,)``; arguments as
    of `curve_of`."""
    return curve_of(log_f, near, circular).log_integral()
