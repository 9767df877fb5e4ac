"""What fits a model with a continuous latent: the evidence lower bound, or draws of z by Markov chains."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.errors import ConfigError
from modeflow.latents.posteriors import Approximate, ChainPosterior
from modeflow.latents.schedules import warmup, whole_steps

__all__ = ["ContinuousELBO", "MCMCLikelihood"]


class Continuous(Protocol):
    """What the objective asks of a model with a continuous z."""

    @property
    def prior(self) -> Density:
        """p(z)."""

    def approximate_posterior(self, x: Tensor) -> Approximate:
        """q(z | x)."""

    def likelihood_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x | z)``, ``(B,)``."""


class ContinuousELBO(nn.Module):
    r"""Negative evidence lower bound with one reparametrised sample of z a row.

    .. math:: -\log p(x \mid z) + \beta \sum_j \max(\mathrm{KL}_j, \lambda), \qquad z \sim q(z \mid x)

    KL_j is the batch's mean of part j, in closed form: of dimension j between a diagonal Gaussian and
    N(0, I), undivided for a full one. Where there is none (another prior, a posterior by a flow) it is one
    sample of it, without free bits.

    Arguments:
        kl_warmup_steps: optimiser steps over which β rises from 0 to 1.
        free_bits: λ, nats of every part that cost nothing: they keep a flexible likelihood from
            ignoring z. Only where the divergence has a closed form.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, https://arxiv.org/abs/1312.6114; Kingma
        et al., *Improved Variational Inference with Inverse Autoregressive Flow*, 2016 (free bits)
    """

    def __init__(self, kl_warmup_steps: int = 0, free_bits: float = 0.0) -> None:
        super().__init__()
        if not free_bits >= 0:
            raise ConfigError(f"free_bits must be 0 or more, received {free_bits!r}")
        self.kl_warmup_steps = whole_steps("kl_warmup_steps", kl_warmup_steps)
        self.free_bits = free_bits

    def forward(self, model: Continuous, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        q = model.approximate_posterior(x)
        z, log_q = q.rsample_and_log_prob()
        nll = weighted_mean(-model.likelihood_log_prob(x, z), weight)
        each = q.kl(model.prior)
        if each is None:
            kl = cost = weighted_mean(log_q - model.prior.log_prob(z), weight)
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


class MCMCLikelihood(nn.Module):
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

    #: There is no divergence, and so nothing to give for nothing.
    free_bits = 0.0

    def forward(self, model: Chained, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
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
