"""A rooted tree over features: parents, an order in which parents come first, and levels of equal depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modeflow.errors import ConfigError

__all__ = ["Tree"]


@dataclass(frozen=True)
class Tree:
    """A rooted tree over F features.

    Its *order* lists the features by depth, the root first and those of one parent side by side; a *place* is
    an index into it. Messages run from level to level, and every level is a slice of places.

    Arguments:
        parents: of every feature its parent, -1 for the root.

    Raises:
        ConfigError: where these are no tree.
    """

    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(int(p) for p in self.parents))
        count = len(self.parents)
        if self.parents.count(-1) != 1 or any(not -1 <= p < count for p in self.parents):
            raise ConfigError(
                f"parents must name one root by -1, and of the others features 0..{count - 1}; received "
                f"{list(self.parents)}"
            )
        if len(self.order) != count:
            raise ConfigError(f"parents must make a tree, without circles; received {list(self.parents)}")

    @classmethod
    def star(cls, features: int) -> Tree:
        """The first feature is the parent of all others."""
        return cls((-1, *[0] * (features - 1)))

    @classmethod
    def of_edges(cls, features: int, edges: Sequence[tuple[int, int]]) -> Tree:
        """The tree of these undirected edges, rooted in its centre (fewest levels, and so most at once)."""
        near: list[list[int]] = [[] for _ in range(features)]
        for i, j in edges:
            near[i].append(j)
            near[j].append(i)
        walk = _walk(near, _walk(near, 0)[0][-1])
        # The centre is half way along the longest path.
        path = [walk[0][-1]]
        while walk[1][path[-1]] >= 0:
            path.append(walk[1][path[-1]])
        return cls(tuple(_walk(near, path[len(path) // 2])[1]))

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Features by depth, parents before their children."""
        return tuple(feature for level in self._by_depth for feature in level)

    @cached_property
    def _by_depth(self) -> list[list[int]]:
        children: list[list[int]] = [[] for _ in self.parents]
        for feature, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(feature)
        levels = [[self.parents.index(-1)]]
        while deeper := [child for feature in levels[-1] for child in children[feature]]:
            levels.append(deeper)
        return levels

    @cached_property
    def levels(self) -> tuple[slice, ...]:
        """Places of every depth, the root's first."""
        slices, start = [], 0
        for level in self._by_depth:
            slices.append(slice(start, start + len(level)))
            start += len(level)
        return tuple(slices)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Of every feature its place."""
        places = [0] * len(self.parents)
        for place, feature in enumerate(self.order):
            places[feature] = place
        return tuple(places)

    @cached_property
    def parent_places(self) -> Tensor:
        """Of every place but the root's the place of its parent, shape ``(F - 1,)``."""
        found = [self.places[self.parents[feature]] for feature in self.order[1:]]
        return torch.tensor(found, dtype=torch.long)

    @cached_property
    def families(self) -> tuple[tuple[tuple[int, slice], ...], ...]:
        """Of every level but the last: the places that have children, each with the slice of theirs."""
        above = [self.places[self.parents[feature]] for feature in self.order[1:]]
        found = []
        for level in self.levels[1:]:
            starts = [
                c for c in range(level.start, level.stop) if c == level.start or above[c - 1] != above[c - 2]
            ]
            ends = [*starts[1:], level.stop]
            found.append(tuple((above[a - 1], slice(a, b)) for a, b in zip(starts, ends, strict=True)))
        return tuple(found)

    @cached_property
    def first_children(self) -> Tensor:
        """Of every place the first of its children, ``(F + 1,)``; they end before that of the next place."""
        counts = torch.bincount(self.parent_places, minlength=len(self))
        return torch.cat((counts.new_ones(1), 1 + counts.cumsum(0)))

    @property
    def edges(self) -> list[tuple[int, int]]:
        """``(parent, child)`` of every feature but the root, in the order of the places."""
        return [(self.parents[feature], feature) for feature in self.order[1:]]


def _walk(near: Sequence[Sequence[int]], start: int) -> tuple[list[int], list[int]]:
    """Nodes by distance from one of them, and of every node the one before it (-1 at the start)."""
    before = [-2] * len(near)
    before[start] = -1
    order = [start]
    for node in order:
        for other in near[node]:
            if before[other] == -2:
                before[other] = node
                order.append(other)
    return order, before
