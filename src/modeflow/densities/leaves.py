r"""Leaf densities: every feature of a row given a state of its own, for all states at once.

.. math:: \ell_{f}(k) = \log p(x_f \mid z_f = k), \qquad k = 1 \dots K

A feature is real (a Gaussian a state), circular (a wrapped Gaussian), a code (a probability a level), or lies
in cells (the mass of a Gaussian between the edges of the cell). A cell of a row that is NaN is summed or
integrated out, exactly: its leaf is log 1 = 0 in every state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeflow.densities.features import Feature, check_flags, hide_absent, missing, with_flags
from modeflow.densities.leaf_kinds import CategoricalLeaves, CellLeaves, CircularLeaves, GaussianLeaves, Leaf
from modeflow.errors import ConfigError, ShapeError
from modeflow.nets.tracing import tracing
from modeflow.options import check_sizes

__all__ = ["Leaves"]

_KINDS: dict[str, type[Leaf]] = {
    "real": GaussianLeaves,
    "circular": CircularLeaves,
    "code": CategoricalLeaves,
    "cells": CellLeaves,
}


class Leaves(nn.Module):
    """The leaf densities of all features, those of a kind side by side.

    Arguments:
        features: what they are.
        n_states: K, of each.
        min_scale: smallest scale of a Gaussian, in the units of the rows. Without one its likelihood has no
            maximum: it grows without bound where a mean meets a row.

    Raises:
        ConfigError: no features, a flag that is no code, or a `min_scale` that is not positive.
    """

    def __init__(self, features: Sequence[Feature], n_states: int, min_scale: float = 0.005) -> None:
        super().__init__()
        check_sizes(n_states=n_states)
        self.features, self.n_states = tuple(features), int(n_states)
        if not self.features:
            raise ConfigError("leaves need at least one feature")
        if not min_scale > 0:
            raise ConfigError(f"min_scale must be above 0, received {min_scale!r}")
        check_flags(self.features)
        self.columns: list[list[int]] = []
        self.kinds = nn.ModuleList()
        for kind, leaf in _KINDS.items():
            columns = [i for i, feature in enumerate(self.features) if feature.kind == kind]
            if columns:
                self.columns.append(columns)
                self.kinds.append(leaf([self.features[i] for i in columns], self.n_states, min_scale))
        self._arranged: tuple[tuple[int, ...], list[list[int]], list[int] | None] | None = None

    @property
    def _leaves(self) -> Sequence[Leaf]:
        return self.kinds  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.features)

    def log_probs(self, x: Tensor) -> Tensor:
        """``log p(x_f | z_f = k)``, nats, shape ``(B, F, K)``; zero where x is NaN.

        Arguments:
            x: rows, ``(B, F)``.

        Raises:
            ShapeError: rows of another width. DataError: a code that is no whole number of its levels.
        """
        return self.in_order(x, tuple(range(len(self)))).transpose(0, 1)

    def in_order(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """`log_probs` with the features first and in this order, ``(F, B, K)``, contiguous."""
        if x.dim() != 2 or x.shape[1] != len(self):
            raise ShapeError(f"leaves expect x of shape (B, {len(self)}), received {tuple(x.shape)}")
        which, back = self._arrange(order)
        parts = []
        for leaf, columns, some in zip(self._leaves, self.columns, which, strict=True):
            values = x[:, [columns[i] for i in some]].mT
            missing = torch.isnan(values)
            if tracing() or bool(missing.any()):
                found = leaf.log_probs(torch.where(missing, leaf.safe, values), some)
                parts.append(found.masked_fill(missing.unsqueeze(-1), 0.0))
            else:
                parts.append(leaf.log_probs(values.contiguous(), some))
        return parts[0] if back is None else torch.cat(parts)[back]

    def _arrange(self, order: tuple[int, ...]) -> tuple[list[list[int]], list[int] | None]:
        """Of each kind its features in this order, and where each is to go once the kinds are joined."""
        if self._arranged is None or self._arranged[0] != order:
            place = {feature: i for i, feature in enumerate(order)}
            which, joined = [], []
            for columns in self.columns:
                placed = sorted((place[column], i) for i, column in enumerate(columns))
                which.append([i for _, i in placed])
                joined += [at for at, _ in placed]
            back = sorted(range(len(joined)), key=joined.__getitem__) if len(which) > 1 else None
            self._arranged = order, which, back
        return self._arranged[1:]

    def sample(self, states: Tensor, u: Tensor, temperature: float = 1.0) -> Tensor:
        """Draw rows given the states of their features, by inverse distribution functions.

        Arguments:
            states: ``(B, F)``, whole numbers. u: uniform numbers strictly between 0 and 1, ``(B, F)``.
            temperature: scales are multiplied by it, probabilities of levels raised to its inverse; at 0 the
                mean, or the likeliest level.

        Returns:
            ``(B, F)``, a value also where a flag says that there is none (`hide_absent`).
        """
        out = states.new_zeros(states.shape, dtype=self._leaves[0].dtype)
        for leaf, columns in zip(self._leaves, self.columns, strict=True):
            out[:, columns] = leaf.sample(states[:, columns].mT, u[:, columns].mT, temperature).mT
        return out

    def hide_absent(self, x: Tensor) -> Tensor:
        """The rows with NaN where a flag is known and says that there is no value."""
        return hide_absent(x, self.features)

    def missing(self, x: Tensor) -> Tensor:
        """Where nobody knows the value, or whether there is one, ``(B, F)``."""
        return missing(x, self.features)

    def with_flags(self, x: Tensor) -> Tensor:
        """The rows with flags that are missing set to 0 where the value is there that they are of."""
        return with_flags(x, self.features)

    @torch.no_grad()
    def start(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Start the states of every feature about its values: wide parts of them, or its levels with noise.

        Arguments:
            x: rows, ``(N, F)``; NaN is left out. generator: of the noise.
        """
        for leaf, columns in zip(self._leaves, self.columns, strict=True):
            leaf.start(x[:, columns], generator)
