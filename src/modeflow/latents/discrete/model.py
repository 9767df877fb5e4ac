"""The model with a discrete latent: one conditional flow shared by K states, density exact by a sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.densities.base import Density, Loss
from modeflow.errors import ConfigError
from modeflow.latents.base import Description, LatentModel, drawn_states
from modeflow.latents.discrete.objectives import Objective, categorical_kl
from modeflow.latents.discrete.prune import prune_dead_states
from modeflow.latents.discrete.use import use_of_states
from modeflow.latents.posteriors import CategoricalEncoder
from modeflow.latents.priors import CategoricalPrior

__all__ = ["DiscreteLatentModel", "PrunedLogProb"]

#: Encoder mass left out when validation is scored during training (a tight lower bound, one state a row).
_VALIDATION_EPSILON = 1e-4
#: Most validation rows that the encoder is calibrated by.
_CALIBRATION_ROWS = 4096
#: Rows by which it is measured what states say.
_MEASURED_ROWS = 256


@dataclass
class PrunedLogProb:
    """Result of a pruned evaluation.

    Attributes:
        log_prob: lower bound on the log-density, nats, shape ``(B,)``.
        encoder_mass: mass of the encoder on the states kept, shape ``(B,)``. If the encoder were the
            exact posterior, the gap would be ``-log(encoder_mass)``.
        evaluations: likelihood evaluations per row, on average (K would be all).
    """

    log_prob: Tensor
    encoder_mass: Tensor
    evaluations: float


class DiscreteLatentModel(LatentModel):
    r"""``p(x) = Σ_k π_k p(x | z = k)`` with one conditional density for all states.

    Arguments:
        prior: p(z), categorical over K states.
        likelihood: p(x|z), a density whose context is the one-hot state, ``context_features = K``. With
            K = 1 there is no latent: the likelihood is then an unconditional density, and the model
            equals it exactly.
        encoder: q(z|x); None only where K = 1.
        objective: what `objective` minimises; None only where K = 1 (plain maximum likelihood).
        chunk_rows: rows (of data times states) evaluated at once where no gradient is needed; bounds
            memory and keeps activations in cache.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """

    _usage: Tensor

    def __init__(
        self,
        prior: CategoricalPrior,
        likelihood: Density,
        encoder: CategoricalEncoder | None,
        objective: Objective | None,
        chunk_rows: int = 4096,
    ) -> None:
        super().__init__(likelihood.event_shape, 0)
        self.levels = likelihood.levels
        n_states = prior.n_states
        expected = n_states if n_states > 1 else 0
        if likelihood.context_features != expected:
            raise ConfigError(
                f"a latent with {n_states} states needs a likelihood with context_features={expected}, "
                f"received {likelihood.context_features}"
            )
        if n_states > 1 and (encoder is None or objective is None):
            raise ConfigError("a latent with more than one state needs an encoder and an objective")
        self.prior = prior
        self.likelihood = likelihood
        self.encoder = encoder
        self.loss = objective
        self.chunk_rows = chunk_rows
        self.exactness = likelihood.exactness
        # Sum of q(z|x) over the rows of an epoch: shows dead states while training.
        self.register_buffer("_usage", torch.zeros(n_states), persistent=False)

    @property
    def n_states(self) -> int:
        """K, pruned states included."""
        return self.prior.n_states

    def state_probs(self) -> Tensor:
        """Prior probabilities of the active states, shape ``(A,)``."""
        return self.prior.log_probs().exp()[self.prior.active].detach()

    def set_state_probs(self, probs: Tensor) -> None:
        self.prior.set_probs(probs.new_zeros(self.n_states).index_copy(0, self.prior.active_states(), probs))

    # -- likelihood of given states -------------------------------------------------------------

    def likelihood_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x | z)`` for a (relaxed) one-hot z ``(B, K)``; shape ``(B,)``."""
        return self.likelihood._log_prob(x, z if self.n_states > 1 else None)

    def _states_log_prob(self, x: Tensor, states: Tensor) -> Tensor:
        """``log p(x_i | z = states_i)``, shape ``(B,)``."""
        return self.likelihood_log_prob(x, F.one_hot(states, self.n_states).to(x.dtype))

    def log_likelihoods(self, x: Tensor, states: Tensor) -> Tensor:
        """``log p(x | z = k)`` for every row and every k in `states`, shape ``(B, len(states))``.

        All pairs are evaluated as one batch; without gradients it is cut into chunks of `chunk_rows`.
        """
        rows, n = x.shape[0], len(states)
        if n == 1 and self.n_states == 1:
            return self.likelihood._log_prob(x, None).unsqueeze(1)
        z = F.one_hot(states, self.n_states).to(x.dtype)
        if torch.is_grad_enabled() or rows * n <= self.chunk_rows:
            return self.likelihood._log_prob_of_each(x, z)
        step = max(1, self.chunk_rows // n)
        return torch.cat([self.likelihood._log_prob_of_each(part, z) for part in x.split(step)])

    # -- the density ----------------------------------------------------------------------------

    def log_joint(self, x: Tensor) -> Tensor:
        """``log π_k + log p(x | k)`` over the active states, shape ``(B, A)``, in nats."""
        self._check_event(x)
        states = self.prior.active_states()
        return self.log_likelihoods(x, states) + self.prior.log_probs()[states]

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return torch.logsumexp(self.log_joint(x), dim=-1)

    def traceable(self) -> Callable[[Tensor], Tensor]:
        if self.n_states == 1:
            return lambda x: self.likelihood._log_prob(x, None)
        states = self.prior.active_states()
        z, log_prior = (
            F.one_hot(states, self.n_states).to(self.dtype),
            self.prior.log_probs()[states].detach(),
        )
        return lambda x: torch.logsumexp(self.likelihood._log_prob_of_each(x, z) + log_prior, dim=-1)

    def posterior(self, x: Tensor) -> Tensor:
        """The exact posterior ``p(z = k | x)`` by Bayes, over the active states, shape ``(B, A)``.

        A row whose density is zero under every state says nothing of z: its posterior is the prior.
        """
        return torch.softmax(self._informed(self.log_joint(x)), dim=-1)

    def _informed(self, joint: Tensor) -> Tensor:
        """`log_joint`, with the prior for rows that no state gives any density."""
        none = (joint == -torch.inf).all(-1, keepdim=True)
        return torch.where(none, self.prior.log_probs()[self.prior.active_states()].to(joint), joint)

    def log_posterior(self, x: Tensor) -> Tensor:
        """The logarithm of `posterior`, over the active states, shape ``(B, A)``."""
        return torch.log_softmax(self.log_joint(x), dim=-1)

    def log_approximate_posterior(self, x: Tensor) -> Tensor:
        """The encoder's ``log q(z | x)``, shape ``(B, K)``: over all states, -inf for those switched off."""
        if self.encoder is None:
            return x.new_zeros(x.shape[0], 1)
        log_q: Tensor = self.encoder(x, self.prior.active)
        return log_q

    def approximate_posterior(self, x: Tensor) -> Tensor:
        """The encoder's ``q(z = k | x)`` over the active states, shape ``(B, A)``."""
        self._check_event(x)
        return self.log_approximate_posterior(x).exp()[:, self.prior.active]

    def elbo(self, x: Tensor) -> Tensor:
        r"""The evidence lower bound with the expectation summed exactly, nats, shape ``(B,)``.

        .. math:: \log p(x) - \mathrm{KL}(q(z|x) \,\|\, p(z|x))
        """
        self._check_event(x)
        states = self.prior.active_states()
        log_q = self.log_approximate_posterior(x)[:, states]
        joint = self.log_joint(x)
        q = log_q.exp()
        return torch.where(q > 0, q * (joint - log_q), torch.zeros_like(q)).sum(-1)

    def likely_states(self, q: Tensor, epsilon: float) -> Tensor:
        """Per row, the fewest states that hold 1 - ε of the mass of ``q (B, A)``; boolean ``(B, A)``."""
        if epsilon == 0:  # a state may hold no mass to machine precision and yet matter
            return torch.ones_like(q, dtype=torch.bool)
        ordered, order = q.sort(dim=-1, descending=True)
        # A state is needed while the mass before it falls short of 1 - epsilon.
        keep = ordered.cumsum(-1) - ordered < 1 - epsilon
        keep[:, 0] = True
        return torch.zeros_like(keep).scatter(1, order, keep)

    def log_joint_of(self, x: Tensor, keep: Tensor) -> Tensor:
        """`log_joint` at the pairs marked in ``keep (B, A)`` alone, -inf elsewhere; shape ``(B, A)``."""
        states = self.prior.active_states()
        row, column = torch.nonzero(keep, as_tuple=True)
        size = len(row) if torch.is_grad_enabled() else self.chunk_rows
        parts = [
            self._states_log_prob(x[r], states[c])
            for r, c in zip(row.split(size or 1), column.split(size or 1), strict=True)
        ]
        values = torch.cat(parts) + self.prior.log_probs()[states][column]
        return x.new_full(keep.shape, float("-inf")).index_put((row, column), values)

    @torch.no_grad()
    def log_prob_pruned(self, x: Tensor, epsilon: float = 1e-6) -> PrunedLogProb:
        r"""Lower bound that evaluates, per row, only the states holding 1 - ε of the encoder's mass.

        .. math:: \log p(x) \ge \log \sum_{k \in S(x)} \pi_k\, p(x \mid k)

        The gap is exactly ``-log p(z in S | x)``; it vanishes where the encoder finds the states that
        matter.

        Arguments:
            x: rows, shape ``(B, *event_shape)``.
            epsilon: encoder mass that may be left out, in ``[0, 1)``.
        """
        if not 0 <= epsilon < 1:
            raise ConfigError(f"epsilon must lie in [0, 1), received {epsilon}")
        self._check_event(x)
        q = self.log_approximate_posterior(x).exp()[:, self.prior.active]
        keep = self.likely_states(q, epsilon)
        log_prob = torch.logsumexp(self.log_joint_of(x, keep), -1)
        return PrunedLogProb(log_prob, (q * keep).sum(-1), float(keep.sum()) / max(len(x), 1))

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, Any]:
        """What states say of some of the rows: ``discrete``, see `use_of_states`."""
        if self.encoder is None or len(x) == 0:
            return {}
        parts = []
        for part in x[:_MEASURED_ROWS].to(self.device, self.dtype).split(self.chunk_rows):
            exact = torch.log_softmax(self._informed(self.log_joint(part)), -1)
            parts.append((exact, self.log_approximate_posterior(part)[:, self.prior.active]))
        exact, said = (torch.cat(each) for each in zip(*parts, strict=True))
        return {"discrete": use_of_states(exact, said, self.prior.log_probs()[self.prior.active])}

    @torch.no_grad()
    def calibrate(self, x: Tensor, weight: Tensor | None = None) -> float:
        r"""Set the encoder's sharpness a to what brings it closest to the exact posterior on these rows.

        .. math:: \min_{1/4 \le a \le 4} \; -E \sum_k p(z = k | x) \log \operatorname{softmax}(a\, l(x))_k

        Training stops pushing down states once they hold a ten-thousandth of the mass, so that a network is
        less sure than it has reason to be, and a pruned evaluation keeps states that matter nowhere. Rows
        that it assigns to the wrong state hold a back. Needs all states of the rows: K evaluations each.

        Arguments:
            x: rows that were not trained on, shape ``(B, *event_shape)``.
            weight: of the rows, shape ``(B,)``.

        Returns:
            the sharpness.
        """
        self._check_event(x)
        encoder = self.encoder
        sharp = isinstance(encoder, CategoricalEncoder)
        if not sharp or len(self.prior.active_states()) == 1 or len(x) == 0:
            return 1.0
        assert encoder is not None
        posterior = self.posterior(x).double()
        encoder.sharpness.fill_(1.0)
        mode = encoder.training
        encoder.eval()
        parts = [encoder(part, self.prior.active) for part in x.split(self.chunk_rows)]
        log_q = torch.cat(parts)[:, self.prior.active].double()
        encoder.train(mode)
        weights = torch.ones_like(log_q[:, 0]) if weight is None else weight.to(log_q)
        candidates = torch.logspace(-2, 2, 33, base=2, dtype=torch.float64).tolist()

        def cost(a: float) -> float:
            return float(-(weights * (posterior * torch.log_softmax(a * log_q, -1)).sum(-1)).sum())

        best = min(candidates, key=cost)
        encoder.sharpness.fill_(best)
        return best

    def validation_log_prob(self, x: Tensor) -> Tensor:
        """`log_prob_pruned`, nearly all of it; `log_prob` where there is one state."""
        return (
            self.log_prob(x) if self.n_states == 1 else self.log_prob_pruned(x, _VALIDATION_EPSILON).log_prob
        )

    @torch.no_grad()
    def finish(
        self,
        train: Tensor,
        validation: Tensor,
        weight: Tensor | None = None,
        validation_weight: Tensor | None = None,
        prune: bool = True,
    ) -> list[int]:
        mode = self.training
        self.eval()
        dead = prune_dead_states(self, train, validation, weight, validation_weight) if prune else []
        few = None if validation_weight is None else validation_weight[:_CALIBRATION_ROWS]
        self.calibrate(validation[:_CALIBRATION_ROWS].to(self.device, self.dtype), few)
        self.train(mode)
        return dead

    # -- sampling -------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_with_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        if state is None:
            context, states = self.draw(n, generator, prior_temperature)
        elif prior_temperature != 1.0:
            raise ConfigError(f"state={state} is given, so that none is drawn: leave prior_temperature at 1")
        else:
            context, states = self._only(state, n)
        return self.decode(context, n, generator, temperature), states

    def draw_state(self, state: int, n: int) -> tuple[Tensor | None, Tensor]:
        return super().draw_state(state, n) if self.n_states == 1 else self._only(state, n)

    def _only(self, state: int, n: int) -> tuple[Tensor | None, Tensor]:
        """Contexts and numbers of one of the active states, n times.

        Raises:
            ConfigError: if there is no such state.
        """
        active = self.prior.active_states()
        if not 0 <= state < len(active):
            raise ConfigError(f"state must lie in 0..{len(active) - 1}, received {state}")
        return self._context(active[state].repeat(n)), torch.full((n,), state, device=active.device)

    def _context(self, states: Tensor) -> Tensor | None:
        return None if self.n_states == 1 else F.one_hot(states, self.n_states).to(self.dtype)

    def rsample_strata(
        self, n: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.n_states == 1:
            return self.likelihood.rsample_strata(n, generator)
        states = self.prior.active_states()
        z = F.one_hot(states, self.n_states).to(self.dtype).repeat(n, 1)
        x, _ = self.likelihood.rsample_and_log_prob(len(z), z, generator)
        log_prob = self._log_prob(x, None).view(n, len(states))
        return x.view(n, len(states), *self.event_shape), log_prob, self.prior.log_probs()[states]

    def infer(self, x: Tensor) -> Tensor | None:
        if self.n_states == 1:
            return None
        return self._context(self.log_approximate_posterior(x).argmax(-1))

    def read(self, x: Tensor) -> Tensor:
        return self.log_joint(x).argmax(1)

    def read_drawn(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return drawn_states(self.log_joint(x), generator)

    def describe(self) -> Description:
        if self.n_states == 1:
            return Description("none", "one density", 0, "")
        count = int(self.prior.active.sum())
        return Description("discrete", f"{count} state{'s' if count > 1 else ''}", count, "state")

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor | None, Tensor]:
        if self.n_states == 1 and temperature != 1.0:
            raise ConfigError("the latent has one state, and no use for a temperature: leave it at 1")
        with torch.no_grad():
            z = self.prior.draw_events(n, None, generator, temperature)
        return self._context(z), torch.searchsorted(self.prior.active_states(), z)

    def latent_cost(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x)) if self.n_states == 1 else self.log_prob_and_cost(x)[1]

    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        joint = self.log_joint(x)
        log_prob = torch.logsumexp(joint, -1)
        if self.n_states == 1:
            return log_prob, x.new_zeros(len(x))
        log_prior = self.prior.log_probs()[self.prior.active_states()]
        return log_prob, categorical_kl(torch.log_softmax(self._informed(joint), -1), log_prior)

    # -- fitting --------------------------------------------------------------------------------

    def _objective(self, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        if self.loss is None or self.n_states == 1:
            # Some likelihoods (a score model, a bound) are not fitted by their own log-density.
            return self.likelihood.objective(x, weight, step)
        return self.loss(self, x, weight, step)

    @torch.no_grad()
    def count_usage(self, log_q: Tensor) -> None:
        """Count the states that the encoder gave rows while training, for `epoch_metrics`."""
        self._usage.add_(log_q.exp().sum(0))  # `+=` would set the attribute anew, for as long again

    def epoch_metrics(self) -> dict[str, float]:
        """Entropy (nats) and effective number of states used since the last call; then start anew."""
        if self.n_states == 1 or float(self._usage.sum()) == 0:
            return {}
        usage = (self._usage / self._usage.sum()).double()
        entropy = float(-(usage * usage.clamp_min(1e-300).log()).sum())
        self._usage.zero_()
        return {"usage_entropy": entropy, "states_used": float((usage > 0.1 / len(usage)).sum())}

    @torch.no_grad()
    def usage(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Share of the data in each of the K states by the exact posterior, shape ``(K,)``.

        Arguments:
            x: rows, shape ``(B, *event_shape)``.
            weight: of the rows, shape ``(B,)``, with mean one over the whole data (not the batch).
        """
        share = self.posterior(x)
        if weight is not None:
            share = share * weight.unsqueeze(-1)
        full = share.new_zeros(self.n_states)
        full[self.prior.active] = share.mean(0)
        return full
