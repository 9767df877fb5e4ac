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
from modeflow.latents.tree.importance import ImportanceTree
from modeflow.latents.tree.likelihood import FlowOverLeaves, LeafLikelihood, RowContext
from modeflow.latents.tree.model import TreeLatentModel
from modeflow.latents.tree.prior import TreePrior
from modeflow.latents.tree.start import TreeStart
from modeflow.latents.tree.structure import Tree
from modeflow.options import check_choice, check_sizes

__all__ = ["LIKELIHOODS", "STATES", "TreeOptions"]

#: What may stand over the tree.
LIKELIHOODS = ("auto", "flow", "leaves")
#: What `states` may be beside a number.
COUNTS = ("auto", "search")
#: K of every column where nothing is said.
STATES = 64


@dataclass(kw_only=True)
class TreeOptions(TableLatent):
    """A tree of latents of tables: K states for every column, on the tree of columns that say most of one
    another.

    Arguments:
        states: K, of every column. "auto": of estimators 64, or of fewer than 1,920 rows 32 and of fewer than
            960 rows 16; of a model by itself 64. "search": estimators also try half and twice as many, where
            twice as many have 30 rows a state, and take them where they are clearly better on held-out rows.
        likelihood: "flow" (a flow of the numeric columns over the tree, which is its base), "leaves" (the
            tree alone: coarser, and every marginal and conditional is exact; it has no use for a flow), or
            "auto": what is likelier on held-out rows; of a model by itself the flow.
        min_scale: smallest scale of a state of a numeric column, in spreads of the column.
        proposal: whether a flow has a tree without one beside it, which is fitted first and fills missing
            cells: such rows then have a lower bound of their likelihood, and conditionals are estimates.
            "auto": where training cells are missing. False there: leaves alone are built.
        draws: completions of a row with missing cells by the proposal, that its bound averages over.
    """

    mixed: ClassVar[bool] = True

    states: int | str = "auto"
    likelihood: str = "auto"
    min_scale: float = 0.005
    proposal: bool | str = "auto"
    draws: int = 16

    def __post_init__(self) -> None:
        check_sizes(draws=self.draws)
        if not isinstance(self.states, str):
            check_sizes(states=self.states)
        elif self.states not in COUNTS:
            raise ConfigError(f"states must be a number, 'auto' or 'search', received {self.states!r}")
        check_choice("likelihood", self.likelihood, LIKELIHOODS)
        if not (isinstance(self.proposal, bool) or self.proposal == "auto"):
            raise ConfigError(f"proposal must be True, False or 'auto', received {self.proposal!r}")
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
        if self.likelihood == "leaves" or not any(f.kind == "real" for f in columns):
            return self._of_leaves(columns)
        context = RowContext(columns)
        flow = likelihood(context.features)
        over = FlowOverLeaves(Leaves(columns, self._states, self.min_scale), context, flow)
        prior = TreePrior(Tree.star(len(columns)), self._states)
        if self.proposal is True:
            return ImportanceTree(prior, over, self._of_leaves(columns), TreeStart(), self.draws)
        return TreeLatentModel(prior, over, TreeStart())

    @property
    def _states(self) -> int:
        return STATES if isinstance(self.states, str) else int(self.states)

    def _of_leaves(self, columns: Sequence[Feature]) -> TreeLatentModel:
        leaves = LeafLikelihood(Leaves(columns, self._states, self.min_scale))
        return TreeLatentModel(TreePrior(Tree.star(len(columns)), self._states), leaves, TreeStart())
