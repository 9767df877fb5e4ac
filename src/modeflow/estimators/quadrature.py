r"""Integrals of densities over one number of a row, by the trapezoid rule on nodes that go where the mass is.

Nodes begin far apart and close together about zero, where standardised columns lie, and about a value that is
likely to carry mass. Then the intervals that may hold most are halved, all rows at once, a few times: a peak
far narrower than the first intervals is found by the logarithm of its slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["log_integral"]

#: Nodes of the first grid, how far it reaches (of the line ``sinh`` times a half), those about a value;
#: intervals halved in a round, and rounds.
_NODES, _REACH = 96, 5.0
_ABOUT = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3)
_HALVED, _ROUNDS = 40, 4


def log_integral(log_f: Callable[[Tensor], Tensor], near: Tensor, circular: bool = False) -> Tensor:
    r"""``log ∫ f(t) dt`` over the line, or over the circle ``[-π, π)``, of every row.

    Arguments:
        log_f: logarithms of f at nodes ``(B, G)``, in which every row has its own, of the same shape.
        near: a value of each row about which f may have mass, ``(B,)``.
        circular: whether t is an angle.

    Returns:
        ``(B,)``; minus infinity where f is zero at all nodes.
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
    for _ in range(_ROUNDS):
        # What an interval may hold, at the most if f goes from one end to the other.
        most = nodes.diff(dim=1).log() + torch.maximum(values[:, :-1], values[:, 1:])
        left = most.topk(_HALVED, dim=1).indices
        middle = (nodes.gather(1, left) + nodes.gather(1, left + 1)) / 2
        nodes, order = torch.cat([nodes, middle], 1).sort(1)
        values = torch.cat([values, log_f(middle)], 1).gather(1, order)
    sides = torch.logaddexp(values[:, :-1], values[:, 1:]) - math.log(2)
    return (nodes.diff(dim=1).log() + sides).logsumexp(1)
