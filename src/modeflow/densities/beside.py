"""What shares the mass with a model: a mixture of Gaussians, rows from anywhere, and another model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.nets.precision import OwnPrecision
from modeflow.transforms.columns import tails_drawn_in, tails_let_out
from modeflow.transforms.noise import normal_numbers, open_uniform

__all__ = ["Beside"]


class Beside(OwnPrecision):
    r"""What stands beside a model: multivariate t's, Gaussians where their freedom is infinite, and one more
    model.

    .. math:: p(u) = w_0\, p_\text{model}(u) + \sum_{j=1}^{J} w_j\, t_{\nu_j}(u;\, m_j, S_j)
        + w_{J+1}\, q(u), \qquad \sum_{j=0}^{J+1} w_j = 1

    As exact as both models, and at the cost of the other and of J triangular products a row. Weights and
    places are numbers that were found, not parameters that a training moves; they stay float64 whatever the
    model's type.

    Where far tails are drawn in (`Columns`), a t is one of the units before that: there, not in logarithms,
    lie its tails. With v(u) these units and log-derivatives of :math:`\max(|u_d| - \text{tail}, 0)`,

    .. math:: t_{\nu}(u;\, m, S) = t_{\nu}(v(u);\, m, S)\, \prod_d |v'(u_d)|

    Arguments:
        log_weights: log w_1 ... log w_J, ``(J,)``, whose sum of weights is below one.
        means: ``(J, D)``.
        whiten: triangular W_j with :math:`S_j^{-1} = W_j^T W_j`, ``(J, D, D)``, lower.
        freedom: ν_j, ``(J,)``; infinite for a Gaussian.
        tail: where tails are drawn in, ``()``; infinite where none are.
        other: another model q of the same units, if there is one. log_other: log w_{J+1}, ``()``.

    Reference:
        Smyth and Wolpert, *Stacked Density Estimation*, 1997; Hesterberg, *Weighted Average Importance
        Sampling and Defensive Mixture Distributions*, 1995
    """

    log_weights: Tensor
    means: Tensor
    whiten: Tensor
    freedom: Tensor
    tail: Tensor
    log_other: Tensor

    def __init__(
        self,
        log_weights: Tensor,
        means: Tensor,
        whiten: Tensor,
        freedom: Tensor,
        tail: float = math.inf,
        other: Density | None = None,
        log_other: float = -math.inf,
    ) -> None:
        super().__init__()
        self.other = other
        for name, value in (
            ("log_weights", log_weights),
            ("means", means),
            ("whiten", whiten),
            ("freedom", freedom),
            ("tail", torch.tensor(tail)),
            ("log_other", torch.tensor(log_other)),
        ):
            kept = name != "log_other" or other is not None
            self.register_buffer(name, value.to(torch.float64), persistent=kept)

    @classmethod
    def like(cls, means: Tensor, other: Density | None = None) -> Self:
        """One to load a state into, whose means are of this shape, and whose other model is this."""
        components, features = means.shape
        eye = torch.eye(features, device=means.device).expand(components, -1, -1)
        one = torch.ones(components, device=means.device)
        return cls(one - math.inf, torch.zeros_like(means), eye, one, other=other)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}tail", torch.tensor(math.inf, dtype=torch.float64))  # older files
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def n_parameters(self) -> int:
        """Free numbers, without the other model's."""
        components, features = self.means.shape
        return int(components * (1 + features + features * (features + 1) // 2))

    @property
    def log_rest(self) -> Tensor:
        """log w_0, the model's."""
        return torch.log1p(-self.log_weights.exp().sum() - self.log_other.exp())

    def log_prob(self, u: Tensor, without: int | None = None) -> Tensor:
        """``log Σ_j w_j t_j(u)``, the other model left out, nats, ``(B, D) -> (B,)``.

        Arguments:
            u: rows in the units of the model. without: a column to be integrated out, whose values say
                nothing then (NaN, too).
        """
        return self._log_prob(u, self._parts(), without)

    def traceable(self) -> Callable[[Tensor, Tensor], Tensor]:
        """`lift` of rows ``(B, D)`` and their log-densities ``(B,)``, without a branch on numbers."""
        parts, log_rest = self._parts(), self.log_rest
        other = None if self.other is None else cast(Any, self.other).traceable()

        def lifted(u: Tensor, log_prob: Tensor) -> Tensor:
            beside = self._log_prob(u, parts).to(log_prob)
            found = torch.logaddexp(log_prob + log_rest.to(log_prob), beside)
            return found if other is None else torch.logaddexp(found, other(u) + self.log_other.to(found))

        return lifted

    def _parts(self) -> list[_Part]:
        parts = zip(self.log_weights, self.means, self.whiten, self.freedom.tolist(), strict=True)
        return [_Part(weight, mean, whiten, freedom) for weight, mean, whiten, freedom in parts]

    def _log_prob(self, u: Tensor, parts: Sequence[_Part], without: int | None = None) -> Tensor:
        x = u.to(torch.float64)
        features = x.shape[1]
        if without is not None:
            x = x.index_fill(1, torch.tensor([without], device=x.device), 0.0)
        v, far = tails_let_out(x, self.tail)
        volume_of_tails = far.sum(1)
        total: Tensor | None = None
        for part in parts:
            normal = math.isinf(part.freedom)
            z = ((x if normal else v) - part.mean) @ part.whiten.T
            by = z.abs().amax(1).clamp_min(1.0)  # its square may be too large for a number
            z = z / by.unsqueeze(1)
            volume, size = part.whiten.diagonal().log().sum(), features
            square = z.square().sum(1)
            if without is not None:  # |S_-j| = |S| P_jj, and the form without x_j, P the inverse of S
                column = part.whiten[:, without]
                share = column.square().sum()
                square = (square - (z @ column).square() / share).clamp_min(0)
                volume, size = volume - 0.5 * share.log(), features - 1
            one = part.log_weight + volume + _log_t(square, by, size, part.freedom)
            if not normal:
                one = one + volume_of_tails
            total = one if total is None else torch.logaddexp(total, one)
        assert total is not None
        return total.to(u.dtype)

    def lift(
        self,
        u: Tensor,
        log_prob: Tensor,
        prior: Tensor | None = None,
        without: int | None = None,
        other: Tensor | None = None,
    ) -> Tensor:
        """Log-densities of a model with what stands beside it; what a model says of states stays.

        Arguments:
            u: rows in the units of the model, ``(B, D)``.
            log_prob: the model's ``log p(u)``, ``(B,)``, or ``log p(u, z = k)``, ``(B, K)``.
            prior: of the states, ``(K,)``: theirs where the model gives a row no density.
            without: a column that is integrated out, see `log_prob`.
            other: log-density under the other model, where it is known: it must be of rows without a column.

        Raises:
            ValueError: rows without a column, of which the other model's density is not given.
        """
        if without is not None and self.other is not None and other is None:
            raise ValueError("rows without a column need the other model's log-density: pass other=")
        if log_prob.dim() == 1:
            beside = self.log_prob(u, without).to(log_prob)
            found = torch.logaddexp(log_prob + self.log_rest.to(log_prob), beside)
            if self.other is None:
                return found
            other = self.other.log_prob(u) if other is None else other
            return torch.logaddexp(found, (other + self.log_other).to(found))
        total = log_prob.logsumexp(1)
        gain = self.lift(u, total, without=without, other=other).unsqueeze(1)
        none = torch.isneginf(total).unsqueeze(1)
        share = log_prob - torch.where(none, 0.0, total.unsqueeze(1))
        if prior is None:
            prior = log_prob.new_full((log_prob.shape[1],), 1 / log_prob.shape[1])
        return gain + torch.where(none, prior.to(log_prob).log(), share)

    def draw(
        self,
        n: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Which of n rows come from here and not from the model, ``(n,)``, and these rows, ``(M, D)``.

        A temperature multiplies the scales, and is the other model's; so is that of the prior, if it has z.
        """
        device = self.means.device
        level = open_uniform((n,), torch.float64, device, generator)
        edges = self.log_weights.exp().cumsum(0)
        chosen = level < edges[-1] + self.log_other.exp()
        level = level[chosen]
        near = level < edges[-1]  # all of them without another model
        rows = self._drawn(level[near], edges, generator, temperature)
        if self.other is None or bool(near.all()):
            return chosen, rows
        other, count = cast(Any, self.other), int((~near).sum())
        has_z = prior_temperature != 1.0 and other.describe().kind != "none"
        others = (
            other.sample_with_states(count, generator, None, temperature, prior_temperature)[0]
            if has_z
            else other.draw_events(count, None, generator, temperature)
        ).to(rows)
        return chosen, rows.new_empty(len(level), rows.shape[1]).index_put((near,), rows).index_put(
            (~near,), others
        )

    def _drawn(
        self, level: Tensor, edges: Tensor, generator: torch.Generator | None, temperature: float
    ) -> Tensor:
        """Rows of the t's that these levels fall to."""
        k = torch.searchsorted(edges, level).clamp_max(len(edges) - 1)
        noise = normal_numbers((len(k), self.means.shape[1]), torch.float64, level.device, generator)
        away = torch.linalg.solve_triangular(self.whiten[k], noise.unsqueeze(-1), upper=False).squeeze(-1)
        rows = self.means[k] + temperature * self._stretch(self.freedom[k], generator) * away
        normal = torch.isinf(self.freedom[k]).unsqueeze(1)
        return torch.where(normal, rows, tails_drawn_in(rows, self.tail)[0])

    def mixed_in(
        self,
        u: Tensor,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Rows drawn from the model, ``(n, D)``, in the place of some of which others come from here; and
        which, ``(n,)``."""
        chosen, rows = self.draw(len(u), generator, temperature, prior_temperature)
        return u.index_put((chosen,), rows.to(u)), chosen

    def _stretch(self, freedom: Tensor, generator: torch.Generator | None) -> Tensor:
        """``sqrt(ν / χ²_ν)``, by which a t is wider than a Gaussian, ``(M, 1)``."""
        from scipy.special import gammaincinv

        level = open_uniform((len(freedom),), torch.float64, freedom.device, generator).cpu()
        half = freedom.cpu() / 2
        finite = torch.where(torch.isinf(half), 1.0, half)
        square = 2 * torch.from_numpy(gammaincinv(finite.numpy(), level.numpy()))
        stretch = torch.where(torch.isinf(half), 1.0, (2 * finite / square).sqrt())
        return stretch.unsqueeze(1).to(freedom.device)


class _Part(NamedTuple):
    """One t, of which it is known whether it is a Gaussian."""

    log_weight: Tensor
    mean: Tensor
    whiten: Tensor
    freedom: float


def _log_t(square: Tensor, by: Tensor, size: int, freedom: float) -> Tensor:
    """Log-density of a t of unit scale in so many dimensions, by the squared distance over `by` squared."""
    if math.isinf(freedom):
        return -0.5 * square * by.square() - 0.5 * size * math.log(2 * math.pi)
    half = (freedom + size) / 2
    scale = math.lgamma(half) - math.lgamma(freedom / 2) - 0.5 * size * math.log(freedom * math.pi)
    near, far = torch.log1p(square * by.square() / freedom), 2 * by.log() + torch.log(square / freedom)
    return scale - half * torch.where(near.isinf(), far, near)
