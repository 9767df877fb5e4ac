r"""What fits a model with a continuous latent.

With q = q(z|x), draws z_s of it and weights ``w_s = p(x, z_s) / q(z_s | x)``:

============ ============================================== =========================== ==============
name         θ (prior, likelihood) climbs                    φ (encoder) climbs         draws a step
============ ============================================== =========================== ==============
`elbo`       E log w, the evidence lower bound               the same                    1
`iwae`       log (1/S) Σ w_s                                 the same                    8
`renyi`      1/(1-α) log (1/S) Σ w_s^(1-α)                   the same                    8
`cubo`       as `iwae`                                       -1/n log E w^n              8
`wake`       as `iwae`                                       Σ w̃_s log q(z_s | x)       8
`wake-sleep` as `iwae`                                       and of rows that it dreams  8
============ ============================================== =========================== ==============

All but the first are in `modeflow.latents.continuous.weighted`; what learns by draws of z by Markov chains is
`MCMCLikelihood`.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.errors import ConfigError
from modeflow.latents.posteriors import Approximate, ChainPosterior
from modeflow.latents.schedules import warmup, whole_steps
from modeflow.options import check_choice, check_sizes

__all__ = [
    "Continuous",
    "ContinuousELBO",
    "ContinuousObjective",
    "Drawn",
    "MCMCLikelihood",
    "draw_weighted",
    "power_mean",
]

#: Below this power a power mean is near its limit, where the usual formula would lose its digits.
_SMALL_POWER = 1e-3


class Continuous(Protocol):
    """What the objective asks of a model with a continuous z."""

    @property
    def prior(self) -> Density:
        """p(z)."""

    @property
    def likelihood(self) -> Density:
        """p(x|z)."""

    def amortised_posterior(self, x: Tensor) -> Approximate:
        """q(z | x), by the encoder alone."""

    def likelihood_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x | z)``, ``(B,)``."""


def power_mean(log_weights: Tensor, power: float, dim: int = 0) -> Tensor:
    r"""``(1/k) log mean w^k`` of weights by their logarithms; the mean of the logarithms for k = 0.

    It rises with k: with ``k = 1 - α`` it is Rényi's bound, with k = 1 IWAE, with k = n > 1 CUBO.

    Arguments:
        log_weights: nats. power: k. dim: of the draws.
    """
    if power == 0:
        return log_weights.mean(dim)
    if abs(power) < _SMALL_POWER:
        middle = log_weights.mean(dim, keepdim=True)
        spread = torch.expm1(power * (log_weights - middle)).mean(dim)
        return middle.squeeze(dim) + torch.log1p(spread) / power
    count = math.log(log_weights.shape[dim])
    return (torch.logsumexp(power * log_weights, dim=dim) - count) / power


class Drawn(NamedTuple):
    """What is known of draws of z, ``(S, B)`` each.

    `log_q` moves with z and with the parameters of q; `score` is zero, and its gradient that of log q at a z
    that stands still (or None).
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_q: Tensor
    score: Tensor | None


def draw_weighted(
    model: Continuous, x: Tensor, q: Approximate, draws: int, score: bool = False, hook: Hook | None = None
) -> Drawn:
    """Draws of q, and their densities, all in one pass.

    Arguments:
        model, x: rows ``(B, *event)``. q: of these. draws: S. score: whether `Drawn.score` is needed.
        hook: what multiplies the gradient of ``log p(x, z)`` to z, ``(S, B)``, once that is asked for.
    """
    many = q.repeated(draws)
    z, log_q = many.rsample_and_log_prob()
    held = _zero(many.log_prob(z.detach())).view(draws, -1) if score else None
    through = z
    if hook is not None and z.requires_grad:
        through = z.view_as(z)
        through.register_hook(lambda gradient: gradient * hook.scale.view(-1, 1))
    rows = x if draws == 1 else x.repeat(draws, *(1,) * (x.dim() - 1))
    log_likelihood = model.likelihood_log_prob(rows, through).view(draws, -1)
    log_prior = model.prior.log_prob(through).view(draws, -1)
    return Drawn(log_likelihood, log_prior, log_q.view(draws, -1), held)


class Hook:
    """A factor that is known only after what it will multiply the gradient of."""

    scale: Tensor


def _zero(value: Tensor) -> Tensor:
    """Zero, with the gradient of `value`."""
    return value - value.detach()


class ContinuousObjective(nn.Module):
    """Contract: called as ``objective(model, x, weight, step) -> Loss``, in nats per row.

    Attributes:
        kl_warmup_steps, free_bits: see `ContinuousELBO`; 0 where there is no use for them.
        alone: whether it moves q by something else than what the likelihood climbs, so that q must not be
            made of the likelihood.
    """

    kl_warmup_steps: int = 0
    free_bits: float = 0.0
    alone: ClassVar[bool] = False
    #: How the gradient to q can be estimated.
    gradients: ClassVar[tuple[str, ...]] = ("total",)

    def __init__(self, train_draws: int, gradient: str) -> None:
        super().__init__()
        check_sizes(train_draws=train_draws)
        check_choice("gradient", gradient, self.gradients)
        self.train_draws, self.gradient = int(train_draws), gradient

    def forward(self, model: Continuous, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        raise NotImplementedError


class ContinuousELBO(ContinuousObjective):
    r"""Negative evidence lower bound with reparametrised samples of z.

    .. math:: -\log p(x \mid z) + \beta \sum_j \max(\mathrm{KL}_j, \lambda), \qquad z \sim q(z \mid x)

    KL_j is the batch's mean of part j, in closed form: of dimension j between a diagonal Gaussian and
    N(0, I), undivided for a full one. Where there is none (another prior, a posterior by a flow) it is that
    of the draws, without free bits.

    With ``gradient="stl"`` (sticking the landing) the divergence is that of the draws, and the gradient to q
    goes through z alone: what is left out, ``E ∂ log q(z)``, is zero on average, and with it goes the noise
    of a q that is the exact posterior. It takes one more density of every draw.

    Arguments:
        kl_warmup_steps: optimiser steps over which β rises from 0 to 1.
        free_bits: λ, nats of every part that cost nothing: they keep a flexible likelihood from
            ignoring z. Only where the divergence has a closed form, and with the total gradient.
        train_draws: of z a row.
        gradient: "total" or "stl".

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, https://arxiv.org/abs/1312.6114; Kingma
        et al., *Improved Variational Inference with Inverse Autoregressive Flow*, 2016 (free bits); Roeder,
        Wu, Duvenaud, *Sticking the Landing*, 2017, https://arxiv.org/abs/1703.09194
    """

    gradients = ("total", "stl")

    def __init__(
        self,
        kl_warmup_steps: int = 0,
        free_bits: float = 0.0,
        train_draws: int = 1,
        gradient: str = "total",
    ) -> None:
        super().__init__(train_draws, gradient)
        if not free_bits >= 0:
            raise ConfigError(f"free_bits must be 0 or more, received {free_bits!r}")
        if free_bits and gradient == "stl":
            raise ConfigError(
                "free_bits are of a divergence in closed form: they do not go with gradient='stl'"
            )
        self.kl_warmup_steps = whole_steps("kl_warmup_steps", kl_warmup_steps)
        self.free_bits = free_bits

    def forward(self, model: Continuous, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        q, landing = model.amortised_posterior(x), self.gradient == "stl"
        drawn = draw_weighted(model, x, q, self.train_draws, score=landing)
        nll = weighted_mean(-drawn.log_likelihood.mean(0), weight)
        each = None if landing else q.kl(model.prior)
        if each is None:
            log_q = drawn.log_q if drawn.score is None else drawn.log_q - drawn.score
            kl = cost = weighted_mean((log_q - drawn.log_prior).mean(0), weight)
        else:
            each = (each if weight is None else each * weight.unsqueeze(-1)).mean(0)
            kl, cost = each.sum(), each.clamp_min(self.free_bits).sum()
        terms = {"nll": nll.detach(), "kl": kl.detach()}
        return Loss(nll + warmup(step, self.kl_warmup_steps) * cost, terms)


class Chained(Continuous, Protocol):
    """What the objective by chains asks of a model with a continuous z."""

    @property
    def encoder(self) -> ChainPosterior:
        """What finds z."""

    def chain(self, x: Tensor) -> list[Tensor]:
        """z along the chains of the rows, ``(B, L)`` each."""


class MCMCLikelihood(ContinuousObjective):
    r"""Maximum likelihood by draws of z: the mean of ``-log p(x, z)`` along the chains of a `ChainPosterior`.

    .. math:: \nabla \log p(x) = E_{p(z \mid x)} \big[\nabla \log p(x \mid z) + \nabla \log p(z)\big]

    z of `LangevinPosterior` is a constant, so that the likelihood follows ``log p(x | z_K)`` and a learned
    prior ``log p(z_K)``; z of `AmortisedLangevinPosterior` has a gradient to the features of its encoder; the
    encoder of `EncodedLangevinPosterior` has a loss of its own (`ChainPosterior.follow`).
    The value is no bound: what z costs by its entropy is not in it.

    Reference:
        Han et al., *Alternating Back-Propagation for Generator Network*, 2017,
        https://arxiv.org/abs/1606.08571
    """

    def __init__(self) -> None:
        super().__init__(1, "total")

    def forward(  # type: ignore[override]  # of a model by chains
        self, model: Chained, x: Tensor, weight: Tensor | None, step: int | None
    ) -> Loss:
        chain = model.chain(x)
        likelihood = torch.stack([model.likelihood_log_prob(x, z) for z in chain]).mean(0)
        prior = torch.stack([model.prior.log_prob(z) for z in chain]).mean(0)
        nll, code = weighted_mean(-likelihood, weight), weighted_mean(-prior, weight)
        terms, loss = {"nll": nll.detach(), "prior_nll": code.detach()}, nll + code
        each = model.encoder.follow(x, chain)
        if each is not None:
            follow = weighted_mean(each, weight)
            terms["encoder_nll"], loss = follow.detach(), loss + follow
        return Loss(loss, terms)
