"""What the numbers of a row are in the model's space: reals, angles, codes, values in cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from modeflow.errors import ConfigError
from modeflow.options import check_sizes

__all__ = ["Feature", "absent", "as_features", "check_flags", "hide_absent", "missing", "with_flags"]


@dataclass(frozen=True)
class Feature:
    r"""One number of a row, real by default. NaN says that there is none: unknown, or (`flag`) not existing.

    Arguments:
        levels: L of a code, whose values are the whole numbers 0..L-1, held as floats; 0 where it is none.
        circular: an angle in :math:`[-\pi, \pi)`.
        cells: increasing edges between the cells of a value on a lattice; the first cell has no lower end,
            the last no upper. What counts is the cell that a value lies in, and its likelihood is a
            probability.
        flag: index of the code that says whether there is a value: 0 says there is, any other level that
            there is none (an atom of the column takes its place); where the flag is NaN nobody knows.

    Raises:
        ConfigError: levels that are no number of them, edges that do not increase, or more than one kind.
    """

    levels: int = 0
    circular: bool = False
    cells: tuple[float, ...] = ()
    flag: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.levels, Integral) and not isinstance(self.levels, bool)
        if not whole or self.levels < 0:
            raise ConfigError(f"levels must be an integer of 1 or more, 0 for none; received {self.levels!r}")
        if bool(self.levels) + bool(self.circular) + bool(self.cells) > 1:
            raise ConfigError(f"a feature is a code, circular, or in cells, not several; received {self}")
        edges = [-math.inf, *self.cells, math.inf]
        if any(not a < b for a, b in itertools.pairwise(edges)):
            raise ConfigError("cells must be finite edges that increase")

    @property
    def kind(self) -> str:
        """``"real"``, ``"circular"``, ``"code"`` or ``"cells"``."""
        if self.levels:
            return "code"
        if self.circular:
            return "circular"
        return "cells" if self.cells else "real"


def as_features(features: int | Sequence[Feature]) -> tuple[Feature, ...]:
    """So many reals, or the features given.

    Raises:
        ConfigError: for a number that is no positive integer, or a list of something else.
    """
    if isinstance(features, Sequence) and not isinstance(features, str):
        if not all(isinstance(feature, Feature) for feature in features):
            raise ConfigError(
                "features must be a number of them, a list of what each is (Feature), or, of images, "
                f"(channels, height, width); received {features!r}"
            )
        return tuple(features)
    check_sizes(features=features)
    return (Feature(),) * int(features)


def check_flags(features: Sequence[Feature]) -> None:
    """Raise `ConfigError` for a flag that is no code among the features."""
    for i, feature in enumerate(features):
        flag = feature.flag
        if flag is not None and not (0 <= flag < len(features) and features[flag].kind == "code"):
            raise ConfigError(f"feature {i}: flag={flag} must be the index of a feature that is a code")


def absent(x: Tensor, features: Sequence[Feature]) -> Tensor:
    """Where in rows ``(B, F)`` a flag is known and says that there is no value, ``(B, F)``."""
    flagged = [(i, feature.flag) for i, feature in enumerate(features) if feature.flag is not None]
    found = torch.zeros_like(x, dtype=torch.bool)
    if flagged:
        flags = x[:, [flag for _, flag in flagged]]
        found[:, [i for i, _ in flagged]] = (flags != 0) & ~torch.isnan(flags)
    return found


def missing(x: Tensor, features: Sequence[Feature]) -> Tensor:
    """Where in rows ``(B, F)`` nobody knows the value, or whether there is one, ``(B, F)``."""
    return torch.isnan(x) & ~absent(x, features)


def hide_absent(x: Tensor, features: Sequence[Feature]) -> Tensor:
    """Rows ``(B, F)`` with NaN where a flag is known and says that there is no value."""
    if all(feature.flag is None for feature in features):
        return x
    return x.masked_fill(absent(x, features), torch.nan)


def with_flags(x: Tensor, features: Sequence[Feature]) -> Tensor:
    """Rows ``(B, F)`` with flags that are missing set to 0 where the value is there that they are of."""
    for i, feature in enumerate(features):
        if (flag := feature.flag) is None:
            continue
        known = x[:, flag].isnan() & ~x[:, i].isnan()
        if bool(known.any()):
            x = x.clone()
            x[known, flag] = 0.0
    return x
