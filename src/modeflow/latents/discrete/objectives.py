r"""Objectives that fit a model with a discrete latent.

With q = q(z|x), π = p(z) and likelihood p(x|z):

=========== ======================================================== ====================
name        minimises                                                cost per step
=========== ======================================================== ====================
`elbo`      -log p(x|z) + β KL(q‖π), z ~ q by straight-through Gumbel  1 flow pass
`elbo-sum`  -Σ_k q_k log p(x|k) + β KL(q‖π), no sampling noise         K flow passes
`marginal`  -log Σ_k π_k p(x|k), the exact negative log-likelihood     K flow passes
`truncated` the same over the states that the encoder finds likely    1 to 2 passes
=========== ======================================================== ====================
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.densities.base import Loss, weighted_mean
from modeflow.errors import ConfigError
from modeflow.latents.named import build_named, check_named
from modeflow.latents.priors import CategoricalPrior
from modeflow.latents.schedules import warmup, whole_steps
from modeflow.transforms.noise import gumbel_noise, uniform_noise

__all__ = [
    "OBJECTIVES",
    "GumbelELBO",
    "Marginal",
    "Objective",
    "SummedELBO",
    "Truncated",
    "build_objective",
    "check_options",
]


def categorical_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """``KL(q || p)`` per row, in nats: ``(B, K), (K,) -> (B,)``; states with q = 0 contribute 0."""
    q = log_q.exp()
    # Masked before the product: 0 * (-inf) would be NaN, in the value and in the gradient.
    difference = torch.where(q > 0, log_q - log_p, torch.zeros_like(log_q))
    return (q * difference).sum(-1)


class States(Protocol):
    """What an objective asks of a model with K discrete states, of which A are active."""

    training: bool
    prior: CategoricalPrior

    def log_approximate_posterior(self, x: Tensor) -> Tensor:
        """``log q(z | x)``, ``(B, K)``."""

    def count_usage(self, log_q: Tensor) -> None:
        """Count the states that the encoder gave rows."""

    def likelihood_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x | z)`` for a (relaxed) one-hot z, ``(B,)``."""

    def log_likelihoods(self, x: Tensor, states: Tensor) -> Tensor:
        """``log p(x | z = k)`` for every k in `states`, ``(B, len(states))``."""

    def log_joint(self, x: Tensor) -> Tensor:
        """``log π_k + log p(x | k)``, ``(B, A)``."""

    def log_joint_of(self, x: Tensor, keep: Tensor) -> Tensor:
        """The same at the pairs marked in ``keep (B, A)``, -inf elsewhere."""


#: While states are held, a state with less of a row's mass is left out of it.
_HELD = 1e-2


class Objective(nn.Module):
    """Contract: called as ``objective(model, x, weight, step) -> Loss``, in nats per row."""

    def forward(self, model: States, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        raise NotImplementedError

    @staticmethod
    def encode(model: States, x: Tensor) -> Tensor:
        """``log q(z | x)``, counted as usage of the states while training."""
        log_q = model.log_approximate_posterior(x)
        if model.training:
            model.count_usage(log_q)
        return log_q


class _ELBO(Objective):
    """Shared by both ELBOs: the weight β of the KL term rises from 0 to 1 over the warm-up.

    Arguments:
        kl_warmup_steps: length of the warm-up in optimiser steps; 0 means β = 1 throughout.
    """

    def __init__(self, kl_warmup_steps: int = 0) -> None:
        super().__init__()
        self.kl_warmup_steps = whole_steps("kl_warmup_steps", kl_warmup_steps)

    def beta(self, step: int | None) -> float:
        """Weight of the KL term at an optimiser step (None: after the warm-up)."""
        return warmup(step, self.kl_warmup_steps)

    def _loss(
        self, nll: Tensor, log_q: Tensor, log_p: Tensor, weight: Tensor | None, step: int | None
    ) -> Loss:
        kl = weighted_mean(categorical_kl(log_q, log_p), weight)
        nll = weighted_mean(nll, weight)
        terms = {"nll": nll.detach(), "kl": kl.detach()}
        return Loss(nll + self.beta(step) * kl, terms)


class GumbelELBO(_ELBO):
    r"""Negative ELBO with one straight-through Gumbel-softmax sample of z per row.

    .. math:: -\log p(x \mid z) + \beta\,\mathrm{KL}(q(z|x) \,\|\, p(z)), \qquad
        z = \text{onehot}\big(\arg\max_k (\log q_k + g_k)\big)

    The forward pass is exact (z is a true sample of q); the gradient to the encoder is that of the
    relaxed sample ``softmax((log q + g) / temperature)`` and hence biased.

    Arguments:
        temperature: at the start.
        final_temperature: reached by exponential decay after `anneal_steps`.
        anneal_steps: 0 keeps the temperature constant.
        kl_warmup_steps: length of the rise of β from 0 to 1.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Jang et al., *Categorical Reparameterization with Gumbel-Softmax*, 2017,
        https://arxiv.org/abs/1611.01144
    """

    def __init__(
        self,
        temperature: float = 1.0,
        final_temperature: float = 0.5,
        anneal_steps: int = 0,
        kl_warmup_steps: int = 0,
    ) -> None:
        super().__init__(kl_warmup_steps)
        for name, value in (("temperature", temperature), ("final_temperature", final_temperature)):
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, received {value!r}")
        self.temperature = temperature
        self.final_temperature = final_temperature
        self.anneal_steps = whole_steps("anneal_steps", anneal_steps)

    def temperature_at(self, step: int | None) -> float:
        """Temperature at an optimiser step (None: the final one)."""
        if self.anneal_steps <= 0:
            return self.temperature
        share = 1.0 if step is None else min(1.0, step / self.anneal_steps)
        ratio = self.final_temperature / self.temperature
        return self.temperature * math.exp(share * math.log(ratio))

    def forward(self, model: States, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        log_q = self.encode(model, x)
        soft = torch.softmax((log_q + gumbel_noise(log_q)) / self.temperature_at(step), dim=-1)
        hard = F.one_hot(soft.argmax(-1), log_q.shape[-1]).to(soft.dtype)
        z = hard + soft - soft.detach()
        nll = -model.likelihood_log_prob(x, z)
        return self._loss(nll, log_q, model.prior.log_probs(), weight, step)


class SummedELBO(_ELBO):
    r"""Negative ELBO with the expectation over z summed exactly (Rao-Blackwellised).

    .. math:: -\sum_k q_k \log p(x \mid k) + \beta\,\mathrm{KL}(q(z|x) \,\|\, p(z))
    """

    def forward(self, model: States, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        log_q = self.encode(model, x)
        log_p = model.prior.log_probs()
        states = model.prior.active_states()
        likelihood = model.log_likelihoods(x, states)
        nll = -(log_q[:, states].exp() * likelihood).sum(-1)
        return self._loss(nll, log_q, log_p, weight, step)


class Truncated(Objective):
    r"""The exact negative log-likelihood, or close to it, with the encoder fitted beside it.

    .. math:: -\log \sum_{k \in S(x)} \pi_k\, p(x \mid k)
        \;+\; \mathrm{KL}\big(p_S(z \mid x) \,\|\, q(z|x)\big)

    S holds, per row, the states to which the encoder gives a mass above ε (or above 1/2A of A active states,
    if that is less: one state at least is kept), and now and then one more at random: the first term is then
    an upper bound on the negative log-likelihood, tight where modes are isolated, at the cost of little more
    than one state. With ``epsilon=0``, S holds all states (`Marginal`). No sample of z is drawn, so its
    gradient to the flow and the prior has neither the bias of the straight-through estimator nor its noise.

    The second term pulls the encoder towards the posterior on S (held constant) and touches nothing else.

    Arguments:
        epsilon: encoder mass below which a state is left out, in ``[0, 1)``; 0 takes them all.
        explore: states added at random, per row, on average; how a state whose encoder mass has vanished
            can come back.
        hold_steps: for so many steps the encoder is held as it was started, and the flow and the prior are
            fitted to its states (:math:`-\sum_{k \in S} q_k \log \pi_k p(x|k)`): so the flow takes the shape
            of the islands that the states start on, before a row may change its state. (A decay of weights
            shrinks the encoder all the while.)

    Raises:
        ConfigError: for a value that is not allowed.
    """

    def __init__(self, epsilon: float = 1e-2, explore: float = 0.02, hold_steps: int = 0) -> None:
        super().__init__()
        self.hold_steps = hold_steps
        if not 0 <= epsilon < 1:
            raise ConfigError(f"epsilon must lie in [0, 1), received {epsilon}")
        if not explore >= 0:
            raise ConfigError(f"explore must be 0 or more, received {explore!r}")
        self.epsilon = epsilon
        self.explore = explore

    def forward(self, model: States, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        if step is not None and step < self.hold_steps:
            return self._held(model, x, weight)
        log_q = self.encode(model, x)[:, model.prior.active]
        if self.epsilon == 0:
            joint = model.log_joint(x)
        else:
            with torch.no_grad():
                keep = log_q > math.log(min(self.epsilon, 0.5 / log_q.shape[1]))
                keep |= uniform_noise(log_q) < self.explore / log_q.shape[1]
            joint = model.log_joint_of(x, keep)
        log_prob = torch.logsumexp(joint, dim=-1)
        exact = (joint - log_prob.unsqueeze(-1)).detach()
        # Where the posterior is zero its logarithm is -inf, and 0 * inf would be NaN.
        gap = torch.where(exact > float("-inf"), exact - log_q, torch.zeros_like(log_q))
        kl = (exact.exp() * gap).sum(-1)
        nll, kl = weighted_mean(-log_prob, weight), weighted_mean(kl, weight)
        return Loss(nll + kl, {"nll": nll.detach(), "encoder_kl": kl.detach()})

    def _held(self, model: States, x: Tensor, weight: Tensor | None) -> Loss:
        with torch.no_grad():
            q = self.encode(model, x)[:, model.prior.active].exp()
            q = torch.where(q > min(_HELD, 0.5 / q.shape[1]), q, torch.zeros_like(q))
            q = q / q.sum(-1, keepdim=True)
        joint = model.log_joint_of(x, q > 0)
        # Where q is zero the joint was not evaluated: 0 * -inf would be NaN.
        expected = torch.where(q > 0, q * joint, torch.zeros_like(q)).sum(-1)
        loss = weighted_mean(-expected, weight)
        nll = weighted_mean(-torch.logsumexp(joint.detach(), dim=-1), weight)
        return Loss(loss, {"nll": nll, "encoder_kl": torch.zeros_like(nll)})


class Marginal(Truncated):
    """`Truncated` to nothing: the exact negative log-likelihood, over all states."""

    def __init__(self, hold_steps: int = 0) -> None:
        super().__init__(epsilon=0.0, hold_steps=hold_steps)


OBJECTIVES: dict[str, type[Objective]] = {
    "elbo": GumbelELBO,
    "elbo-sum": SummedELBO,
    "marginal": Marginal,
    "truncated": Truncated,
}


def check_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that an objective has no use for: nothing that is asked for is dropped.

    Raises:
        ConfigError: naming the option, and those that there are; or if the objective is unknown.
    """
    check_named(OBJECTIVES, name, options)


def build_objective(name: str, **options: Any) -> Objective:
    """Build an objective by name with options of its own.

    Raises:
        ConfigError: if the name is unknown, naming the nearest; or for an option that it has no use for.
    """
    return build_named(OBJECTIVES, name, options)
