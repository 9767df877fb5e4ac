r"""The model with a tree of states: one K-state latent a feature, density exact by messages.

.. math::
    p(x) = \sum_{z \in \{1 \dots K\}^F} p(z)\, p(x \mid z) =
    \left|\det \frac{\partial T}{\partial x}\right| \sum_z \pi(z_\mathrm{root})
    \prod_{i \ne \mathrm{root}} A_i(z_{\mathrm{pa}(i)}, z_i) \prod_f p(u_f \mid z_f)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from modeflow.densities.base import Density, Loss
from modeflow.densities.leaf_kinds import category_at
from modeflow.errors import ConfigError
from modeflow.latents.base import Description, LatentModel
from modeflow.latents.starting import Starter
from modeflow.latents.tree.likelihood import LeafLikelihood
from modeflow.latents.tree.messages import Upward, downward, plain_log_prob, tree_log_prob, upward
from modeflow.latents.tree.prior import TreePrior
from modeflow.transforms.noise import open_uniform

__all__ = ["TreeLatentModel"]

#: Rows times features times states evaluated at once, by type of device: what a cache holds; what keeps a
#: GPU busy.
_BLOCK = {"cpu": 2**20, "cuda": 2**26}


class TreeLatentModel(LatentModel):
    r"""``p(x) = Σ_z p(z) p(x | z)`` over K^F combinations of states, summed exactly: F K² products a row.

    A state of z is one number a feature, so that z is ``(B, F)``. Cells of a row that are NaN are summed and
    integrated out exactly where `sums_out` says so: by leaves always, under a flow all reals at once.

    Arguments:
        prior: p(z). likelihood: p(x|z), leaves or a flow over them.
        starter: where training starts. chunk_rows: rows drawn at once.

    Raises:
        ConfigError: parts of different features or states.

    Reference:
        Liu and Van den Broeck, *Tractable Regularization of Probabilistic Circuits*, 2021 (hidden Chow-Liu
        trees), https://arxiv.org/abs/2106.02264
    """

    prior: TreePrior
    likelihood: LeafLikelihood
    fills = True

    def __init__(
        self,
        prior: TreePrior,
        likelihood: LeafLikelihood,
        starter: Starter | None = None,
        chunk_rows: int = 4096,
    ) -> None:
        super().__init__(likelihood.event_shape, 0)
        leaves = likelihood.leaves
        if prior.event_shape != likelihood.event_shape or prior.n_states != leaves.n_states:
            raise ConfigError(
                f"a prior over {prior.event_shape[0]} features of {prior.n_states} states does not fit "
                f"leaves of {len(leaves)} features of {leaves.n_states}"
            )
        self.prior, self.likelihood, self.starter = prior, likelihood, starter
        self.chunk_rows = chunk_rows
        self.exactness = likelihood.exactness

    # -- the density ----------------------------------------------------------------------------

    def _leaves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Leaf log-densities by places, ``(F, B, K)``, and the log-determinant, ``(B,)``."""
        u, logabsdet = self.likelihood.straighten(x)
        return self.likelihood.leaves.in_order(u, self.prior.tree.order), logabsdet

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self._log_prob_of(x)

    def _log_prob_of(self, x: Tensor) -> Tensor:
        """`log_prob` of rows that are summed exactly (`LeafLikelihood.sums_out`)."""
        prior = self.prior
        root, transitions = prior.root_probs(), prior.transition_probs()

        def log_prob(rows: Tensor) -> Tensor:
            leaves, logabsdet = self._leaves(rows)
            return tree_log_prob(leaves, root, transitions, prior.tree) + logabsdet

        if torch.is_grad_enabled():
            return log_prob(x)
        return torch.cat([log_prob(part) for part in self._blocks(x)])

    def traceable(self) -> Callable[[Tensor], Tensor]:
        tree = self.prior.tree

        def log_prob(x: Tensor) -> Tensor:
            leaves, logabsdet = self._leaves(x)
            probs = self.prior.root_probs(), self.prior.transition_probs()
            return logabsdet + plain_log_prob(leaves, *probs, tree)

        return log_prob

    def _blocks(self, x: Tensor, times: int = 1) -> tuple[Tensor, ...]:
        """Rows that are evaluated at once, so many times each, where no gradient is needed: few enough to
        stay in cache."""
        block = _BLOCK.get(x.device.type, _BLOCK["cpu"])
        size = max(64, block // (x.shape[1] * self.prior.n_states))
        return x.split(max(1, size // times))

    def _objective(self, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        return Density.objective(self, x, weight, step)

    def _both_ways(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Upward]:
        """Leaves, log-determinant, posteriors by places, and the way up."""
        leaves, logabsdet = self._leaves(x)
        transitions = self.prior.transition_probs()
        up = upward(leaves, self.prior.root_probs(), transitions, self.prior.tree)
        return leaves, logabsdet, downward(up, transitions, self.prior.tree)[0], up

    @torch.no_grad()
    def node_posterior(self, x: Tensor) -> Tensor:
        """``p(z_f = k | x)`` of every feature, exact, ``(B, F, K)``."""
        self._check_event(x)
        places = list(self.prior.tree.places)
        return torch.cat([self._both_ways(part)[2][places].transpose(0, 1) for part in self._blocks(x)])

    def sums_out(self, x: Tensor) -> Tensor:
        return self.likelihood.sums_out(x)

    @torch.no_grad()
    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The rows with every NaN drawn given what is observed: one way up, one down, and what is drawn bent
        by the flow, which is told the other features. Exact where `sums_out` says so.

        What a flag says is absent stays NaN.

        Arguments:
            x: rows, ``(B, F)``. generator: source of randomness.

        Raises:
            DataError: a cell that is missing beside a real under a flow.
        """
        return TreeLatentModel.completions(self, x, 1, generator)[0]

    @torch.no_grad()
    def completions(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`complete`, n times, ``(n, B, F)``; the way up is gone once."""
        self._check_event(x)
        parts = []
        for part in self._blocks(x, n):
            noise = open_uniform((n * len(part), self.noise_width), torch.float64, x.device, generator)
            u, up = self.look(part)
            drawn = self.likelihood.bend(self.fill(u.repeat(n, 1), up.repeated(n), noise))
            parts.append(torch.where(part.isnan(), drawn.view(n, *part.shape), part))
        return torch.cat(parts, 1)

    @property
    def noise_width(self) -> int:
        """Uniform numbers that `fill` takes for a row: for the state and for the value of each feature."""
        return 2 * self.event_shape[0]

    def look(self, x: Tensor) -> tuple[Tensor, Upward]:
        """What the leaves see of rows ``(B, F)``, and the messages from there up, for `fill`."""
        u, _ = self.likelihood.straighten(x)
        leaves = self.likelihood.leaves.in_order(u, self.prior.tree.order)
        up = upward(leaves, self.prior.root_probs(), self.prior.transition_probs(), self.prior.tree)
        return u, up

    def fill(self, u: Tensor, up: Upward, noise: Tensor) -> Tensor:
        """What the leaves see, every NaN drawn given the others by uniform numbers ``(B, noise_width)``.

        States come first, from their posterior down the tree; what a drawn flag says is absent is NaN.
        """
        tree, transitions = self.prior.tree, self.prior.transition_probs()
        of_state, of_value = noise.tensor_split(2, 1)
        z = torch.empty(u.shape, dtype=torch.long, device=u.device)
        root = tree.order[0]
        z[:, root] = category_at(up.root.log(), of_state[:, root])
        for place, (parent, child) in enumerate(tree.edges):
            joint = transitions[place][z[:, parent]] * up.evidence[place + 1]
            z[:, child] = category_at(joint.log(), of_state[:, child])
        drawn = self.likelihood.leaves.sample(z, of_value)
        return self.likelihood.leaves.hide_absent(torch.where(u.isnan(), drawn, u))

    @torch.no_grad()
    def drawn(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Completions of rows and their density given the cells that are there, exact for leaves alone.

        Arguments:
            x: rows ``(B, F)``, of which flags are known where they can be.
            noise: uniform numbers, ``(S, B, noise_width)``.

        Returns:
            full rows ``(S, B, F)``, and ``log p(x_m | x_o)`` of each, nats, ``(S, B)``.
        """
        draws = len(noise)
        u, up = self.look(x)
        many = up.repeated(draws)
        full = self.fill(u.repeat(draws, 1), many, noise.flatten(0, 1))
        log_q = self.log_prob(full) - many.log_prob
        return full.view(draws, *x.shape), log_q.view(draws, len(x))

    # -- z --------------------------------------------------------------------------------------

    def infer(self, x: Tensor) -> Tensor:
        return self.read(x).to(self.dtype)

    def read(self, x: Tensor) -> Tensor:
        """Every feature's most probable state, ``(B, F)``."""
        return self.node_posterior(x).argmax(-1)

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z = self.prior.draw_events(n, None, generator, temperature)
        return z.to(self.dtype), z

    def describe(self) -> Description:
        features, count = self.event_shape[0], self.prior.n_states
        return Description("tree", f"a tree of {features} × {count} states", count, "state")

    def latent_cost(self, x: Tensor) -> Tensor:
        return self.log_prob_and_cost(x)[1]

    @torch.no_grad()
    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check_event(x)
        log_prob, cost = zip(*(self._prob_and_cost(part) for part in self._blocks(x)), strict=True)
        return torch.cat(log_prob), torch.cat(cost)

    def _prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        leaves, logabsdet, posterior, up = self._both_ways(x)
        # KL(p(z|x) || p(z)) = E[log p(x|z)] - log p(x), both without the determinant.
        expected = torch.where(posterior > 0, posterior * leaves, 0.0).sum((0, 2))
        return up.log_prob + logabsdet, expected - up.log_prob

    @torch.no_grad()
    def measure(self, x: Tensor) -> dict[str, Any]:
        """The tree's edges, and of every feature the states in use: the exponential of their entropy."""
        parts = [self.node_posterior(part).double().sum(0) for part in self._blocks(x)]
        share = torch.stack(parts).sum(0) / max(len(x), 1)
        used = torch.special.entr(share).sum(-1).exp()
        edges = [list(edge) for edge in self.prior.tree.edges]
        return {"tree": {"edges": edges, "states": self.prior.n_states, "used": used.cpu().tolist()}}
