"""A run that is loaded once and answers questions about rows; knows nothing of HTTP."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from modeflow.data.columns.files import plain_rows
from modeflow.data.columns.writing import numbered
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators import assigned_columns, conditionals_of
from modeflow.estimators.reasons import reasons_text
from modeflow.estimators.surprises import expected, is_score, left_out, surprises_of
from modeflow.metrics import rank_p_values
from modeflow.runs import Run
from modeflow.training import shield

__all__ = ["Answer", "Limits", "Served", "plain_numbers", "recorded"]

#: Columns beyond those of the model that rows may have, for messages that name them.
_MORE_COLUMNS = 20
#: Rows drawn unless told.
_DRAWN = 100


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        rows: that come in, or go out. megabytes: of a body. reasons: rows that are explained, each of which
            may take hundreds of densities a column. seconds: for a body to arrive. waiting: requests that are
            answered or wait, beyond which others are turned away.
    """

    rows: int = 10_000
    megabytes: float = 16.0
    reasons: int = 100
    seconds: float = 30.0
    waiting: int = 64

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 < self.megabytes < math.inf:
            raise ConfigError(
                f"limits must be 1 row or more and more than 0 MB, received {self.rows} and {self.megabytes}"
            )

    @property
    def bytes(self) -> int:
        """Of a body."""
        return int(self.megabytes * 1e6)


@dataclass(frozen=True)
class Answer:
    """Rows of an answer, and what else is said of them.

    Attributes:
        frame: the rows, for Arrow. listed: the rows as JSON has them, where numbers that are not finite are
            null. told: plain values beside them.
    """

    frame: pl.DataFrame
    told: Mapping[str, Any]
    listed: Mapping[str, Any]


class Served:
    """A fitted model of a table, and its answers.

    Arguments:
        run: the run. limits: of a request. usual: rows drawn for what surprises are expected.

    Raises:
        ConfigError: a run of images.
    """

    def __init__(self, run: Run, limits: Limits | None = None, usual: int = 200) -> None:
        estimator: Any = run.estimator
        self.run, self.estimator, self.domain = run, estimator, estimator.domain_
        self.limits = Limits() if limits is None else limits
        if not hasattr(self.domain, "schema"):
            raise ConfigError(f"rows of tables are served, and the run is one of {self.domain.word}s")
        self.estimator.verbose = False
        columns = self.domain.schema.columns
        self.column_names = tuple(getattr(column, "name", column) for column in columns)
        self.most_columns = len(self.column_names) + _MORE_COLUMNS
        self._usual_rows = usual
        self._usual: np.ndarray | None = None
        self._held = _held_scores(run)

    # -- what it is ------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """The columns, what scores are, and what can be asked, as plain values."""
        latent, limits = self.estimator.latent_.describe(), self.limits
        return {
            "model": self.run.config["model"],
            "run": self.run.path.resolve().name,
            "data": str(self.run.config["data"]),
            **self.domain.facts,
            "all_columns": list(self.column_names),
            "density": self.estimator.density_kind_,
            "units": self.domain.units,
            "latent": latent.kind,
            "states": self.estimator.n_states_,
            "conditionals": self.conditionals(),
            "limits": {"rows": limits.rows, "megabytes": limits.megabytes, "reasons": limits.reasons},
            "warnings": self.run.warnings,
        }

    def conditionals(self) -> str | None:
        """What conditionals are, "exact" or an "estimate"; None where the model has none."""
        try:
            return str(conditionals_of(self.estimator).conditional_kind_)
        except ConfigError:
            return None

    # -- answers ---------------------------------------------------------------------------------

    def score(self, columns: Mapping[str, Any]) -> Answer:
        """Log-density of every row."""
        log_prob, cost, kind = self.estimator.scores(self.domain.from_cells(columns))
        told = {"n": len(log_prob), "density": kind, "units": self.domain.units}
        return Answer(
            pl.DataFrame(self.domain.scores(log_prob, cost, kind)),
            told,
            {
                "log_density": plain_numbers(log_prob),
                "impossible": np.flatnonzero(np.isneginf(log_prob)).tolist(),
            },
        )

    def assign(self, columns: Mapping[str, Any]) -> Answer:
        """z of every row."""
        latent = self.estimator.latent_.describe()
        found, _ = assigned_columns(self.estimator, self.domain.from_cells(columns))
        frame = pl.DataFrame(found)
        told = {"n": frame.height, "latent": latent.kind}
        return Answer(frame, told, {name: plain_numbers(column) for name, column in found.items()})

    def sample(
        self,
        n: int | None = None,
        *,
        given: Mapping[str, Any] | None = None,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
        states: bool = False,
        seed: int | None = None,
    ) -> Answer:
        """New rows (100 unless told), or rows that have the cells given; with z of each if `states`.

        Raises:
            ConfigError, DataError: as of the estimator's `sample` and `sample_given`.
        """
        n = min(_DRAWN, self.limits.rows) if n is None else n
        self._check_rows(n, "n")
        seed = self._seed(seed)
        told: dict[str, Any] = {"n": n, "seed": seed, "kind": "exact"}
        z: np.ndarray | None
        if given:
            if state is not None or temperature != 1 or prior_temperature != 1:
                raise ConfigError("given draws from a conditional: it takes no state and no temperature")
            drawing = conditionals_of(self.estimator)
            rows = drawing.sample_given(given, n, random_state=seed)
            told |= {"given": dict(given), "kind": drawing.conditional_kind_of(self.domain.given(given, n))}
            z = np.asarray(self.estimator.encode(rows)) if states else None
        else:
            rows, z = self.estimator.sample(
                n, state=state, temperature=temperature, prior_temperature=prior_temperature,
                random_state=seed,
            )  # fmt: skip
        z = z if states else None
        return Answer(self.domain.as_polars(rows, z), told, self.domain.listed(rows, z))

    def impute(
        self,
        columns: Mapping[str, Any],
        m: int = 1,
        *,
        mean: bool = False,
        unseen: str = "error",
        seed: int | None = None,
    ) -> Answer:
        """Rows with their missing cells filled; m tables below one another, numbered in a column."""
        estimator = conditionals_of(self.estimator)
        rows = self.domain.from_cells(columns, holes=True)
        values = self.domain.known(rows, unseen)
        self._check_rows(len(values) * m, "rows times m")
        seed = self._seed(seed)
        filled = estimator.fill(values, rows, m, how="mean" if mean else "draw", random_state=seed)
        counts = np.isnan(values).sum(0).tolist()
        told = {
            "n": len(values),
            "m": m,
            "seed": seed,
            "kind": estimator.conditional_kind_of(values),
            "filled": {name: n for name, n in zip(self.domain.names, counts, strict=True) if n},
        }
        frame = numbered([self.domain.as_polars(table, None) for table in filled])
        return Answer(frame, told, {"columns": frame.columns, "rows": plain_rows(frame)})

    @shield()
    def reasons(self, columns: Mapping[str, Any]) -> Answer:
        """Of every row its log-density, its p-value among the run's test rows, and what each cell is more
        surprising than expected given the others, nats.

        Raises:
            DataError: more rows than are explained at once, or as of `score`.
        """
        if not hasattr(self.estimator, "surprises"):
            raise ConfigError("the model says nothing of single columns")
        rows, count = self.domain.from_cells(columns), len(next(iter(columns.values())))
        if count > self.limits.reasons:
            raise DataError(f"{count} rows are too many to explain; at most {self.limits.reasons} at once")
        joint, rest = left_out(self.estimator, rows)
        if is_score(self.estimator):
            scores, kind = joint, self.estimator.density_kind_of(rows)
        else:
            scores, _, kind = self.estimator.scores(rows)
        excess = surprises_of(joint, rest) - self._expected()
        names = self.domain.facts["columns"]
        p = rank_p_values(scores, self._held) if self._held.size else np.full(len(scores), np.nan)
        why = [reasons_text(row, names) for row in excess]
        score = next(iter(self.domain.scores(scores, None, kind)))
        cells = {f"nats_{name}": column for name, column in zip(names, excess.T, strict=True)}
        frame = pl.DataFrame({score: scores, "p_value": p, "why": why, **cells})
        listed = {
            "log_density": plain_numbers(scores),
            "p_value": plain_numbers(p),
            "why": why,
            "nats": {name: plain_numbers(c) for name, c in zip(names, excess.T, strict=True)},
            "impossible": {
                name: np.flatnonzero(np.isposinf(c)).tolist()
                for name, c in zip(names, excess.T, strict=True)
                if np.isposinf(c).any()
            },
        }
        return Answer(frame, {"n": count, "density": kind, "rows_held_out": self._held.size}, listed)

    # -- inside ----------------------------------------------------------------------------------

    def _check_rows(self, rows: int, what: str) -> None:
        if not 1 <= rows <= self.limits.rows:
            raise DataError(f"{what} must lie between 1 and {self.limits.rows}, received {rows}")

    @staticmethod
    def _seed(seed: int | None) -> int:
        """The seed asked for, or a new one, which the answer tells."""
        return secrets.randbelow(2**32) if seed is None else seed

    def _expected(self) -> np.ndarray:
        """Expected surprises of the columns, ``(D,)``; measured when they are first asked for."""
        if self._usual is None:
            drawn, _ = self.estimator.sample(self._usual_rows, random_state=0)
            self._usual = expected(self.estimator.surprises(drawn))
        return self._usual


def _held_scores(run: Run) -> np.ndarray:
    """Scores of the test rows; none where the run has kept none."""
    try:
        return run.held_scores()
    except ModelFileError:
        return np.zeros(0)


def plain_numbers(values: np.ndarray) -> list[float | int | None]:
    """Numbers as JSON has them: null where they are not finite."""
    if values.dtype.kind in "iu":
        return list(values.tolist())
    return [v if math.isfinite(v) else None for v in values.tolist()]


def recorded(function: Callable[[], Answer]) -> Answer:
    """An answer, which tells what was warned of while it was found, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        answer = function()
    said = list(dict.fromkeys(" ".join(str(each.message).split()) for each in caught))
    return replace(answer, told={**answer.told, "warnings": said})
