"""What a report shows, as plain data: no model, no tensor, nothing that has to be loaded to be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from modeflow.errors import ConfigError, ShapeError, nearest
from modeflow.transforms.base import Exactness

__all__ = [
    "ColumnRow",
    "DataSummary",
    "DensityGrid",
    "LikelihoodRow",
    "StateRow",
    "WorstRow",
]

Role = Literal["model", "baseline", "known"]


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        words = ", ".join(repr(a) for a in allowed)
        raise ConfigError(f"{name} is {value!r}, not one of {words}{nearest(value, allowed)}")


@dataclass
class LikelihoodRow:
    """The mean log-likelihood of one model over a whole test set.

    Attributes:
        name: as it is to read in a sentence, "plain flow of equal size".
        value: mean log-density, nats per row, in the units of the data.
        standard_error: of `value`, over all `n` rows; None where there is none (a known entropy).
        kind: ``exact``, ``lower bound`` or ``estimate``.
        own_kind: what the density itself is, where offsets of integer columns alone make its score a lower
            bound; None for the same as `kind`. Rows scored in pairs share the offsets, and compare by it.
        n: rows scored.
        n_parameters: trainable numbers of the model, if it has them.
        note: what differs in protocol.
        role: ``model`` for the fitted model, ``baseline`` for those beside it, ``known`` for the true
            density (its value is minus the entropy: the best that any model reaches on average).
        difference: mean of (fitted model − this row) over the same rows, if measured in pairs.
        difference_standard_error: standard error of that paired difference.
    """

    name: str
    value: float
    standard_error: float | None = None
    kind: Exactness = "exact"
    n: int | None = None
    n_parameters: int | None = None
    note: str = ""
    role: Role = "baseline"
    difference: float | None = None
    difference_standard_error: float | None = None
    own_kind: Exactness | None = None

    def __post_init__(self) -> None:
        _one_of("LikelihoodRow.kind", self.kind, get_args(Exactness))
        if self.own_kind is not None:
            _one_of("LikelihoodRow.own_kind", self.own_kind, get_args(Exactness))
        _one_of("LikelihoodRow.role", self.role, get_args(Role))


@dataclass
class StateRow:
    """One state (mode) of the latent variable.

    Attributes:
        index: its number, from 0.
        prior_weight: p(z), None where the prior has no weights.
        usage: mean of q(z|x) over the training rows.
        rows: training rows whose most probable state this is.
        mean: mean of each column over those rows, None or NaN where there are none.
        pruned: whether the model has removed it.
        log_density: mean log-density of the test rows whose most probable state this is, nats.
    """

    index: int
    prior_weight: float | None
    usage: float
    rows: int
    mean: Sequence[float] | None = None
    pruned: bool = False
    log_density: float | None = None

    @property
    def dead(self) -> bool:
        """Still part of the model, but no row belongs to it."""
        return not self.pruned and self.rows == 0


@dataclass
class ColumnRow:
    """One column of the table; statistics are None where the kind has none."""

    name: str
    kind: str = "continuous"
    mean: float | None = None
    sd: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    missing: int = 0


@dataclass
class WorstRow:
    """A row that the model finds least likely.

    `row` counts from 1 in what `TableReport.worst_rows_of` names; for a file the header line is not counted.
    """

    row: int
    log_density: float
    state: int | None
    values: Sequence[float | str | None]


@dataclass
class DataSummary:
    """Where the rows came from and how they were split."""

    source: str
    train_rows: int
    validation_rows: int = 0
    test_rows: int = 0
    columns: list[ColumnRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class DensityGrid:
    """Log-density of the model on a grid: ``log_density[i, j]`` at ``(xs[j], ys[i])``.

    For one column `ys` is None and `log_density` has the shape of `xs`.
    """

    xs: np.ndarray
    ys: np.ndarray | None
    log_density: np.ndarray

    def __post_init__(self) -> None:
        self.xs = np.asarray(self.xs, dtype=float)
        self.log_density = np.asarray(self.log_density, dtype=float)
        expected: tuple[int, ...] = (len(self.xs),)
        if self.ys is not None:
            self.ys = np.asarray(self.ys, dtype=float)
            expected = (len(self.ys), len(self.xs))
        if self.log_density.shape != expected:
            raise ShapeError(
                f"log_density has shape {self.log_density.shape}; the grid needs {expected} "
                "(one row per y, one column per x)"
            )

    @classmethod
    def around(
        cls, log_density: Callable[[np.ndarray], np.ndarray], data: np.ndarray, size: int = 240
    ) -> DensityGrid:
        """Evaluate ``log_density``, from rows (n, columns) to (n,), on a grid over the range of `data`.

        Raises:
            ShapeError: `data` has neither one column nor two.
        """
        rows = np.asarray(data, dtype=float)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] not in (1, 2):
            raise ShapeError(f"a density grid needs data of one or two columns, got shape {rows.shape}")
        axes = []
        for x in rows.T:
            x = x[np.isfinite(x)]
            low, high = np.quantile(x, [0.001, 0.999]) if len(x) else (-1.0, 1.0)
            margin = 0.15 * (high - low) if high > low else 0.5 * max(abs(high), 1.0)
            axes.append(np.linspace(low - margin, high + margin, size))
        if len(axes) == 1:
            return cls(axes[0], None, np.asarray(log_density(axes[0][:, None])))
        x, y = np.meshgrid(*axes)
        values = np.asarray(log_density(np.column_stack([x.ravel(), y.ravel()])))
        return cls(axes[0], axes[1], values.reshape(x.shape))
