"""What a selection chooses from, and what it learns of every candidate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from modeflow.estimators.settings import is_tree
from modeflow.latents.tree import STATES

__all__ = [
    "Candidate",
    "Choice",
    "Choices",
    "apart",
    "mark_chosen",
    "mean_and_error",
    "most_states",
    "neighbours",
    "trees_beside",
    "usual_tree_states",
]

#: Rows a state needs to be tried.
_ROWS_PER_STATE = 30
#: Fewest states of every column of a tree, however few the rows.
_FEWEST_TREE_STATES = 16


@dataclass(frozen=True)
class Choice:
    """A recipe and its number of states: of rows, or of every column of a tree."""

    flow: str
    n_states: int


@dataclass(frozen=True)
class Choices:
    """What is to be chosen from.

    Attributes:
        flows: recipes; the first where there is nothing to choose by.
        n_states: K of flat states, or ``"auto"``.
        rivals: recipes of another kind, one of which is taken where it is clearly better than what was chosen
            of the others.
        tree_states: K of every column of a tree.
        other_trees: whether trees of other K are tried where a tree is chosen.
    """

    flows: Sequence[str]
    n_states: int | str = 1
    rivals: Sequence[str] = ()
    tree_states: int = 1
    other_trees: bool = False

    def of(self, flow: str, islands: int = 1) -> Choice:
        """A recipe with the number of states that it begins with.

        Arguments:
            flow: of the recipes. islands: flat states of those that are no rivals.
        """
        if is_tree(flow):
            return Choice(flow, self.tree_states)
        return Choice(flow, islands if flow in self.flows else 1)

    @property
    def only(self) -> Choice | None:
        """The one choice there is; None of several."""
        first = self.flows[0]
        tree = is_tree(first)
        several = (
            len(self.flows) > 1 or self.rivals or (self.other_trees if tree else self.n_states == "auto")
        )
        return None if several else self.of(first, 1 if tree else int(self.n_states))


@dataclass
class Candidate:
    """What is known of a choice.

    Attributes:
        flow, n_states: the choice. length: of the training, in short ones.
        rows: scored by models that had not seen them.
        validation: mean log-density of these rows, nats (where the density is a bound, of that).
        standard_error: of that mean.
        difference: mean paired difference to the best of those it was compared with, on the rows that both
            scored, nats; difference_error: its standard error.
        epochs: that both halves were trained for, in passes over all rows.
        seconds: that the candidate took.
        chosen: whether this one was, after its longest trial.
        halves: how many were fitted.
    """

    flow: str
    n_states: int
    length: int = 1
    rows: int = 0
    validation: float = -math.inf
    standard_error: float = math.inf
    difference: float = 0.0
    difference_error: float = 0.0
    epochs: float = 0.0
    seconds: float = 0.0
    chosen: bool = False
    halves: int = 0
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the scores."""
        values = asdict(self)
        del values["scores"]
        return values


def most_states(max_states: int, rows: int) -> int:
    """The largest K that is tried: a state keeps some 30 rows to be learned from."""
    return max(1, min(max_states, rows // _ROWS_PER_STATE))


def usual_tree_states(rows: int) -> int:
    """K of every column of a tree: `STATES`, or of few rows as many halves of it as keep 30 rows a state."""
    k = STATES
    while k > _FEWEST_TREE_STATES and k > rows // _ROWS_PER_STATE:
        k //= 2
    return k


def trees_beside(k: int, rows: int) -> list[int]:
    """K of the trees that are tried beside one of K: a half and twice, where twice keeps 30 rows a state."""
    return [k // 2, 2 * k] if 2 * k <= rows // _ROWS_PER_STATE else []


def neighbours(k: int, most: int) -> list[int]:
    """Numbers of states beside K: one more and less of a few, a half and twice of many."""
    near = (k - 1, k + 1) if k <= 6 else (k // 2, 2 * k)
    return [n for n in near if 1 <= n <= most]


def mean_and_error(values: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """A mean and its standard error, by weights where there are some."""
    if len(values) == 0:
        return 0.0, math.inf
    w = np.ones(len(values)) if weight is None else weight
    share = w / w.sum()
    if not np.isfinite(values).all():  # a row without density decides; where both have such rows, the worse
        worse, better = (values == -np.inf).any(), (values == np.inf).any()
        return (-math.inf if worse or not better else math.inf), 0.0
    mean = float((share * values).sum())
    return mean, math.sqrt(float((share**2 * (values - mean) ** 2).sum()))


def apart(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Scores less others, row by row; NaN where either is not known, 0 of a row without density in both."""
    difference = np.zeros(len(one))
    np.subtract(one, two, out=difference, where=one != two)
    return difference


def mark_chosen(trials: Iterable[Candidate], choice: Choice) -> None:
    """Say of all trials whether their choice was taken: of the one that was, the last."""
    last = None
    for trial in trials:
        trial.chosen = False
        if (trial.flow, trial.n_states) == (choice.flow, choice.n_states):
            last = trial
    if last is not None:
        last.chosen = True
