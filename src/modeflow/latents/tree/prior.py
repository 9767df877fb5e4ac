r"""The prior over a tree of states.

.. math:: p(z) = \pi(z_\mathrm{root}) \prod_{i \ne \mathrm{root}} A_i(z_{\mathrm{pa}(i)}, z_i)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, check_temperature
from modeflow.densities.leaf_kinds import draw_categories
from modeflow.errors import ConfigError
from modeflow.latents.tree.structure import Tree

__all__ = ["TreePrior"]

#: Share of every table that is uniform: no message is zero, in single precision too.
_UNIFORM = 1e-6


class TreePrior(Density):
    r"""States of F features, each dependent on that of its parent in a tree; events are ``(F,)``.

    .. math:: A_i(j, \cdot) = (1 - \epsilon)\, \mathrm{softmax}(\theta_{ij}) + \epsilon / K, \qquad
        \epsilon = 10^{-6}

    Arguments:
        tree: over the features; `set_tree` gives another. It is stored with the parameters.
        n_states: K of every feature.
    """

    parents: Tensor
    tempers = True
    #: How much faster than a flow the tables learn (see `FlatParameters`).
    learning_rate_scale = 20.0

    def __init__(self, tree: Tree, n_states: int) -> None:
        super().__init__((len(tree),))
        self.n_states = self.levels = int(n_states)
        self.register_buffer("parents", torch.tensor(tree.parents))
        self._tree: Tree | None = tree
        self.root = nn.Parameter(torch.zeros(n_states))
        self.transitions = nn.Parameter(0.1 * torch.randn(len(tree) - 1, n_states, n_states))

    @property
    def tree(self) -> Tree:
        """The tree; tables are in the order of its places."""
        if self._tree is None:
            self._tree = Tree(tuple(self.parents.tolist()))
        return self._tree

    def set_tree(self, tree: Tree) -> None:
        """Another tree of the same features; the tables stay, and are those of other edges.

        Raises:
            ConfigError: if it has another number of features.
        """
        if len(tree) != len(self.parents):
            raise ConfigError(f"expected a tree of {len(self.parents)} features, received {len(tree)}")
        self.parents.copy_(torch.tensor(tree.parents))
        self._tree = tree

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        self._tree = None

    def root_probs(self) -> Tensor:
        """π, ``(K,)``."""
        return _floored(self.root)

    def transition_probs(self) -> Tensor:
        """A by places, the root's left out, ``(F - 1, K, K)``: rows are states of the parent."""
        return _floored(self.transitions)

    @torch.no_grad()
    def set_probs(self, root: Tensor, transitions: Tensor) -> None:
        """Set the probabilities ``(K,)`` and ``(F - 1, K, K)``, which are above zero."""
        self.root.copy_(root.log().to(self.root))
        self.transitions.copy_(transitions.log().to(self.transitions))

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        z = x.long()[:, list(self.tree.order)]
        edges = torch.arange(z.shape[1] - 1, device=z.device)
        above = z[:, self.tree.parent_places.to(z.device)]
        pairs = self.transition_probs()[edges, above, z[:, 1:]]
        return self.root_probs()[z[:, 0]].log() + pairs.log().sum(1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        """States, ``(n, F)``, parents first; every table is raised to ``1 / temperature``."""
        check_temperature(temperature, "above 0")
        tree, tables = self.tree, self.transition_probs().log()
        root = self.root_probs().log().expand(n, -1)
        z = torch.empty(n, len(tree), dtype=torch.long, device=self.parents.device)
        z[:, tree.order[0]] = draw_categories(root, generator, temperature)
        for table, (parent, child) in zip(tables, tree.edges, strict=True):
            z[:, child] = draw_categories(table[z[:, parent]], generator, temperature)
        return z


def _floored(logits: Tensor) -> Tensor:
    return (1 - _UNIFORM) * torch.softmax(logits, -1) + _UNIFORM / logits.shape[-1]
