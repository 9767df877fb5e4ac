"""What if: the distribution of a column given cells of others, beside the rows that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup

from modeflow.densities.features import as_features
from modeflow.domains import MixedDomain
from modeflow.domains.rows import RowDomain
from modeflow.errors import ConfigError
from modeflow.estimators.conditionals import conditionals_of
from modeflow.latents import chow_liu, mutual_information
from modeflow.report import words
from modeflow.report.canvas import label, styled
from modeflow.report.marginals import Marginal, marginal_of, marginal_of_numbers, plot_marginal
from modeflow.report.sections import Picture, Section
from modeflow.report.trees import TreeView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Answer",
    "answer_of",
    "plot_conditional",
    "questions_of",
    "questions_of_numbers",
    "what_if_section",
]

#: Rows drawn for a picture; share of the rows nearest to a number that stand for those that have it; fewest
#: rows worth a histogram.
_DRAWS, _NEAREST, _FEWEST = 2000, 0.05, 20
#: Questions of a report; levels of a column that is asked by.
_QUESTIONS, _LEVELS = 6, 15


@dataclass(frozen=True)
class Answer:
    """A column given cells of others.

    Attributes:
        given: the cells, in words. marginal: of the column, in the rows that have them and in rows drawn.
        rows: how many rows have them; None where there are no rows to look at, and the drawn ones without the
            condition stand in their place.
    """

    given: str
    marginal: Marginal
    rows: int | None

    @property
    def title(self) -> str:
        """What is asked, in words."""
        return f"{self.marginal.name} given {self.given}"

    @property
    def beside(self) -> str:
        """What the drawn rows are compared with, in words."""
        if self.rows is None:
            return "grey: drawn without the condition"
        return f"grey: {words.plural(self.rows, 'such row')}"


def answer_of(
    estimator: Any,
    name: str,
    given: Mapping[str, Any],
    values: np.ndarray | None = None,
    *,
    random_state: Any = None,
) -> Answer:
    """Draw a column given cells of others, ``p(x_name | x_given)``.

    Arguments:
        estimator: fitted to a table. name: of the column. given: values by column.
        values: encoded rows to compare with: those that have the cells given (of a number, the twentieth of
            them that is nearest). None, or fewer than 20 such rows: rows drawn without the condition.
        random_state: seed of the drawing; the estimator's own if None.

    Raises:
        ConfigError: an unknown column, one that is given and asked for, or rows that are no table's.
        DataError: a value that its column cannot have.
    """
    domain: RowDomain = conditionals_of(estimator).domain_  # type: ignore[assignment]
    column = domain.check_name(name)
    if not given:
        raise ConfigError("given must name a value of at least one column, such as {'city': 'Rome'}")
    if name in given:
        raise ConfigError(f"column '{name}' cannot be given and asked for at once")
    drawn = estimator.sample_given(given, _DRAWS, random_state=random_state)
    rows: int | None = None
    if values is not None:
        beside = values[_having(domain, given, values)]
        rows = len(beside)
    if rows is None or rows < _FEWEST:
        beside, rows = (
            domain.validate(estimator, estimator.sample(_DRAWS, random_state=random_state)[0]),
            None,
        )
    samples = domain.validate(estimator, drawn)[:, column]
    if isinstance(domain, MixedDomain):
        marginal = marginal_of(domain.schema.modelled[column], beside[:, column], samples)
    else:
        marginal = marginal_of_numbers(domain.features()[column], beside[:, column], samples)
    text = ", ".join(
        f"{key} = {words.quantity(v) if isinstance(v, float) else v}" for key, v in given.items()
    )
    return Answer(text, marginal, rows)


def _having(domain: RowDomain, given: Mapping[str, Any], values: np.ndarray) -> np.ndarray:
    """Which encoded rows have the cells given; of numbers, the nearest."""
    asked = domain.given(given, 1)[0]
    chosen = np.ones(len(values), dtype=bool)
    for j in np.flatnonzero(~np.isnan(asked)):
        feature = domain.features()[j]
        if feature.levels:
            chosen &= values[:, j] == asked[j]
            continue
        away = np.abs(values[:, j] - asked[j])
        if feature.circular:
            period = feature.period
            away = np.minimum(away % period, -away % period)
        if np.isfinite(away).any():
            chosen &= away <= np.nanquantile(away, _NEAREST)
    return chosen


@styled
def plot_conditional(
    estimator: Any, name: str, given: Mapping[str, Any], data: Any = None, *, random_state: Any = None
) -> Figure:
    """Draw the distribution of a column given cells of others; see `answer_of`.

    Arguments:
        data: rows to compare with, of the kind that was fitted.

    Example:
        ``plot_conditional(model, "price", given={"cut": "Ideal"}, data=diamonds)``
    """
    domain: RowDomain = conditionals_of(estimator).domain_  # type: ignore[assignment]
    values = None if data is None else domain.validate(estimator, data)
    answer = answer_of(estimator, name, given, values, random_state=random_state)
    figure = plot_marginal(answer.marginal)
    figure.suptitle(f"{label(answer.title, 60)}\nblue: drawn; {answer.beside}", fontsize=9)
    return figure


def questions_of(domain: MixedDomain, tree: TreeView, values: np.ndarray) -> list[tuple[str, dict[str, Any]]]:
    """What a report asks: the other ends of the strongest edges at columns of few levels, given their two
    most frequent ones.

    Arguments:
        domain: of the rows. tree: of the columns. values: encoded rows.
    """
    names, found = domain.schema.names, []
    for one, other, information in tree.edges:
        if information <= 0 or one not in names or other not in names:
            continue  # a node that says whether a cell is an atom
        for given, asked in ((one, other), (other, one)):
            j = names.index(given)
            if not 2 <= domain.schema.features()[j].levels <= _LEVELS:
                continue
            codes = values[:, j][np.isfinite(values[:, j])].astype(np.int64)
            levels = domain.schema[given].decode(
                np.argsort(-np.bincount(codes), kind="stable")[:2].astype(float)
            )
            found += [(asked, {given: level}) for level in levels.tolist()]
            break
        if len(found) >= _QUESTIONS:
            break
    return found[:_QUESTIONS]


def questions_of_numbers(domain: RowDomain, values: np.ndarray) -> list[tuple[str, dict[str, Any]]]:
    """What a report of numbers asks: the ends of the strongest edges of their Chow-Liu tree, the one given a
    low and a high value of the other, those below and above which a tenth of the rows lie.

    Arguments:
        domain: of the rows. values: encoded rows, ``(N, D)``.
    """
    if values.shape[1] < 2:
        return []
    rows, features = torch.from_numpy(values), as_features(values.shape[1])
    information = mutual_information(rows, features)
    edges = sorted(chow_liu(rows, features).edges, key=lambda edge: -float(information[edge]))
    found = []
    for given, asked in edges[: _QUESTIONS // 2]:
        low, high = np.quantile(values[:, given], [0.1, 0.9], method="nearest")
        found += [(domain.names[asked], {domain.names[given]: float(v)}) for v in (low, high) if low < high]
    return found


def what_if_section(answers: list[Answer]) -> Section:
    """Pictures of columns given values of others."""
    text = (
        "A column given a value of another that says much of it. Blue: drawn from the model given that "
        "value; grey: the training rows that have it, of a number the twentieth of them that is nearest. "
        "Others are asked in Python, by plot_conditional."
    )
    pictures = []
    for answer in answers:
        caption = Markup("<strong>{}</strong>; {}").format(label(answer.title, 60), answer.beside)
        alt = f"{answer.title}; {answer.marginal.alt}"
        pictures.append(Picture.lines(plot_marginal(answer.marginal), alt, caption))
    return Section("what-if", "What if", (text,), pictures=pictures)
