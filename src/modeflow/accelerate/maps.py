"""The elementwise maps that the kernels know, by the names of their settings.

What an elementwise map returns from its `native_description`. The arithmetic is in ``native/maps.h``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from modeflow.native import kernels

__all__ = ["AdditiveMap", "AffineMap", "LogisticMixtureMap", "Map", "SplineMap"]


class Map(ABC):
    """An elementwise map with parameters from outside."""

    @property
    @abstractmethod
    def n_params(self) -> int:
        """Parameters of each entry, as the kernels read them."""

    @abstractmethod
    def native(self) -> Any:
        """The kernels' own struct of it (`MapFields` in ``native/fields.h``)."""


@dataclass(frozen=True)
class SplineMap(Map):
    """The monotone rational-quadratic spline, on ``[-tail_bound, tail_bound]``."""

    bins: int
    tail_bound: float
    min_bin_width: float
    min_bin_height: float
    min_derivative: float

    @property
    def n_params(self) -> int:
        return 3 * self.bins - 1

    def native(self) -> Any:
        return kernels.Map.spline(
            bins=self.bins,
            tail_bound=self.tail_bound,
            min_bin_width=self.min_bin_width,
            min_bin_height=self.min_bin_height,
            min_derivative=self.min_derivative,
        )


@dataclass(frozen=True)
class AffineMap(Map):
    """A shift, and a log-scale with a soft bound."""

    max_log_scale: float
    n_params = 2

    def native(self) -> Any:
        return kernels.Map.affine(max_log_scale=self.max_log_scale)


@dataclass(frozen=True)
class AdditiveMap(Map):
    """A shift."""

    n_params = 1

    def native(self) -> Any:
        return kernels.Map.additive()


@dataclass(frozen=True)
class LogisticMixtureMap(Map):
    """The distribution function of a mixture of logistics, a logit, and an affine map."""

    components: int
    max_log_scale: float
    max_log_slope: float

    @property
    def n_params(self) -> int:
        return 3 * self.components + 2

    def native(self) -> Any:
        return kernels.Map.mixture(
            components=self.components, max_log_scale=self.max_log_scale, max_log_slope=self.max_log_slope
        )
