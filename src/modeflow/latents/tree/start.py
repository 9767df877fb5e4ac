r"""Where a tree starts: on the tree of Chow and Liu, states on parts of each feature, tables on their pairs.

With :math:`r_i(k) \propto p(x_i \mid z_i = k)` the share of a value in the states of its feature,

.. math:: A_i(j, k) \propto c_i(j, k) + \alpha_i\, q_i(k), \qquad
    c_i(j, k) = \sum_x r_{\mathrm{pa}(i)}(j)\, r_i(k), \qquad q_i(k) \propto \sum_x r_i(k)

How many rows α of "whatever the parent" an edge is given is what makes its counts likeliest, their rows drawn
from a Dirichlet distribution (`polya_strength`): few where the parent says much, and so many where it says
nothing that the table has nothing to learn from chance.

In training such a prior holds tables that say little (`TreePrior.divergence`), and leaves alone those that
say much, which become sharper than they start: its strength is α w², where w = α / (α + N / K) is the share
of "whatever the parent" in a row of the table at the start.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeflow.latents.starting import Looked, as_rows
from modeflow.latents.tree.chow_liu import chow_liu
from modeflow.latents.tree.model import TreeLatentModel
from modeflow.progress import busy

__all__ = ["TreeStart", "polya_strength"]

#: Rows whose shares are held at once, times features and states.
_BLOCK = 2**24
#: Spread of the noise on the logarithms of the tables, which tells equal states apart.
_NOISE = 0.05


def polya_strength(counts: Tensor, common: Tensor) -> Tensor:
    r"""The α of every edge under which its counts are likeliest, ``(E,)``, of powers of two up to 2^16.

    .. math:: \log p(c) = \sum_j \Big[\log\frac{\Gamma(\alpha)}{\Gamma(\alpha + c(j, \cdot))} +
        \sum_k \log\frac{\Gamma(\alpha q(k) + c(j, k))}{\Gamma(\alpha q(k))}\Big] + \text{constant}

    Arguments:
        counts: of pairs of states, ``(E, K, K)``. common: q of the children, ``(E, K)``.
    """
    grid = 2.0 ** torch.arange(17, dtype=torch.float64, device=counts.device)
    found = []
    for c, q in zip(counts.double(), common.double(), strict=True):
        evidence = [
            (torch.lgamma(a * q + c) - torch.lgamma(a * q)).sum()
            + (torch.lgamma(a) - torch.lgamma(a + c.sum(1))).sum()
            for a in grid
        ]
        found.append(grid[int(torch.stack(evidence).argmax())])
    return torch.stack(found).to(counts) if found else counts.new_zeros(0)


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
        count = len(x)
        if count > self.max_rows:
            x = x[torch.randperm(len(x), generator=generator)[: self.max_rows].to(x.device)]
        leaves, prior = model.likelihood.leaves, model.prior
        with busy("start the tree"):
            x = leaves.hide_absent(x)
            tree = chow_liu(x.cpu(), leaves.features)
            prior.set_tree(tree)
            leaves.start(x, generator)
            pairs, hard, shares = self._counts(model, x)
            usual = _shares(shares)
            alpha = polya_strength(hard, _shares(hard.sum(1)))
            tables = pairs + alpha[:, None, None] * usual[1:].unsqueeze(1)
            noise = _NOISE * torch.randn(tables.shape, generator=generator, dtype=tables.dtype)
            tables = tables / tables.sum(-1, keepdim=True) * noise.to(tables.device).exp()
            share = alpha / (alpha + count / leaves.n_states)
            prior.set_probs(usual[0], usual[1:], tables, alpha * share.square() / max(count, 1))

    def _counts(self, model: TreeLatentModel, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft counts of pairs of states along the edges, the same of likeliest states, and of states."""
        leaves, tree = model.likelihood.leaves, model.prior.tree
        parents = tree.parent_places.to(x.device)
        pairs = torch.zeros(len(tree) - 1, leaves.n_states, leaves.n_states, device=x.device)
        hard = torch.zeros_like(pairs)
        shares = torch.zeros(len(tree), leaves.n_states, device=x.device)
        for part in x.split(max(1, _BLOCK // (len(tree) * leaves.n_states))):
            share = leaves.in_order(part, tree.order).softmax(-1)
            share = share.masked_fill(part.isnan().mT[list(tree.order)].unsqueeze(-1), 0.0).to(pairs)
            pairs += torch.bmm(share[parents].mT, share[1:])
            likeliest = (share == share.amax(-1, keepdim=True)) & (share > 0)
            likeliest = likeliest.to(share) / likeliest.sum(-1, keepdim=True).clamp_min(1)
            hard += torch.bmm(likeliest[parents].mT, likeliest[1:])
            shares += share.sum(1)
        return pairs, hard, shares


def _shares(counts: Tensor) -> Tensor:
    """Counts in the last dimension as probabilities, none of them zero."""
    return (counts + 1e-3) / (counts + 1e-3).sum(-1, keepdim=True)
