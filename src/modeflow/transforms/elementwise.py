"""Elementwise maps with parameters from outside: what couplings and autoregressive layers apply.

Each maps every entry on its own, ``u = f(x; params)``, and is monotone increasing in x. They hold no
parameters themselves; a conditioner supplies them, ``n_params`` per entry.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modeflow.accelerate import AdditiveMap, AffineMap, Map, SplineMap
from modeflow.errors import ConfigError
from modeflow.transforms.spline import rational_quadratic_spline

__all__ = ["AdditiveElementwise", "AffineElementwise", "Elementwise", "RQSplineElementwise"]


class Elementwise(nn.Module):
    """Contract: ``forward``/``inverse`` take ``(..., )`` and ``(..., n_params)``, and return
    the mapped values with the logarithm of each entry's derivative, both of shape ``(...)``.
    Zero parameters give the identity.
    """

    n_params: int
    #: False where the inverse is a search.
    one_pass_inverse: bool = True

    def native_description(self) -> Map | None:
        """This map in terms that the native kernels know; None where they do not.

        It counts for the very class that defines it: a subclass is another map until it describes itself.
        """
        return None

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class AdditiveElementwise(Elementwise):
    """``u = x + t`` (NICE); the log-derivative is zero."""

    n_params = 1

    def native_description(self) -> AdditiveMap:
        return AdditiveMap()

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params[..., 0], torch.zeros_like(x)

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return u - params[..., 0], torch.zeros_like(u)


class AffineElementwise(Elementwise):
    r"""``u = x exp(s) + t`` with the log-scale softly clipped to ``|s| < max_log_scale``.

    The clip :math:`s = r / (1 + |r| / m)` has slope one at zero and never saturates to a zero gradient,
    so that one bad batch cannot overflow the exponential.
    """

    n_params = 2

    def __init__(self, max_log_scale: float = math.log(1e3)) -> None:
        super().__init__()
        self.max_log_scale = max_log_scale

    def native_description(self) -> AffineMap:
        return AffineMap(self.max_log_scale)

    def _log_scale(self, raw: Tensor) -> Tensor:
        return raw / (1 + raw.abs() / self.max_log_scale)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        s = self._log_scale(raw)
        return x * torch.exp(s) + shift, s

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        s = self._log_scale(raw)
        return (u - shift) * torch.exp(-s), -s


class RQSplineElementwise(Elementwise):
    """Monotone rational-quadratic spline on ``[-tail_bound, tail_bound]``, the identity outside.

    Warning:
        Entries outside the interval are not transformed: standardise the data.

    Arguments:
        bins: number of bins.
        tail_bound: half-width of the interval.
        min_bin_width, min_bin_height: smallest bin, as a share of the interval.
        min_derivative: smallest slope at a knot.

    Raises:
        ConfigError: if so many bins of the smallest size do not fit, or the interval is empty.
    """

    def __init__(
        self,
        bins: int = 8,
        tail_bound: float = 3.0,
        min_bin_width: float = 1e-3,
        min_bin_height: float = 1e-3,
        min_derivative: float = 1e-3,
    ) -> None:
        super().__init__()
        if bins < 1 or bins * max(min_bin_width, min_bin_height) >= 1:
            raise ConfigError(
                f"bins must be 1 or more, and bins times the smallest share of a bin "
                f"({max(min_bin_width, min_bin_height):g}) less than 1; received {bins} bins"
            )
        if not tail_bound > 0:
            raise ConfigError(f"tail_bound must be positive, received {tail_bound}")
        self.bins = bins
        self.tail_bound = tail_bound
        self.min_bin_width = min_bin_width
        self.min_bin_height = min_bin_height
        self.min_derivative = min_derivative
        self.n_params = 3 * bins - 1

    def native_description(self) -> SplineMap:
        return SplineMap(
            self.bins, self.tail_bound, self.min_bin_width, self.min_bin_height, self.min_derivative
        )

    def _call(self, x: Tensor, params: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        return rational_quadratic_spline(
            x,
            params,
            inverse=inverse,
            tail_bound=self.tail_bound,
            min_bin_width=self.min_bin_width,
            min_bin_height=self.min_bin_height,
            min_derivative=self.min_derivative,
        )

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(x, params, inverse=False)

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return self._call(u, params, inverse=True)
