"""What a report shows, as plain data: no model, no tensor, nothing that has to be loaded to be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from modeflow._version import __version__
from modeflow.errors import ConfigError, ShapeError, nearest
from modeflow.transforms.base import Exactness

__all__ = [
    "ColumnRow",
    "DataSummary",
    "DensityGrid",
    "LikelihoodRow",
    "ModelSummary",
    "ReportData",
    "StateRow",
    "Truth",
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

    `row` counts from 1 in what `ReportData.worst_rows_of` names; for a file the header line is not counted.
    """

    row: int
    log_density: float
    state: int | None
    values: Sequence[float | str | None]


@dataclass
class ModelSummary:
    """The model: its name, every parameter needed to repeat it, and the command that does."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    n_parameters: int | None = None
    command: str = ""


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


@dataclass
class Truth:
    """What is known of the density that the rows were drawn from; None where it is not.

    Attributes:
        entropy: of the true density, nats a row: minus its mean log-density.
        bridge_mass: share of the model's samples that lie far from every mode.
        true_bridge_mass: the same share for perfect samples.
        modes, modes_found: modes of the truth, and how many of them samples reach.
    """

    entropy: float | None = None
    bridge_mass: float | None = None
    true_bridge_mass: float | None = None
    modes: int | None = None
    modes_found: int | None = None


@dataclass
class ReportData:
    """Everything a report shows. Whatever is None or empty is left out of the page.

    Attributes:
        title, model, data_summary: of what the page is about.
        created: when, as text; None keeps the page the same every time.
        likelihoods: the fitted model's row first (or ``role="model"``), others beside it.
        history: one mapping an epoch, as `modeflow.training.History.epochs`: ``epoch``, ``train_loss`` and
            its terms (lower is better), ``validation`` (mean log-density) and any other numbers.
        states: one row a state; empty for a model without states.
        usage_entropy: of the states' usage, nats; computed from `states` if None.
        data, samples: (rows, columns) arrays in the units of the data for the pictures (thousands of rows
            are enough); `data_states` and `sample_states` hold a state for each row.
        columns: names; taken from `data_summary` if empty.
        latent: a continuous z of every row of `data` (its posterior's mean), ``(rows, dimensions)``.
        density: for one or two columns.
        worst_rows: least likely rows; `worst_rows_of` says in what their numbers count.
        truth: for data drawn from a known density.
        warnings: shown in a box at the top. notes: remarks, shown below it.
        seed, seconds, version: of the run; how long it took; of modeflow.
    """

    title: str
    model: ModelSummary
    data_summary: DataSummary
    created: str | None = None
    likelihoods: list[LikelihoodRow] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    states: list[StateRow] = field(default_factory=list)
    usage_entropy: float | None = None
    data: np.ndarray | None = None
    data_states: np.ndarray | None = None
    samples: np.ndarray | None = None
    sample_states: np.ndarray | None = None
    columns: list[str] = field(default_factory=list)
    latent: np.ndarray | None = None
    density: DensityGrid | None = None
    worst_rows: list[WorstRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    worst_rows_of: str = "the data"
    truth: Truth | None = None
    seed: int | None = None
    seconds: float | None = None
    version: str | None = __version__

    def __post_init__(self) -> None:
        if not self.columns:
            self.columns = [column.name for column in self.data_summary.columns]
        if self.usage_entropy is None and self.states:
            used = [s.usage for s in self.states if s.usage > 0]
            self.usage_entropy = max(0.0, -sum(u * math.log(u) for u in used))

    @property
    def model_row(self) -> LikelihoodRow | None:
        """The row of the fitted model: the one with that role, or else the first that is not known."""
        rows = [r for r in self.likelihoods if r.role != "known"]
        return next((r for r in rows if r.role == "model"), rows[0] if rows else None)
