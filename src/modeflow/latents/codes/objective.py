"""What fits a model with codes, by stage."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.densities.sequences import SequencePrior
from modeflow.latents.codes.quantizer import Quantizer
from modeflow.latents.schedules import Schedule, warmup

__all__ = ["CodesObjective"]


class Coded(Protocol):
    """What the objective asks of a model with codes."""

    likelihood: Density
    prior: SequencePrior
    quantizer: Quantizer

    @property
    def schedule_now(self) -> Schedule:
        """That of the stage under way."""

    def embed(self, x: Tensor) -> Tensor:
        """What the encoder says of each position, ``(B, L, d)``."""

    def codes(self, x: Tensor) -> Tensor:
        """The nearest codes, ``(B, L)``."""

    def flat(self, embedded: Tensor) -> Tensor:
        """``(B, L, d)`` as a context."""


class CodesObjective(nn.Module):
    r"""Negative log-likelihood given the nearest codes, commitment, and their code length, by stage.

    .. math:: -\log p(x \mid z) + \text{commitment} - \log p(z)

    The code length has a gradient to both ends, see `modeflow.densities.SequencePrior.lengths`; that to the
    encoder rises over the warm-up.
    """

    def forward(self, model: Coded, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        schedule = model.schedule_now
        if schedule.stage == "prior":
            with torch.no_grad():
                codes = model.codes(x)
            nll = weighted_mean(-model.prior.log_prob(codes), weight)
            return Loss(nll, {"code_length": nll.detach()})
        e = model.embed(x)
        # Early on a dead code is a waste. Later it is one that does not pay: revived, it would take positions
        # at random from codes that the flow and the prior know.
        settled = max(schedule.start_steps, schedule.code_warmup_steps)
        revive = step is None or settled == 0 or step < settled
        learn = step is None or schedule.codebook_steps is None or step < schedule.codebook_steps
        quantised, codes, commitment = model.quantizer(e, revive, learn)
        nll = weighted_mean(-model.likelihood._log_prob(x, model.flat(quantised)), weight)
        terms = {"nll": nll.detach(), "commitment": commitment.detach()}
        loss = nll + commitment
        if schedule.stage == "joint":
            # Scaled gradients to the encoder, and values as they are.
            share = warmup(step, schedule.code_warmup_steps)
            said, embedded = (torch.lerp(t.detach(), t, share) for t in (e, quantised))
            log_q = model.quantizer.log_approximate_posterior(said)
            length = weighted_mean(model.prior.lengths(codes, embedded, log_q), weight)
            terms["code_length"] = length.detach()
            loss = loss + length
        return Loss(loss, terms)
