"""The monotone rational-quadratic spline with linear tails."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.accelerate import SplineMap, kernel_takes, native_elementwise

__all__ = ["rational_quadratic_spline", "reference_spline"]


def _bins(raw: Tensor, bound: float, smallest: float) -> tuple[Tensor, Tensor]:
    """Sizes and left edges of the bins that raw scores ``(..., K)`` cut ``[-bound, bound]`` into."""
    n = raw.shape[-1]
    share = smallest + (1 - smallest * n) * torch.softmax(raw, dim=-1)
    right = torch.cumsum(share, dim=-1)
    edges = 2 * bound * F.pad(right[..., :-1], (1, 0)) - bound
    return 2 * bound * share, edges


def rational_quadratic_spline(
    x: Tensor,
    params: Tensor,
    *,
    inverse: bool = False,
    tail_bound: float = 3.0,
    min_bin_width: float = 1e-3,
    min_bin_height: float = 1e-3,
    min_derivative: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    r"""Map each entry through its own monotone rational-quadratic spline.

    In a bin of width w, height h, slope s = h/w and end derivatives d0, d1, with t = (x - x_k)/w,

    .. math::
        u = y_k + h \frac{s t^2 + d_0 t (1-t)}{s + (d_1 + d_0 - 2 s) t (1-t)}

    and the identity outside ``[-tail_bound, tail_bound]``, where the derivative is one. All-zero
    parameters give the identity everywhere.

    Arguments:
        x: entries, shape ``(...)``.
        params: ``(..., 3 K - 1)``: K raw widths, K raw heights, K - 1 raw derivatives at inner knots.
        inverse: map noise to data.
        tail_bound: half-width B of the interval.
        min_bin_width, min_bin_height: smallest share of the interval of a bin.
        min_derivative: smallest derivative at a knot.

    Returns:
        mapped entries and the log-derivative of each, both of shape ``(...)``.

    Reference:
        Durkan et al., *Neural Spline Flows*, 2019, https://arxiv.org/abs/1906.04032
    """
    constants = (tail_bound, min_bin_width, min_bin_height, min_derivative)
    map_ = SplineMap((params.shape[-1] + 1) // 3, *constants)
    if kernel_takes(x, params, map_):
        return native_elementwise(
            x, params, map_, inverse, lambda a, b, back: reference_spline(a, b, back, *constants)
        )
    return reference_spline(x, params, inverse, *constants)


def reference_spline(
    x: Tensor,
    params: Tensor,
    inverse: bool,
    tail_bound: float,
    min_bin_width: float,
    min_bin_height: float,
    min_derivative: float,
) -> tuple[Tensor, Tensor]:
    """`rational_quadratic_spline` in PyTorch: on any device, in any type, differentiable to any order."""
    n_bins = (params.shape[-1] + 1) // 3
    raw_w, raw_h, raw_d = params.split((n_bins, n_bins, n_bins - 1), dim=-1)
    widths, left_x = _bins(raw_w, tail_bound, min_bin_width)
    heights, left_y = _bins(raw_h, tail_bound, min_bin_height)

    inside = (x >= -tail_bound) & (x <= tail_bound)
    # Evaluated everywhere on a safe argument, so that no branch produces NaN in a gradient.
    safe = x.clamp(-tail_bound, tail_bound)
    knots = left_y if inverse else left_x
    index = (safe.unsqueeze(-1) >= knots[..., 1:]).sum(-1, keepdim=True)

    w = widths.gather(-1, index).squeeze(-1)
    h = heights.gather(-1, index).squeeze(-1)
    x0 = left_x.gather(-1, index).squeeze(-1)
    y0 = left_y.gather(-1, index).squeeze(-1)
    # The offset makes a raw zero a derivative of one; the two end knots are such zeros.
    offset = math.log(math.expm1(1 - min_derivative))
    raw_d = F.pad(raw_d, (1, 1))
    d0 = min_derivative + F.softplus(raw_d.gather(-1, index).squeeze(-1) + offset)
    d1 = min_derivative + F.softplus(raw_d.gather(-1, index + 1).squeeze(-1) + offset)
    s = h / w

    if inverse:
        q = (safe - y0).clamp_min(0.0)
        curve = q * (d1 + d0 - 2 * s)
        a = h * (s - d0) + curve
        b = h * d0 - curve
        c = -s * q
        root = (b * b - 4 * a * c).clamp_min(0.0)
        # A zero discriminant would give the square root an infinite slope.
        root = torch.sqrt(torch.where(root > 0, root, torch.ones_like(root))) * (root > 0)
        t = (-2 * c / (b + root)).clamp(0.0, 1.0)
    else:
        t = ((safe - x0) / w).clamp(0.0, 1.0)

    r = 1 - t
    bump = t * r
    denominator = s + (d1 + d0 - 2 * s) * bump
    slope = d1 * t * t + 2 * s * bump + d0 * r * r
    logderivative = 2 * torch.log(s) + torch.log(slope) - 2 * torch.log(denominator)
    if inverse:
        out = x0 + w * t
        logderivative = -logderivative
    else:
        out = y0 + h * (s * t * t + d0 * bump) / denominator

    return torch.where(inside, out, x), torch.where(inside, logderivative, 0.0)
