r"""A flow over a tree, of rows with missing cells: by draws from a tree without a flow.

With q a tree of leaves over the same features, of which every conditional is exact,

.. math::
    \log p(x_o) \ge E \log \frac1S \sum_{s=1}^S \frac{p(x_o, x_m^s)}{q(x_m^s \mid x_o)},
    \qquad x_m^s \sim q(x_m \mid x_o), \qquad
    q(x_m \mid x_o) = \frac{q(x_o, x_m)}{q(x_o)}.

The bound is tighter in expectation with every draw and exact in the limit; the quotients also say what
follows from the cells that are there: a mean over x_m is one weighted by them, a draw of x_m is one of the S
taken with their probability (sampling-importance-resampling), both exact in the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from modeflow.densities.base import Loss
from modeflow.errors import ConfigError
from modeflow.latents.starting import Looked, Starter
from modeflow.latents.tree.likelihood import FlowOverLeaves
from modeflow.latents.tree.model import TreeLatentModel
from modeflow.latents.tree.prior import TreePrior
from modeflow.latents.weighted import chosen_evenly, effective_draws, log_mean
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.noise import even_streams, in_row_noise, open_uniform, uniform_noise

__all__ = ["ImportanceTree"]

#: Draws a row while training; and where validation is scored meanwhile.
_TRAINING_DRAWS, _QUICK_DRAWS = 4, 4


class ImportanceTree(TreeLatentModel):
    r"""`TreeLatentModel` with a flow and a proposal q for missing cells, see the module.

    Rows without holes, and those in which no real is known, are scored exactly, as without a proposal. Of
    others `log_prob` is the bound with S = `draws`, whose noise is a function of the row: a row has the same
    value in every call and batch. Within an estimate that averages over draws of its own (columns on
    lattices) S is one: the mean is over both. `complete` and `node_posterior` are estimates there.

    It is fitted in two stages: q to the rows by its exact likelihood, then the flow and its tree by the bound
    (fresh draws a step from q, which stands still).

    Arguments:
        prior, likelihood, starter, chunk_rows: as of `TreeLatentModel`; the likelihood is a flow over leaves.
        proposal: q. draws: S.

    Raises:
        ConfigError: a likelihood that needs no proposal, a proposal of other features, or less than one draw.

    Reference:
        Burda, Grosse, Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        https://arxiv.org/abs/1509.00519; Rubin, *Using the SIR Algorithm to Simulate Posterior
        Distributions*, 1988
    """

    marginals: Exactness = "lower bound"
    stages = ("proposal", "flow")

    def __init__(
        self,
        prior: TreePrior,
        likelihood: FlowOverLeaves,
        proposal: TreeLatentModel,
        starter: Starter | None = None,
        draws: int = 16,
        chunk_rows: int = 4096,
    ) -> None:
        super().__init__(prior, likelihood, starter, chunk_rows)
        features = likelihood.leaves.features
        if isinstance(proposal.likelihood, FlowOverLeaves) or proposal.likelihood.leaves.features != features:
            raise ConfigError("a proposal is a tree without a flow, over the same features as the model")
        if not isinstance(draws, int) or draws < 1:
            raise ConfigError(f"draws must be an integer of 1 or more, received {draws!r}")
        self.proposal, self.draws = proposal, draws
        self.exactness = weakest("lower bound", likelihood.exactness)

    # -- fitting --------------------------------------------------------------------------------

    def start(self, rows: Tensor | Looked, seed: int, steps: int | None = None) -> None:
        """Both trees start alike where they have as many states: the search for their edges is one."""
        super().start(rows, seed, steps)
        if self.starter is None:
            return
        if self.proposal.prior.n_states != self.prior.n_states:
            self.starter(self.proposal, rows, seed, steps)
            return
        self.proposal.prior.load_state_dict(self.prior.state_dict())
        self.proposal.likelihood.leaves.load_state_dict(self.likelihood.leaves.state_dict())

    def at_stage(self, name: str = "joint", number: int = 0) -> None:
        super().at_stage(name, number)
        stage, of_proposal = self.schedule_now.stage, {id(p) for p in self.proposal.parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(stage != ("flow" if id(parameter) in of_proposal else "proposal"))

    def _objective(self, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        stage = self.schedule_now.stage
        if stage == "proposal":
            return self.proposal.objective(x, weight, step)
        loss = super()._objective(x, weight, step)
        if stage == "flow":
            return loss
        other = self.proposal.objective(x, weight, step)
        return Loss(loss.value + other.value, {**loss.terms, "proposal": other.terms["nll"]})

    def validation_log_prob(self, x: Tensor) -> Tensor:
        """What the stage fits: the likelihood of the proposal, or the bound with few draws."""
        if self.schedule_now.stage == "proposal":
            return self.proposal.log_prob(x)
        return self.bound(x, min(self.draws, _QUICK_DRAWS))

    def sums_out(self, x: Tensor) -> Tensor:
        """Of all rows, though not exactly (`marginals`)."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def exactness_of(self, x: Tensor) -> Exactness:
        """Exact, or what the flow's is, where the likelihood sums out all that is missing."""
        return self.likelihood.exactness if bool(self.likelihood.sums_out(x).all()) else self.exactness

    # -- the bound ------------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        if in_row_noise():
            return self.bound(x, 1)  # what is around averages already, and this with it
        return self.bound(x, min(self.draws, _TRAINING_DRAWS) if self.training else self.draws)

    def bound(self, x: Tensor, draws: int) -> Tensor:
        """`log_prob` with S = `draws`, nats, ``(B,)``."""
        self._check_event(x)
        return self._apart(x, draws, self._log_prob_of, lambda part: log_mean(self._drawn(part, draws)[1]))

    def _apart(
        self, x: Tensor, draws: int, whole: Callable[[Tensor], Tensor], holes: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """A function of rows that are summed exactly, and another, by so many draws, of the others."""
        exact = self.likelihood.sums_out(x)
        if bool(exact.all()):
            return whole(x)
        order = torch.cat((exact.nonzero(), (~exact).nonzero())).squeeze(1).argsort()
        rest = self.likelihood.leaves.with_flags(x[~exact])
        blocks = (rest,) if torch.is_grad_enabled() else self._blocks(rest, draws)
        return torch.cat((whole(x[exact]), *(holes(part) for part in blocks)))[order]

    def _noise(self, x: Tensor, draws: int) -> Tensor:
        """Noise for draws of q, ``(S, B, noise_width)``: fresh while training, else functions of the rows."""
        fresh = self.training and not in_row_noise()
        # As float32, so that a row has the same noise in both precisions.
        seen = self.likelihood.leaves.hide_absent(x).float()
        streams = (nullcontext() for _ in range(draws)) if fresh else even_streams(seen, draws, self)
        parts = []
        for stream in streams:
            with stream:
                parts.append(
                    uniform_noise(x.new_empty(len(x), self.proposal.noise_width, dtype=torch.float64))
                )
        return torch.stack(parts)

    def _drawn(self, x: Tensor, draws: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`log_weights` of rows whose flags are known where they can be; all draws are evaluated at once."""
        noise = self._noise(x, draws) if noise is None else noise
        full, log_q = self.proposal.drawn(x, noise)
        return full, self._log_prob_of(full.flatten(0, 1)).view_as(log_q) - log_q

    def log_weights(self, x: Tensor, draws: int | None = None) -> tuple[Tensor, Tensor]:
        """Completions of rows with holes, and the logarithms of their importance weights.

        Arguments:
            x: rows, ``(B, F)``. draws: S; that of the model if None.

        Returns:
            full rows, ``(S, B, F)``, and ``log p(x_o, x_m) - log q(x_m | x_o)`` of each, ``(S, B)``, nats.
        """
        self._check_event(x)
        return self._drawn(self.likelihood.leaves.with_flags(x), self.draws if draws is None else draws)

    # -- what follows from the cells that are there -----------------------------------------------

    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The rows with every NaN drawn given what is observed: `completions`, of which there is one."""
        return self.completions(x, 1, generator)[0]

    @torch.no_grad()
    def completions(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The rows n times with every NaN drawn given what is observed, ``(n, B, F)``.

        Exactly where no real is known. Elsewhere from among S completions by the proposal, n where that is
        more: each with the probability of its weight, together spread over the weights evenly (systematic
        resampling), so that means over the n are exacter than of as many by themselves.

        Arguments:
            x: rows, ``(B, F)``. n: how many. generator: source of randomness.
        """
        self._check_event(x)
        draws = max(n, self.draws)

        def chosen(part: Tensor) -> Tensor:
            size = (draws, len(part), self.proposal.noise_width)
            noise = open_uniform(size, torch.float64, x.device, generator)
            full, weights = self._drawn(part, draws, noise)
            first = open_uniform((len(part), 1), torch.float64, x.device, generator)
            which = chosen_evenly(weights, n, first)
            return full[which, torch.arange(len(part), device=x.device).unsqueeze(1)]

        exactly = super().completions

        def of_whole(part: Tensor) -> Tensor:
            return exactly(part, n, generator).transpose(0, 1)

        filled = self._apart(x, draws, of_whole, chosen).transpose(0, 1)
        return torch.where(x.isnan(), filled, x)

    @torch.no_grad()
    def node_posterior(self, x: Tensor) -> Tensor:
        """``p(z_f = k | x)`` of every feature, ``(B, F, K)``: of rows with holes a mean over completions."""
        self._check_event(x)
        whole = super().node_posterior

        def mean(part: Tensor) -> Tensor:
            full, weights = self._drawn(part, self.draws)
            each = whole(full.flatten(0, 1)).unflatten(0, weights.shape)
            return torch.einsum("sb,sbfk->bfk", weights.softmax(0), each)

        return self._apart(x, self.draws, whole, mean)

    def _prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        whole = super()._prob_and_cost

        def of_whole(part: Tensor) -> Tensor:
            return torch.stack(whole(part), 1)

        def mean(part: Tensor) -> Tensor:
            full, weights = self._drawn(part, self.draws)
            cost = whole(full.flatten(0, 1))[1].view(weights.shape)
            return torch.stack((log_mean(weights), (weights.softmax(0) * cost).sum(0)), 1)

        log_prob, cost = self._apart(x, self.draws, of_whole, mean).unbind(1)
        return log_prob, cost

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, Any]:
        """As of the tree; and how many of the draws count, as a mean over rows with holes.

        By the effective sample size of their weights, ``(Σ w)² / Σ w²``.
        """
        told = super().measure(x)
        rest = x[~self.likelihood.sums_out(x)]
        if len(rest):
            blocks = self._blocks(rest, self.draws)
            effective = float(
                torch.cat([effective_draws(self.log_weights(part)[1]) for part in blocks]).mean()
            )
            told["tree"] |= {"draws": self.draws, "effective_draws": effective}
        return told
