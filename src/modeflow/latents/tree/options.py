"""Options of a tree of states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from modeflow.densities.base import Density
from modeflow.densities.features import Feature, as_features
from modeflow.densities.leaves import Leaves
from modeflow.errors import ConfigError
from modeflow.latents.options import TableLatent
from modeflow.latents.tree.likelihood import FlowOverLeaves, LeafLikelihood, RowContext
from modeflow.latents.tree.model import TreeLatentModel
from modeflow.latents.tree.prior import TreePrior
from modeflow.latents.tree.start import TreeStart
from modeflow.latents.tree.structure import Tree
from modeflow.options import check_choice, check_sizes

__all__ = ["LIKELIHOODS", "TreeOptions"]

#: What may stand over the tree.
LIKELIHOODS = ("auto", "flow", "leaves")


@dataclass(kw_only=True)
class TreeOptions(TableLatent):
    """A tree of latents of tables: K states for every column, on the tree of columns that say most of one
    another.

    Arguments:
        states: K, of every column.
        likelihood: "flow" (a flow of the numeric columns over the tree, which is its base), "leaves" (the
            tree alone: coarser, and every marginal and conditional is exact; it has no use for a flow), or
            "auto": leaves where training cells are missing, else the flow.
        min_scale: smallest scale of a state of a numeric column, in spreads of the column.
    """

    mixed: ClassVar[bool] = True

    states: int = 64
    likelihood: str = "auto"
    min_scale: float = 0.005

    def __post_init__(self) -> None:
        check_sizes(states=self.states)
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        if not 0 < self.min_scale < 1:
            raise ConfigError(f"min_scale must lie between 0 and 1, received {self.min_scale!r}")

    def model(
        self, features: int | Sequence[Feature], n_states: int, likelihood: Callable[[int], Density]
    ) -> TreeLatentModel:
        """The model of rows ``(N, F)``.

        Arguments:
            features: how many reals, or what each feature is. n_states: not used, see `states`.
            likelihood: the flow of the real features by the width of its context.
        """
        columns = as_features(features)
        several = self.likelihood != "leaves" and any(f.kind == "real" for f in columns)
        context = RowContext(columns) if several else None
        flow = likelihood(context.features) if context is not None else None
        leaves = Leaves(columns, self.states, self.min_scale)
        over = (
            LeafLikelihood(leaves)
            if flow is None or context is None
            else FlowOverLeaves(leaves, context, flow)
        )
        prior = TreePrior(Tree.star(len(columns)), self.states)
        return TreeLatentModel(prior, over, TreeStart())
