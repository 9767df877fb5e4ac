r"""Where a tree starts: on the tree of Chow and Liu, states wide, tables on their pairs.

With :math:`r_i(k) \propto p(x_i \mid z_i = k)` the share of a value in the states of its feature,

.. math:: A_i(j, k) \propto \Big[\sum_x r_{\mathrm{pa}(i)}(j)\, r_i(k) + q_i(k)\Big]\, e^{\sigma \eta_{ijk}},
    \qquad q_i(k) \propto \sum_x r_i(k), \qquad \eta \sim N(0, 1)

States that were narrow parts of their feature from the first would say its value alone, and their tables the
pairs of values of the training rows: that is a poor optimum, which learns chance. Wide ones that overlap
(`Leaf.start`), told apart by noise, leave room for what columns further off have in common.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeflow.latents.starting import Looked, as_rows
from modeflow.latents.tree.chow_liu import chow_liu
from modeflow.latents.tree.model import TreeLatentModel
from modeflow.progress import busy

__all__ = ["TreeStart"]

#: Rows whose shares are held at once, times features and states.
_BLOCK = 2**24
#: Spread σ of the noise on the logarithms of the tables, which tells states apart that are alike.
_NOISE = 0.3


@dataclass(frozen=True)
class TreeStart:
    """Starts tree, leaves and tables on the rows as the model sees them, ``(N, F)``.

    Arguments:
        max_rows: looked at, at the most.
    """

    max_rows: int = 20_000

    @torch.no_grad()
    def __call__(
        self, model: TreeLatentModel, rows: Tensor | Looked, seed: int = 0, steps: int | None = None
    ) -> None:
        x = as_rows(rows).to(model.device, model.dtype)
        generator = torch.Generator().manual_seed(seed)
        if len(x) > self.max_rows:
            x = x[torch.randperm(len(x), generator=generator)[: self.max_rows].to(x.device)]
        leaves, prior = model.likelihood.leaves, model.prior
        with busy("start the tree"):
            x = leaves.hide_absent(x)
            prior.set_tree(chow_liu(x.cpu(), leaves.features))
            leaves.start(x, generator)
            pairs, states = self._counts(model, x)
            usual = _shares(states)
            tables = pairs + usual[1:].unsqueeze(1)
            noise = _NOISE * torch.randn(tables.shape, generator=generator, dtype=tables.dtype)
            prior.set_probs(usual[0], tables / tables.sum(-1, keepdim=True) * noise.to(tables.device).exp())

    def _counts(self, model: TreeLatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
        """Soft counts of pairs of states along the edges, and of states."""
        leaves, tree = model.likelihood.leaves, model.prior.tree
        parents = tree.parent_places.to(x.device)
        pairs = torch.zeros(len(tree) - 1, leaves.n_states, leaves.n_states, device=x.device)
        shares = torch.zeros(len(tree), leaves.n_states, device=x.device)
        for part in x.split(max(1, _BLOCK // (len(tree) * leaves.n_states))):
            share = leaves.in_order(part, tree.order).softmax(-1)
            share = share.masked_fill(part.isnan().mT[list(tree.order)].unsqueeze(-1), 0.0).to(pairs)
            pairs += torch.bmm(share[parents].mT, share[1:])
            shares += share.sum(1)
        return pairs, shares


def _shares(counts: Tensor) -> Tensor:
    """Counts in the last dimension as probabilities, none of them zero."""
    return (counts + 1e-3) / (counts + 1e-3).sum(-1, keepdim=True)
