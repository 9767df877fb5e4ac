r"""Objectives by several weighted draws of z: IWAE, Rényi's bound, CUBO, and reweighted wake–sleep.

Every gradient here is that of

.. math:: \sum_s a_s \log p_\theta(x, z_s) + \sum_s c_s \, (\partial_z \log w_s) \, z_s(\phi)
    + \sum_s b_s \log q_\phi(z_s \mid x)

with numbers a, b and c held constant: a is how much a draw counts for the likelihood, c for where q puts
it, b for the density of q at a place that stands still. With the weights' powers normalised,
``ŵ_s = w_s^k / Σ w^k`` and ``w̃_s = w_s / Σ w``:

========  ========  ====  ======================  ==================
                    a     c                       b
========  ========  ====  ======================  ==================
bound k   total     ŵ     ŵ                       -ŵ
bound k   dreg      ŵ     ŵ - k (ŵ - ŵ²)          0
cover k   total     w̃     0                       f ŵ
cover k   dreg      w̃     f k (ŵ - ŵ²)            0
========  ========  ====  ======================  ==================

A bound of power ``k = 1 - α`` is Rényi's, with k = 1 IWAE; to cover with k = 1 and f = 1 is the wake phase,
with k = n and ``f = (n - 1) / n`` it is CUBO_n. The lines "dreg" follow from
``E[f ∂_φ log q(z)] = E[∂_z f ∂_φ z]``: the same gradient on average, without the term b, whose noise grows
beside the signal as draws are added (Rainforth et al. 2018). The sleep phase needs no weights: its draws are
of the model itself, rows and z.

Reference:
    Tucker, Lawson, Gu, Maddison, *Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives*,
    2019, https://arxiv.org/abs/1810.04152
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from modeflow.densities.base import Loss, weighted_mean
from modeflow.errors import ConfigError
from modeflow.latents.continuous.objective import (
    Continuous,
    ContinuousELBO,
    ContinuousObjective,
    Hook,
    draw_weighted,
    power_mean,
)
from modeflow.latents.schedules import warmup, whole_steps

__all__ = ["CONTINUOUS_OBJECTIVES", "CUBO", "IWAE", "RenyiBound", "WakePhase", "WakeSleep"]


class Counts(NamedTuple):
    """How much each draw counts, ``(S, B)``: a, the ratio c / a, and b, where it is not -c."""

    a: Tensor
    ratio: Tensor
    b: Tensor | None = None


class WeightedObjective(ContinuousObjective):
    """What they share: the draws, and the gradient by its three numbers."""

    gradients = ("total", "dreg")

    def __init__(self, train_draws: int = 8, gradient: str = "total") -> None:
        super().__init__(train_draws, gradient)

    @property
    def apart(self) -> bool:
        """Whether what moves z and the density of q where it lies count differently."""
        return self.gradient == "dreg"

    def forward(self, model: Continuous, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        beta, hook = warmup(step, self.kl_warmup_steps), Hook()
        q = model.amortised_posterior(x)
        drawn = draw_weighted(model, x, q, self.train_draws, score=self.apart, hook=hook)
        with torch.no_grad():
            kl = drawn.log_q - drawn.log_prior
            log_weights = drawn.log_likelihood - beta * kl
            a, ratio, b = self.counts(log_weights, beta)
            hook.scale = ratio
        joint, log_q = drawn.log_likelihood + beta * drawn.log_prior, drawn.log_q
        if drawn.score is not None:
            log_q = log_q - drawn.score
        gain = _counted(a, joint) - _counted(a * ratio, beta * log_q)
        if b is not None and drawn.score is not None:
            gain = gain + _counted(b, drawn.score)
        terms = {name: weighted_mean(value, weight) for name, value in self.named(log_weights).items()}
        terms |= {
            "nll": weighted_mean(-drawn.log_likelihood.detach().mean(0), weight),
            "kl": weighted_mean(kl.mean(0), weight),
        }
        value = weighted_mean(-gain, weight)
        # What is shown is the bound that the likelihood climbs; the gradient is that of the gain.
        return Loss(value + (terms["bound"] - value).detach(), terms)

    def counts(self, log_weights: Tensor, beta: float) -> Counts:
        """a, c / a and b by the logarithms of the weights, ``(S, B)``; beta: the weight of the divergence."""
        raise NotImplementedError

    def named(self, log_weights: Tensor) -> dict[str, Tensor]:
        """Of every row, ``(B,)``: ``bound``, the negative of what the likelihood climbs, and what else."""
        return {"bound": -power_mean(log_weights, 1.0)}


def _counted(count: Tensor, values: Tensor) -> Tensor:
    """``Σ count * values`` over draws; one that does not count may have no density."""
    return torch.where(count == 0, torch.zeros_like(values), count * values).sum(0)


class RenyiBound(WeightedObjective):
    r"""Negative Rényi bound, by S draws of z.

    .. math:: L_\alpha = \frac{1}{1-\alpha} \log \frac1S \sum_s w_s^{1-\alpha}, \qquad
        w_s = \frac{p(x, z_s)}{q(z_s \mid x)}

    It falls with α: IWAE at 0, in the limit 1 the evidence lower bound, which is lower still beyond. A lower
    bound of log p(x) in expectation for every α of 0 or more, whatever S. While β rises, w is
    ``p(x | z) (p(z) / q(z | x))^β``.

    Arguments:
        alpha: α, 0 or more.
        kl_warmup_steps: optimiser steps over which β rises from 0 to 1.
        train_draws: S, of z a row.
        gradient: "total", or "dreg" (doubly reparametrised): the same on average, with less noise.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Li and Turner, *Rényi Divergence Variational Inference*, 2016, https://arxiv.org/abs/1602.02311
    """

    def __init__(
        self,
        alpha: float = 0.5,
        kl_warmup_steps: int = 0,
        train_draws: int = 8,
        gradient: str = "total",
    ) -> None:
        super().__init__(train_draws, gradient)
        if not (alpha >= 0 and math.isfinite(alpha)):
            raise ConfigError(
                f"alpha must be 0 or more, received {alpha!r}: below 0 it is an upper bound, objective='cubo'"
            )
        self.kl_warmup_steps = whole_steps("kl_warmup_steps", kl_warmup_steps)
        self.alpha = float(alpha)

    def counts(self, log_weights: Tensor, beta: float) -> Counts:
        power = 1 - self.alpha
        share = torch.softmax(power * log_weights, 0)
        if self.gradient == "total":
            return Counts(share, torch.ones_like(share))
        return Counts(share, 1 - beta * power * (1 - share))

    def named(self, log_weights: Tensor) -> dict[str, Tensor]:
        return {"bound": -power_mean(log_weights, 1 - self.alpha)}


class IWAE(RenyiBound):
    r"""Negative importance-weighted bound, ``log (1/S) Σ w_s``: `RenyiBound` at α = 0.

    Arguments:
        kl_warmup_steps, train_draws, gradient: as of `RenyiBound`.

    Reference:
        Burda, Grosse, Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        https://arxiv.org/abs/1509.00519
    """

    def __init__(self, kl_warmup_steps: int = 0, train_draws: int = 8, gradient: str = "total") -> None:
        super().__init__(0.0, kl_warmup_steps, train_draws, gradient)


class _Cover(WeightedObjective):
    """q goes to where the weights, to a power, say that the posterior is; the likelihood climbs IWAE."""

    alone = True
    apart = True
    #: k, and f: how steep.
    power: float = 1.0
    slope: float = 1.0

    def counts(self, log_weights: Tensor, beta: float) -> Counts:
        log_share = torch.log_softmax(log_weights, 0)
        log_powered = torch.log_softmax(self.power * log_weights, 0)
        share, powered = log_share.exp(), log_powered.exp()
        if self.gradient == "total":
            return Counts(share, torch.zeros_like(share), self.slope * powered)
        ratio = self.slope * self.power * torch.exp(log_powered - log_share) * (1 - powered)
        return Counts(share, ratio)


class CUBO(_Cover):
    r"""The χ upper bound for q, IWAE for the likelihood and the prior.

    .. math:: \mathrm{CUBO}_n = \frac1n \log E_q\, w^n \ge \log p(x), \qquad
        -\nabla_\phi = \frac{n-1}{n} \sum_s \frac{w_s^n}{\sum_t w_t^n} \nabla_\phi \log q_\phi(z_s \mid x)

    q is moved to make it small: it then covers all of the posterior, and its weights have few outliers. An
    upper bound cannot fit p, which therefore climbs the lower one of the same draws. The gradient is that of
    the bound as draws are added. What is not done is to go down the estimate
    ``(1/n) log (1/S) Σ w^n`` itself: it is below the bound, and falls without end as q shrinks to a point.

    Arguments:
        order: n, above 1.
        train_draws: S, of z a row.
        gradient: "total" (no gradient through z) or "dreg" (through z alone, the same on average).

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dieng, Tran, Ranganath, Paisley, Blei, *Variational Inference via χ Upper Bound Minimization*, 2017,
        https://arxiv.org/abs/1611.00328
    """

    def __init__(self, order: float = 2.0, train_draws: int = 8, gradient: str = "total") -> None:
        super().__init__(train_draws, gradient)
        if not (order > 1 and math.isfinite(order)):
            raise ConfigError(f"order must be above 1, received {order!r}")
        self.power = float(order)
        self.slope = 1 - 1 / self.power

    def named(self, log_weights: Tensor) -> dict[str, Tensor]:
        return super().named(log_weights) | {"cubo": power_mean(log_weights, self.power)}


class WakePhase(_Cover):
    r"""Reweighted wake–sleep in its wake phase: q by the forward divergence, the likelihood by IWAE.

    .. math:: \nabla_\phi = \sum_s \tilde w_s \nabla_\phi \log q_\phi(z_s \mid x), \qquad
        \tilde w_s = \frac{w_s}{\sum_t w_t}

    As draws are added it is minus the gradient of ``KL(p(z | x) || q(z | x))``: q covers the posterior, where
    the evidence lower bound would have it sit inside.

    Arguments:
        train_draws: S, of z a row.
        gradient: "total" (no gradient through z) or "dreg" (through z alone, the same on average).

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Bornschein and Bengio, *Reweighted Wake-Sleep*, 2015, https://arxiv.org/abs/1406.2751
    """


class WakeSleep(WakePhase):
    r"""Reweighted wake–sleep: the likelihood by IWAE; q by the wake phase, and by rows that the model dreams.

    .. math:: \nabla_\phi = (1 - \lambda) \sum_s \tilde w_s \nabla_\phi \log q_\phi(z_s \mid x)
        + \lambda\, E_{p(\tilde x, \tilde z)} \nabla_\phi \log q_\phi(\tilde z \mid \tilde x)

    Asleep it is minus the gradient of ``E_{p(x)} KL(p(z | x) || q(z | x))``, with no weights and so no bias
    of few draws: every row is dreamt with its own exact draw of z. But it is over rows of the model, which
    may lie elsewhere than data, in training above all; awake q follows the data, by weights that are noisy
    where q is far from the posterior. A step dreams as many rows as it is given.

    Arguments:
        sleep_share: λ, from 0 (`WakePhase`) to 1 (the sleep phase alone).
        train_draws, gradient: of the wake phase, as in `WakePhase`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Hinton, Dayan, Frey, Neal, *The Wake-Sleep Algorithm for Unsupervised Neural Networks*, 1995;
        Bornschein and Bengio, *Reweighted Wake-Sleep*, 2015, https://arxiv.org/abs/1406.2751
    """

    def __init__(self, sleep_share: float = 0.5, train_draws: int = 8, gradient: str = "total") -> None:
        super().__init__(train_draws, gradient)
        if not 0 <= sleep_share <= 1:
            raise ConfigError(f"sleep_share must lie from 0 to 1, received {sleep_share!r}")
        self.sleep_share = float(sleep_share)
        self.slope, self.apart = 1 - self.sleep_share, sleep_share < 1

    def forward(self, model: Continuous, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        awake = super().forward(model, x, weight, step)
        if self.sleep_share == 0:
            return awake
        rows, z = self.dream(model, len(x))
        asleep = -model.amortised_posterior(rows).log_prob(z).mean()
        # Its gradient alone: what is shown stays the bound.
        value = awake.value + self.sleep_share * (asleep - asleep.detach())
        return Loss(value, {**awake.terms, "sleep": asleep.detach()})

    @torch.no_grad()
    def dream(self, model: Continuous, n: int) -> tuple[Tensor, Tensor]:
        """Rows of the model, and the z that each was drawn with: ``(n, *event)`` and ``(n, L)``."""
        z = model.prior.draw_events(n, None, None)
        return model.likelihood.draw_events(n, z, None), z


#: Objectives of a continuous latent by name.
CONTINUOUS_OBJECTIVES: Mapping[str, type[ContinuousObjective]] = {
    "elbo": ContinuousELBO,
    "iwae": IWAE,
    "renyi": RenyiBound,
    "cubo": CUBO,
    "wake": WakePhase,
    "wake-sleep": WakeSleep,
}
