"""What a page shows of a run, without a page: rows, samples, conditions, scores; kept where asked for again.

Everything that a model says is said by `modeflow.serving.model.Served`, as over HTTP.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch

from modeflow.domains import Encoded
from modeflow.errors import DataError, ModeflowError
from modeflow.estimators import assigned_columns
from modeflow.exploring.axes import Axis, axis_of
from modeflow.serving.model import Served

__all__ = ["PARTS", "Explored", "Rows", "ScoredFile", "shown"]

#: Parts of the data by what they are called, and rows of each that are shown; rows drawn.
PARTS = {"held out": "test", "training": "train", "validation": "validation"}
_SHOWN, _DRAWN = 1500, 500
#: Offsets of lattices over which a density is averaged for a picture.
_OFFSETS = 2
#: Answers that are kept.
_KEPT = 256
#: Least likely rows of a file that are listed.
_LISTED = 10
#: Kinds of files that may be dropped on the page.
_ENDINGS = (".csv", ".tsv", ".txt", ".dat", ".parquet")

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """Rows that are shown.

    Attributes:
        frame: the cells. values: the same encoded, ``(N, D)``, NaN where missing. states: of every node its
            state in every row, ``(N,)`` each; empty where there are none.
        total: rows there are, of which these are some.
    """

    frame: pl.DataFrame
    values: np.ndarray
    states: Mapping[str, np.ndarray]
    total: int

    @cached_property
    def cells(self) -> dict[str, list[str]]:
        """The cells as text, by column; empty where missing."""
        return {column.name: [shown(cell) for cell in column.to_list()] for column in self.frame}


@dataclass(frozen=True)
class ScoredFile:
    """A file and the scores of its rows.

    Attributes:
        name: of the file. score: of every row, nats, ``(N,)``; NaN where it has none. header: what a column
            of the scores is called. mean: in words. notes: lines about the file.
        rows: indices of its least likely rows, the least first; their ``p_value`` and ``why`` in `told`.
    """

    name: str
    score: np.ndarray
    header: str
    mean: str
    notes: tuple[str, ...]
    rows: tuple[int, ...]
    told: Mapping[str, Any]

    def csv(self) -> str:
        """Row numbers and scores, for a file."""
        numbers = np.arange(1, len(self.score) + 1)
        return str(pl.DataFrame({"row": numbers, self.header: self.score}).write_csv())


class Explored:
    """A run that is looked at.

    Arguments:
        served: its model.
    """

    def __init__(self, served: Served) -> None:
        self.served, self.domain, self.estimator = served, served.domain, served.estimator
        #: The same model, scored over fewer offsets of lattices: as well as a picture shows.
        self.drawn = Served(replace(served.run, estimator=self.estimator.coarse(_OFFSETS)), served.limits)
        self.features = {feature.name: feature for feature in self.domain.features()}
        self.names = tuple(self.features)
        self._kept: dict[Hashable, Any] = {}
        self._rows: dict[str, Rows] = {}
        latent = self.estimator.latent_.describe().kind
        #: Whether every column has states of its own.
        self.tree = latent == "tree"
        #: Why there are no states to tell apart; empty where there are.
        self.stateless = "" if latent in ("none", "discrete", "tree") else _STATELESS.format(latent)
        if latent == "none" or (latent == "discrete" and self.estimator.n_states_ == 1):
            self.stateless = "The model is one flow without states: all rows have one colour."
        self.missing_data = ""
        self._parts = self._read_parts()
        self.axes = self._axes()

    # -- rows ------------------------------------------------------------------------------------

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the data that can be shown; none where the data are not where they were."""
        return tuple(self._parts)

    def rows(self, part: str) -> Rows:
        """Some rows of a part of the data, evenly drawn.

        Raises:
            DataError: a part that there is not.
        """
        if part not in self._parts:
            raise DataError(f"the run has no rows '{part}'")
        if part not in self._rows:
            self._rows[part] = self._rows_of(*self._parts[part])
        return self._rows[part]

    def samples(self, given: Mapping[str, float] | None = None, seed: int = 0, n: int = _DRAWN) -> Rows:
        """Rows drawn from the model.

        Arguments:
            given: encoded cells that they have, by column. seed: of the drawing. n: how many.

        Raises:
            ConfigError, DataError: cells that their columns cannot have.
        """
        given = given or {}
        n = min(n, self.served.limits.rows)

        def drawn() -> Rows:
            cells = {name: self.cell(name, value) for name, value in given.items()}
            frame = self.served.sample(n, given=cells, seed=seed, states=not cells).frame
            mine = frame.select(self.names)
            values = self.encoded(mine)
            if not cells:
                return Rows(mine, values, self._states(frame, frame.columns[len(self.names) :]), n)
            # Of rows that are encoded: to read their cells again takes longer than to find their states.
            found = {} if self.stateless else assigned_columns(self.estimator, Encoded(values))[0]
            return Rows(mine, values, self._states(found, list(found) if self.tree else ["state"]), n)

        return self.keep(("samples", tuple(sorted(given.items())), seed, n), drawn)

    @property
    def nodes(self) -> tuple[str, ...]:
        """What states there are of: one name for all rows, or one a column; none without states."""
        return tuple(self.samples().states)

    def states_of(self, node: str) -> tuple[int, ...]:
        """States of a node that rows or samples are in."""
        some = [self.samples(), *(self.rows(part) for part in self.parts)]
        found = [rows.states.get(node, np.zeros(0, int)) for rows in some]
        return tuple(int(state) for state in np.unique(np.concatenate(found)))

    # -- cells -----------------------------------------------------------------------------------

    def decoded(self, values: np.ndarray) -> pl.DataFrame:
        """Encoded rows ``(N, D)`` as cells; missing where they are NaN."""
        rows = self.domain.as_polars(self.domain.from_tensor(torch.from_numpy(values)), None)
        return rows.select(self.names)

    def encoded(self, frame: pl.DataFrame) -> np.ndarray:
        """Rows as the model has them, ``(N, D)``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of values not seen, which have no place
            rows = self.domain.from_cells({column.name: column for column in frame})
            return np.asarray(self.domain.validate(self.estimator, rows), dtype=np.float64)

    def cell(self, name: str, value: float) -> Any:
        """One encoded cell as the plain value that its column has nearest to it."""
        return self.keep(("cell", name, value), lambda: self._cells(name, np.array([value]))[0])

    def words(self, given: Mapping[str, float]) -> str:
        """Encoded cells as ``age = 40, city = Rome``."""
        return ", ".join(f"{name} = {shown(self.cell(name, value))}" for name, value in given.items())

    @cached_property
    def likeliest(self) -> np.ndarray:
        """The likeliest of the rows that are shown (or of samples), encoded, ``(D,)``."""
        rows = self.rows(self.parts[0]) if self.parts else self.samples()
        whole = rows.values[np.isfinite(rows.values).all(1)]
        if not len(whole):
            whole = self.samples().values
        return np.asarray(whole[int(self.density(whole)[0].argmax())])

    @cached_property
    def seconds(self) -> float:
        """How long the density of one row takes here, where many are asked for."""
        rows, taken = self.samples().values[:512], []
        for _ in range(3):  # the first call makes what others find
            began = time.perf_counter()
            self.density(rows)
            taken.append(time.perf_counter() - began)
        return min(taken) / len(rows)

    # -- what the model says ----------------------------------------------------------------------

    def density(self, values: np.ndarray) -> tuple[np.ndarray, str]:
        """Log-density of encoded rows, ``(N,)``, for a picture, and what it is; missing cells are summed out
        where the model can.

        Raises:
            DataError: where it cannot.
        """
        answer = self.drawn.score({column.name: column for column in self.decoded(values)})
        return answer.frame.to_series(0).to_numpy(), str(answer.told["density"])

    def state_shares(self, values: np.ndarray, states: Collection[int]) -> np.ndarray:
        """Probability that encoded rows are in one of these states of a discrete latent, ``(N,)``."""
        columns = self.drawn.assign({column.name: column for column in self.decoded(values)}).frame
        return np.sum(
            [columns[f"p{k}"].to_numpy() for k in sorted(states)] or [np.zeros(len(values))], axis=0
        )

    def reasons(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Log-density, p-value and reasons of one row of plain cells, as served."""
        answer = self.served.reasons({name: [value] for name, value in row.items()})
        return {**answer.told, **answer.listed}

    def score_file(self, name: str, content: bytes) -> ScoredFile:
        """Score the rows of a file.

        Arguments:
            name: what it is called, whose ending says its kind. content: its bytes.

        Raises:
            DataError: of another kind, or as of `modeflow score`.
        """
        ending = PurePath(name).suffix.lower()
        if ending not in _ENDINGS:
            raise DataError(f"'{name}' is none of {', '.join(_ENDINGS)}")
        with tempfile.TemporaryDirectory(prefix="modeflow-") as folder:
            file = Path(folder) / f"dropped{ending}"
            file.write_bytes(content)
            try:
                rows = self.domain.read(str(file), self.served.run.config.settings)
            except ModeflowError as error:
                raise type(error)(str(error).replace(str(file), name)) from error
            notes = tuple(note.replace(str(file), name) for note in rows.notes)
        log_prob, cost, kind = self.estimator.scores(rows.values)
        mean = str(self.domain.summarise(log_prob, kind, cost))
        header = next(iter(self.domain.scores(log_prob, cost, kind)))
        order = np.argsort(log_prob, kind="stable")
        order = order[~np.isin(rows.rows[order], rows.empty)][: min(_LISTED, self.served.limits.reasons)]
        frame = self.domain.as_polars(rows.values, None).select(self.names)[order.tolist()]
        told: dict[str, Any] = {"frame": frame, "p_value": [], "why": []}
        if len(order):
            why = self.served.reasons({column.name: column for column in frame})
            told |= {key: why.listed[key] for key in ("p_value", "why")}
        bad = rows.bad_text()
        listed = tuple(int(row) for row in rows.rows[order])
        return ScoredFile(
            name, rows.spread(log_prob), header, mean, (*notes, *([bad] if bad else [])), listed, told
        )

    def sample_csv(self, n: int, given: Mapping[str, float], seed: int) -> str:
        """New rows as the text of a file."""
        cells = {name: self.cell(name, value) for name, value in given.items()}
        return str(self.served.sample(n, given=cells, seed=seed).frame.write_csv())

    # -- inside ----------------------------------------------------------------------------------

    def keep(self, key: Hashable, find: Callable[[], T]) -> T:
        """What was found before under a key, or is found now; the last few answers are kept."""
        if key not in self._kept:
            found: Any = find()
            while len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = found
        found = self._kept[key] = self._kept.pop(key)  # what was asked for last is let go last
        return found

    def _read_parts(self) -> dict[str, tuple[Any, int]]:
        """Some rows of every part, and how many there are."""
        try:
            _, parts = self.served.run.data()
        except (ModeflowError, OSError) as error:
            self.missing_data = " ".join(str(error).split())
            return {}
        found = {}
        for word, name in PARTS.items():
            part = getattr(parts, name)
            if size := len(self.domain.rows(part)):
                found[word] = (self.domain.rows(self.domain.some(part, _SHOWN)), size)
        return found

    def _rows_of(self, X: Any, total: int) -> Rows:
        frame = self.domain.as_polars(X, None).select(self.names)
        if self.stateless:
            return Rows(frame, self.encoded(frame), {}, total)
        assigned = self.served.assign({column.name: column for column in frame}).frame
        names = assigned.columns if self.tree else ["state"]
        return Rows(frame, self.encoded(frame), self._states(assigned, names), total)

    def _states(self, frame: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
        """States in these columns, by what they are of."""
        if self.stateless:
            return {}
        if not self.tree:
            return {"state": np.asarray(frame[names[0]])}
        return {name.removeprefix("state_"): np.asarray(frame[name]) for name in names}

    def _axes(self) -> dict[str, Axis]:
        data = [self.rows(part).values for part in self.parts]
        some = ([np.concatenate(data)] if data else []) + [self.samples().values]
        found = {}
        for j, (name, feature) in enumerate(self.features.items()):
            columns = [values[:, j] for values in some]

            def labels(values: np.ndarray, name: str = name) -> list[str]:
                return [shown(cell) for cell in self._cells(name, values)]

            def read(text: str, name: str = name) -> float:
                return self._time(name, text)

            found[name] = axis_of(feature, columns, labels, read)
        return found

    def _cells(self, name: str, values: np.ndarray) -> list[Any]:
        full = np.full((len(values), len(self.names)), np.nan)
        full[:, self.names.index(name)] = values
        return self.decoded(full)[name].to_list()

    def _time(self, name: str, text: str) -> float:
        frame = pl.DataFrame(
            {n: [text if n == name else None] for n in self.names}, schema_overrides={name: pl.String}
        )
        wrong = f"'{text}' is no time of {name}: write it as the data do"
        try:
            value = float(self.encoded(frame)[0, self.names.index(name)])
        except DataError as error:
            raise DataError(wrong) from error
        if not np.isfinite(value):
            raise DataError(wrong)
        return value


_STATELESS = "The latent is {}: it has no states that could be told apart, and all rows have one colour."


def shown(cell: Any) -> str:
    """A cell as text; nothing for a missing one."""
    if cell is None:
        return ""
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
