"""The contract of a domain: what a row is, from files to the model's tensors and back.

Estimators, runs, report and commands are written once against `Domain`. A new kind of data is one class that
implements what is abstract here, a line in `modeflow.domains.registry`, an estimator that names it (its
parameters and how its model is built), and its sections of the report (`modeflow.report`).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from modeflow.domains._to_score import Encoded, RowsToScore
from modeflow.errors import ConfigError, DataError
from modeflow.metrics import BitsPerDim, LogLikelihood
from modeflow.transforms.base import Exactness, Transform

__all__ = ["Domain", "Encoded", "Parts", "RowsToScore", "held_out"]

#: A mean likelihood as it is reported in this domain.
Likelihood = LogLikelihood | BitsPerDim

#: Rows of a part that are scored, at least, where not all are.
LEAST_SCORED = 1000


class Parts(Protocol):
    """Training, validation and test rows."""

    @property
    def train(self) -> Any: ...
    @property
    def validation(self) -> Any: ...
    @property
    def test(self) -> Any: ...
    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows in each."""
        ...


class Domain(ABC):
    """What a row is. An instance is what a model was fitted to: columns, or a shape.

    The class methods are about sources of data, before anything is fitted.
    """

    #: In configurations and results.
    name: ClassVar[str]
    #: What one row is called.
    word: ClassVar[str]
    #: Key of the likelihood in results, and what it is measured in.
    measure: ClassVar[str]
    units: ClassVar[str]
    #: What one row's score is called where single rows are told.
    shown: ClassVar[str]
    #: Whether what z costs is told beside a score.
    costs: ClassVar[bool] = False
    #: Whether other densities may stand beside a model of its rows (`modeflow.estimators.stacking`).
    stacks: ClassVar[bool] = False
    #: Whether its sources are tables, of which many may be named at once, and large ones be read in parts.
    of_tables: ClassVar[bool] = False
    #: Whether distances between its rows mean something: islands are looked for, errors of rows measured.
    distances: ClassVar[bool] = True
    #: Settings of a run that say how its data are read, with their defaults.
    defaults: ClassVar[Mapping[str, Any]]
    #: What `scale` is.
    extent: ClassVar[str] = "range"
    #: Precision in which densities are scored; None: as the model is.
    scored_in: ClassVar[torch.dtype | None] = None
    #: Rows scored at once.
    block_rows: ClassVar[int]
    #: How many are drawn unless told.
    drawn: ClassVar[int]
    #: Whether results tell the likelihood of the training rows as well.
    scores_training: ClassVar[bool] = True
    #: Whether its rows can be shown as pictures.
    pictured: ClassVar[bool] = False

    # -- sources ---------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def accepts(cls, source: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> bool:
        """Whether DATA names rows of this domain.

        Arguments:
            source: DATA. settings: those that were given, which may say how it is read.
        """

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        """Refuse settings of a run that this domain cannot be read by (`ConfigError`)."""

    @classmethod
    @abstractmethod
    def load(cls, settings: Mapping[str, Any]) -> Any:
        """The data set that the settings of a run name, with its ``name`` and ``notes``.

        Raises:
            DataError: if it is not there. ConfigError: for settings that are not allowed.
        """

    @classmethod
    @abstractmethod
    def split(cls, data: Any, settings: Mapping[str, Any]) -> Parts:
        """Its parts: as published, by file, or at random by the seed."""

    @classmethod
    def prepare(cls, estimator: Any, data: Any) -> None:
        """Set the parameters of an estimator that the data say."""

    @classmethod
    def notes(cls, data: Any, parts: Parts) -> list[str]:
        """What was guessed about the files of the parts."""
        return list(data.notes)

    @classmethod
    def rows(cls, part: Any) -> Any:
        """The rows of a part as an estimator takes them."""
        return part

    @classmethod
    @abstractmethod
    def some(cls, part: Any, count: int) -> Any:
        """So many rows of a part, evenly drawn; all where there are no more."""

    def scored(self, parts: Parts, hurried: bool) -> dict[str, Any]:
        """The parts whose likelihood results tell, as an estimator takes them.

        Of the training rows as many as there are test rows: the mean is as exact as the one that it is
        compared to, and takes no longer. Whoever interrupted the training waits for the process to end: then
        so few are scored of all parts.
        """
        found = {"validation": parts.validation, "test": parts.test}
        if self.scores_training:
            count = max(LEAST_SCORED, parts.sizes[2])
            found = {"train": self.some(parts.train, count), **found}
        if hurried:
            found = {name: self.some(part, LEAST_SCORED) for name, part in found.items()}
        return {name: self.rows(part) for name, part in found.items()}

    @abstractmethod
    def read(self, source: str, settings: Mapping[str, Any], **how: Any) -> RowsToScore:
        """Rows to be scored by a fitted estimator, read as those of its run; a bad row costs itself alone.

        Arguments:
            source: DATA. settings: of the run.
            how: options of the command: ``columns``, ``header``, ``skip_text``; and ``holes``, whether cells
                may be missing, as they are to be filled.

        Raises:
            DataError: other rows than the model's, or none that can be scored.
        """

    def read_parts(self, source: str, settings: Mapping[str, Any], **how: Any) -> Iterator[RowsToScore]:
        """The same in parts of a bounded size, where the source is large."""
        yield self.read(source, settings, **how)

    # -- what a model is fitted to ---------------------------------------------------------------

    @classmethod
    @abstractmethod
    def learn(cls, estimator: Any, X: Any) -> tuple[Self, np.ndarray]:
        """The domain of rows to be fitted, by the parameters of the estimator, and their values.

        Raises:
            DataError: rows that no density can be fitted to.
        """

    @abstractmethod
    def validate(self, estimator: Any, X: Any) -> np.ndarray:
        """Rows to be scored, checked and in the model's order.

        Raises:
            DataError: other columns or shapes than those fitted.
        """

    @abstractmethod
    def validation(self, X: Any) -> np.ndarray:
        """Validation rows that were given apart, checked."""

    def said(self) -> dict[str, Any]:
        """Parameters of an estimator that say what the rows are, so that parts of them, which may look like
        something else, are taken for the same."""
        return {}

    def confirm(self, blocks: Iterator[np.ndarray]) -> None:
        """Refuse rows that are not what a sample of them was taken for (`DataError`)."""

    def check_training(self, values: np.ndarray) -> None:
        """Refuse training rows that hold out too much (`DataError`)."""

    @abstractmethod
    def to_tensor(self, values: np.ndarray) -> Tensor:
        """Rows as the model is given them."""

    @abstractmethod
    def from_tensor(self, x: Tensor) -> Any:
        """What the model draws, as the user is given it."""

    @abstractmethod
    def preprocessing(self) -> Transform:
        """From rows to what the latent-variable model sees, not yet fitted; part of the density, the noise
        included that whole numbers need."""

    def fit_preprocessing(self, transform: Any, rows: Tensor, weight: Tensor | None, bare: bool) -> None:
        """Fit it to training rows; `bare`: without what a flow of pixels has no use for."""

    def warn(self, values: np.ndarray, precision: str, bare: bool) -> None:
        """Warn of training rows that the precision cannot tell apart."""

    @abstractmethod
    def summarise(
        self,
        log_prob: np.ndarray,
        kind: Exactness,
        cost: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> Likelihood:
        """A mean likelihood as it is reported here.

        Arguments:
            log_prob: of every row, nats. kind: what it is. cost: what z costs of it. weight: of the rows.
        """

    @staticmethod
    @abstractmethod
    def likelihood(row: Mapping[str, Any]) -> Likelihood:
        """The same from a result."""

    @abstractmethod
    def scores(self, log_prob: np.ndarray, cost: np.ndarray | None, kind: Exactness) -> dict[str, np.ndarray]:
        """The columns that `score` writes, by name, ``(N,)`` each; what the numbers are is part of a name."""

    def told(self, log_prob: np.ndarray) -> np.ndarray:
        """The score of every row in the unit of `shown`."""
        return log_prob

    @abstractmethod
    def trivial(self, train: np.ndarray, rows: np.ndarray, weight: np.ndarray | None) -> Trivial:
        """A density that anybody can write down, on rows; a model that is worse is not worth its name."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain values for a model file."""

    @classmethod
    @abstractmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The domain that `to_dict` wrote."""

    def remember(self, estimator: Any) -> None:
        """Give an estimator that was read from a file what `learn` left on it."""

    # -- results and samples ---------------------------------------------------------------------

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What results say of the rows: columns, or shape and levels."""

    @staticmethod
    @abstractmethod
    def size_text(result: Mapping[str, Any]) -> str:
        """How many rows a result is about, and of what size, in words."""

    @abstractmethod
    def scale(self, values: np.ndarray) -> np.ndarray:
        """What differences of rows are told in: the range of a pixel, the spread of every column."""

    def measures(self, estimator: Any, data: Any, parts: Parts) -> dict[str, Any]:
        """What results tell of this domain alone, such as the gap to a known truth."""
        return {}

    @staticmethod
    def measure_lines(result: Mapping[str, Any]) -> list[str]:
        """`measures` for people."""
        return []

    @abstractmethod
    def check_target(self, out: str | None, with_state: bool) -> None:
        """Refuse, before anything is drawn, where samples cannot be written (`ConfigError`, `DataError`)."""

    @abstractmethod
    def write(self, out: str, samples: Any, z: np.ndarray | None) -> tuple[str, dict[str, Any]]:
        """Write samples (and the state of each, if asked for): words about it, and where they lie."""

    def write_parts(self, out: str, parts: Iterator[tuple[Any, Any]]) -> tuple[str, dict[str, Any]]:
        """The same of samples that come in parts, of a domain `of_tables`."""
        raise NotImplementedError

    def listed(self, samples: Any, z: np.ndarray | None) -> dict[str, Any]:
        """Samples as JSON, where they are not written."""
        raise ConfigError(f"samples are {self.word}s: say where to with -o")

    def as_polars(self, samples: Any, z: np.ndarray | None) -> pl.DataFrame:
        """Samples (and the state of each, if asked for) as a data frame."""
        raise ConfigError(f"samples are {self.word}s, which no data frame holds")

    def from_cells(self, columns: Mapping[str, Any], holes: bool = False) -> Any:
        """Rows as the estimator takes them, of plain columns by name: lists, arrays or series.

        Arguments:
            columns: the cells. holes: whether some may be missing (NaN, None) though the model scores
                complete rows alone, as they are to be filled.

        Raises:
            DataError: other columns than the model's, or a cell that its column cannot have (column, row and
                value are named).
        """
        raise ConfigError(f"the model is one of {self.word}s, which have no columns")


@dataclass(frozen=True)
class Trivial:
    """Log-density of rows under what anybody can write down.

    Attributes:
        log_prob: nats, ``(M,)``. name: of that density.
        per_unit: nats of what the excess is told in: 1, or those of a bit per dimension of a row.
        least: excess, in that unit, that is no cause for a warning.
        unit: with advice.
    """

    log_prob: np.ndarray
    name: str
    per_unit: float
    least: float
    unit: str


def held_out(
    n: int, fraction: Any, seed: int, word: str, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers for training (sorted) and validation, at random.

    Arguments:
        n: rows. fraction: of them for validation. seed: of the drawing. word: for a row.
        strata: of every row its group, ``(N,)``: of each the same share is held out, up to a row, and never
            all.

    Raises:
        DataError: fewer than three rows.
    """
    if n < 3:
        raise DataError(f"{n} {word}s are too few to fit: 3 are needed, and many more are wanted")
    count = min(max(round(fraction * n), 1), n - 2)
    order = np.random.default_rng(seed).permutation(n)
    if strata is not None:
        order = _in_turns(order, np.asarray(strata)[order], count)
    return np.sort(order[count:]), order[:count]


def _in_turns(order: np.ndarray, strata: np.ndarray, count: int) -> np.ndarray:
    """The same rows, the first `count` of them evenly from all groups, whose first rows stay behind."""
    ranked = np.argsort(strata, kind="stable")
    first = np.ones(len(order), dtype=bool)
    first[1:] = strata[ranked][1:] != strata[ranked][:-1]
    pool = order[ranked][~first]
    if len(pool) < count:  # hardly a group has two rows
        return order
    taken = pool[(2 * np.arange(count) + 1) * len(pool) // (2 * count)]
    return np.concatenate([taken, order[~np.isin(order, taken)]])
