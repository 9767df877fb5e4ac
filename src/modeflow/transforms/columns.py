r"""From the columns of a table to the units of a model: bounds opened, robust scale, tails drawn in.

Column by column, with log-determinants, in float64:

0. **Heaps.** Cells of a lattice on which rows heap up are widened, see `modeflow.transforms.heaped`.
1. **Bounds.** A column with a bound at a is mapped to the whole line by the inverse softplus
   :math:`v = t + \log(1 - e^{-t})`, :math:`t = (x - a) / c`: near the bound a logarithm, far from it the
   identity, with c from one to the other (the limit of large c is the logarithm itself, for lognormal
   columns). Bounds on both sides give :math:`v = \log \frac{x - a}{b - x}`. From a sliver before the bound,
   where no row is or a thousandth of a lattice's cell, the map goes on as a straight line, past the bound: a
   row beyond it has a small density and not none, so that one odd value does not turn a mean score into
   minus infinity. Samples take the curve to its end and so never leave the bounds; the mass that a flow puts
   beyond them is less than that of the sliver, a wide t beside it half a hundredth of its own weight.
2. **Scale.** Mean and standard deviation. Where the farthest hundredth of the rows carries more than three
   quarters of the variance (one row of 10^6 among a thousand of order one), those of the other rows: islands
   of more rows than that stay within the scale whatever lies between them.
3. **Tails.** Beyond 8 standard units :math:`u = \pm(8 + \log(|v| - 7))`, for far rows: to a flow with
   Gaussian tails the square of 10^6 would outweigh all other rows together.

Cells that are missing (NaN) stay so, count for nothing in the scale of their column, and add nothing to the
log-determinant of their row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modeflow.nets.tracing import tracing
from modeflow.transforms.affine import Standardize, moments
from modeflow.transforms.base import Transform
from modeflow.transforms.heaped import Heaps, find_heaps

__all__ = ["Columns", "lost_digits", "tails_drawn_in", "tails_let_out"]

#: Standard units beyond which tails are drawn in.
_TAIL = 8.0
#: Share of the rows that may be left out of the scale, and the share of the variance they must carry.
_FAR, _CARRIED = 0.01, 0.75
#: Rows needed for that.
_FAR_ROWS = 20
#: A sliver at a bound: this share of a lattice's step, or of the distance of the nearest row.
_SLIVER_STEP, _SLIVER = 1e-3, 0.125
#: Nats that a bound at zero has to gain (of a Gaussian fitted to the column), or the density at zero next to
#: that further in, for it to be put there; rows needed for the second.
_GAIN, _EDGE, _EDGE_ROWS = 0.07, 0.4, 200
#: Rows by which the map of a column is chosen.
_ROWS = 10_000
#: Softness of a bound, in standard deviations of the column: from hardly to the logarithm.
_SOFTNESS = [2.0**k for k in range(-6, 22, 2)]


class Columns(Standardize):
    """Bounds opened, robust scale, tails drawn in, see the module.

    Arguments:
        features: D.
    """

    settled = True

    low: Tensor
    high: Tensor
    soft: Tensor
    sliver: Tensor
    tail: Tensor

    def __init__(self, features: int) -> None:
        super().__init__(features)
        full = {"low": -torch.inf, "high": torch.inf, "soft": 1.0, "sliver": 1.0}
        for name, value in full.items():
            self.register_buffer(name, torch.full((features,), value, dtype=torch.float64))
        self.register_buffer("tail", torch.tensor(_TAIL, dtype=torch.float64))
        self.heaps = Heaps(features)
        self._bounded = False

    def fit(
        self,
        x: Tensor,
        weight: Tensor | None = None,
        steps: Tensor | None = None,
        edges: tuple[Tensor, Tensor] | None = None,
        offsets: Tensor | None = None,
    ) -> Columns:
        """Set bounds and scale by the rows ``x (N, D)`` (dequantised), optionally weighted by ``(N,)``.

        Arguments:
            steps: of the columns on lattices, 0 for continuous ones, ``(D,)``.
            edges: bounds that are known, infinite where there are none, ``(D,)`` each. Without edges no
                column has a bound; with them a column that is all above (or below) zero may also have one at
                zero, if that is what its rows look like.

            offsets: a value of each lattice, ``(D,)``; with them cells on which rows heap up are widened, see
                `modeflow.transforms.heaped`.

        Raises:
            DataError: if a column is constant (its density is infinite).
        """
        x = x.to(torch.float64)
        steps = torch.zeros(x.shape[1], dtype=x.dtype) if steps is None else steps
        if offsets is not None and len(x):
            self.heaps.set(
                [
                    find_heaps(column[column == column], *lattice)
                    for column, *lattice in zip(x.T, steps.tolist(), offsets.tolist(), strict=True)
                ]
            )
        if edges is not None and len(x):
            half = steps.to(x.dtype) / 2
            low, high, below, above = self.heaps(torch.stack([*edges, -half, half]).to(x.dtype))[0]
            self._choose_bounds(self.heaps(x)[0], steps, (low, high), (below, above))
        super().fit(x, weight)
        return self

    def _moments(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        there = x == x
        v = self._open(torch.where(there, x, self._filler(x)))[0]
        w = w.unsqueeze(-1).expand_as(v)
        if not there.all():
            w = torch.where(there, w, 0.0)
            w = w / w.sum(0)
        mean, scale = moments(v, w)
        if len(v) < _FAR_ROWS:
            return mean, scale
        near = w * _near(v, w)
        middle, robust = moments(v, near / near.sum(0))
        # The variance left is a quarter or less of what it was.
        tamed = (robust > 0) & (robust < (1 - _CARRIED) ** 0.5 * scale)
        return torch.where(tamed, middle, mean), torch.where(tamed, robust, scale)

    def _choose_bounds(
        self, x: Tensor, steps: Tensor, edges: tuple[Tensor, Tensor], zeros: tuple[Tensor, Tensor]
    ) -> None:
        """Set bounds and softness; `zeros` are those that columns all above or below zero would have."""
        rows = x[:: -(-len(x) // _ROWS)]
        low, high = (edge.clone().to(torch.float64) for edge in edges)
        for j in range(x.shape[1]):
            column, step = rows[:, j], float(steps[j])
            column = column[column == column]
            known = x[:, j][x[:, j] == x[:, j]]
            least, most = float(known.min()), float(known.max())
            if not least < most:
                continue
            below, above = float(zeros[0][j]), float(zeros[1][j])
            if low[j].isinf() and least >= below and (step or least > below):
                low[j] = below if _bounded_at(column, below) else low[j]
            elif high[j].isinf() and most <= above and (step or most < above):
                high[j] = above if _bounded_at(-column, -above) else high[j]
            # Rows that lie at a bound do not count: the map is straight there.
            distance = torch.cat([known - low[j], high[j] - known])
            nearest = float(distance[distance > 0].min())
            self.sliver[j] = max(step * _SLIVER_STEP, nearest * _SLIVER)
            if low[j].isinf() and high[j].isinf():
                self.sliver[j] = 1.0
            elif high[j].isinf():
                self.soft[j] = _softness(column, float(low[j]))[0]
            elif low[j].isinf():
                self.soft[j] = _softness(-column, -float(high[j]))[0]
        self.low.copy_(low)
        self.high.copy_(high)
        self._bounded = bool((low.isfinite() | high.isfinite()).any())

    # -- the maps

    def _sides(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which columns have one bound, which have two, and the bound and direction of the one."""
        both = self.low.isfinite() & self.high.isfinite()
        one = (self.low.isfinite() | self.high.isfinite()) & ~both
        bound = torch.where(self.low.isfinite(), self.low, self.high)
        sign = torch.where(self.low.isfinite(), 1.0, -1.0).to(bound)
        zero = torch.zeros_like(bound)
        return one, both, torch.where(one, bound, zero), torch.where(one, sign, 1.0)

    def _wide(self, both: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low and high of columns with two bounds, 0 and 1 elsewhere; the sliver as a share between them."""
        low = torch.where(both, self.low, 0.0)
        high = torch.where(both, self.high, 1.0)
        return low, high, torch.where(both, self.sliver / (high - low), 0.25)

    def _open(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Bounded columns to the whole line: v and the log-derivative of each entry."""
        x, slope = self.heaps(x)
        if not self._bounded:
            return x, slope
        one, both, bound, sign = self._sides()
        # One bound: t + log(1 - e^-t), below the sliver its tangent.
        t = torch.where(one, sign * (x - bound) / self.soft, 1.0)
        edge = torch.where(one, self.sliver / self.soft, 1.0)
        inside = torch.maximum(t, edge)
        log_rest = torch.log(-torch.expm1(-inside))
        v_one = sign * (inside + log_rest + (t - inside) / -torch.expm1(-edge))
        v = torch.where(one, v_one, x)
        logabsdet = torch.where(one, -log_rest - self.soft.log(), 0.0)
        # Two: log w - log(1 - w), outside the slivers its tangents.
        low, high, share = self._wide(both)
        width = high - low
        w = torch.where(both, (x - low) / width, 0.5)
        rest = torch.where(both, (high - x) / width, 0.5)
        within, other = (torch.minimum(torch.maximum(p, share), 1 - share) for p in (w, rest))
        v_both = within.log() - other.log() + (w - within) / (share * (1 - share))
        v = torch.where(both, v_both, v)
        logabsdet = torch.where(both, -within.log() - other.log() - width.log(), logabsdet)
        return v, slope + logabsdet

    def _close(self, v: Tensor, straight: bool) -> Tensor:
        """The inverse of `_open`; without straight ends it never leaves the bounds."""
        return self.heaps.inverse(self._inside(v, straight))

    def _inside(self, v: Tensor, straight: bool) -> Tensor:
        if not self._bounded:
            return v
        one, both, bound, sign = self._sides()
        w = torch.where(one, sign * v, 0.0)
        t = torch.logaddexp(w, torch.zeros_like(w))
        if straight:
            edge = torch.where(one, self.sliver / self.soft, 1.0)
            rest = -torch.expm1(-edge)
            v_edge = edge + rest.log()
            t = torch.where(w < v_edge, edge + (w - v_edge) * rest, t)
        else:
            t = t.clamp_min(1e-300)
        x = torch.where(one, bound + sign * self.soft * t, v)
        low, high, share = self._wide(both)
        y = torch.where(both, v, 0.0)
        half = torch.where(y < 0, low, high)
        # From the nearer bound, so that what lies close to it keeps its digits.
        inside = half + torch.where(y < 0, 1.0, -1.0) * (high - low) * torch.sigmoid(-y.abs())
        if straight:
            v_edge = (share / (1 - share)).log().abs()
            over = (y.abs() - v_edge).clamp_min(0)
            beyond = half + torch.sign(y) * (high - low) * (over * share * (1 - share) - share)
            inside = torch.where(over > 0, beyond, inside)
        return torch.where(both, inside, x)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, logabsdet = self.entries(x)
        return u, logabsdet.sum(-1)

    def entries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The units of the model and the log-derivative of each entry, ``(N, D)`` both; 0 where it is NaN."""
        there = x == x
        if not tracing() and there.all():
            return self._entries(x)
        u, slope = self._entries(torch.where(there, x, self._filler(x)))
        return torch.where(there, u, torch.nan), torch.where(there, slope, 0.0)

    def _filler(self, x: Tensor) -> Tensor:
        """A value within the bounds of each column, in the place of what is missing."""
        middle = torch.where(self.low.isfinite() & self.high.isfinite(), (self.low + self.high) / 2, 0.0)
        middle = torch.where(self.low.isfinite() & self.high.isinf(), self.low + self.soft, middle)
        return torch.where(self.low.isinf() & self.high.isfinite(), self.high - self.soft, middle).expand_as(
            x
        )

    def _entries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        v, logabsdet = self._open(x)
        u, slope = tails_drawn_in((v - self.mean) / self.scale, self.tail)
        return u, logabsdet + slope - self.scale.log()

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self._close(self._stretch(u), straight=True)
        return x, -self(x)[1]

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """The units of the data; never beyond a bound, see the module."""
        return self._close(self._stretch(u), straight=False)

    def _stretch(self, u: Tensor) -> Tensor:
        return tails_let_out(u, self.tail)[0] * self.scale + self.mean

    # -- files

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("knots", "places"):
            state_dict.setdefault(f"{prefix}heaps.{name}", torch.zeros(len(self.low), 0, dtype=torch.float64))
        if prefix + "tail" not in state_dict:  # the first format of model files: affine alone
            for name in ("low", "high", "soft", "sliver"):
                state_dict[prefix + name] = getattr(Columns(len(self.low)), name)
            state_dict[prefix + "tail"] = torch.tensor(torch.inf, dtype=torch.float64)
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._bounded = bool((self.low.isfinite() | self.high.isfinite()).any())


def tails_drawn_in(v: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Standard units whose far tails are logarithms, and the log-derivative of every entry."""
    far = (v.abs() - tail).clamp_min(0)
    drawn = torch.log1p(far)
    return torch.where(far > 0, torch.sign(v) * (tail + drawn), v), -drawn


def tails_let_out(u: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `tails_drawn_in`, finite: standard units, and the log-derivative of every entry."""
    far = (u.abs() - tail).clamp(0, 500)
    return torch.where(far > 0, torch.sign(u) * (tail + torch.expm1(far)), u), far


def lost_digits(transform: Transform, x: Tensor) -> list[int]:
    """Columns in which float32 tells fewer than half of the values of ``x (N, D)`` apart, once mapped."""
    u = transform(x)[0].float()
    columns = zip(x.T, u.T, strict=True)
    return [j for j, (a, b) in enumerate(columns) if len(b.unique()) < 0.5 * len(a.unique())]


def _near(v: Tensor, w: Tensor) -> Tensor:
    """1 for all rows of each column but the farthest from its median, a hundredth of the weight or one row.

    The row at the limit is kept in part, so that a weight counts as so many rows.
    """
    order = v.argsort(0)
    half = (w.gather(0, order).cumsum(0) < 0.5).sum(0).clamp_max(len(v) - 1)
    median = v.gather(0, order.gather(0, half.unsqueeze(0)))
    far = (v - median).abs().argsort(0, descending=True)
    weight = w.gather(0, far)
    before = weight.cumsum(0) - weight
    budget = max(_FAR, 1 / len(v))
    left = ((before + weight - budget) / weight).clamp(0, 1)
    return torch.zeros_like(v).scatter(0, far, left)


def _bounded_at(column: Tensor, bound: float) -> bool:
    """Whether a column above `bound` looks as if the bound was there: rows up to it, or a skew by it."""
    y = (column - bound).sort().values
    if len(y) >= _EDGE_ROWS:
        inner, outer = y[int(0.05 * len(y))], y[int(0.1 * len(y))]
        if outer > inner > 0 and inner < outer / (1 + _EDGE):
            return True
    return _softness(column, bound)[1] > _GAIN


def _softness(column: Tensor, bound: float) -> tuple[float, float]:
    """The softness c by which the column looks most Gaussian, and the nats gained over no bound."""
    y = (column - bound).sort().values
    trim = len(y) // 200
    y = y[trim : len(y) - trim]
    y = y[y > 0]
    unit = float(y.max()) if len(y) else 1.0  # the square of 1e200 has no place in a double
    y = y / unit
    if len(y) < 10 or not float(y.std()) > 0:
        return 1.0, -torch.inf
    scale = float(y.std())
    y = y / scale
    scale *= unit
    c = torch.tensor(_SOFTNESS, dtype=y.dtype)
    t = y.unsqueeze(1) / c
    rest = torch.log(-torch.expm1(-t))
    likelihood = -(t + rest).std(0).log() - (rest.mean(0) + c.log())
    best = int(likelihood.argmax())
    return float(c[best]) * scale, float(likelihood[best])
