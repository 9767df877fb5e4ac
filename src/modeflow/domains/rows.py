"""What rows of numbers and rows of mixed columns have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from modeflow.data import check_writable
from modeflow.data._source import is_text_file
from modeflow.data.columns import Feature
from modeflow.data.columns.writing import TableWriter
from modeflow.data.parts import parts_of, reading_part
from modeflow.data.schema import listing
from modeflow.domains.base import Domain, RowsToScore
from modeflow.errors import ConfigError, nearest
from modeflow.metrics import LogLikelihood, summarise
from modeflow.transforms.base import Exactness

__all__ = ["RowDomain"]


class RowDomain(Domain):
    """Rows of a table, scored in nats a row; the units of a model are float64 until it casts them."""

    word: ClassVar[str] = "row"
    measure: ClassVar[str] = "log_likelihood"
    units: ClassVar[str] = "nats per row, in the units of the data"
    shown: ClassVar[str] = "log_density"
    extent: ClassVar[str] = "spread"
    of_tables: ClassVar[bool] = True
    #: In double precision a score depends on its row alone, not on the batch around it.
    scored_in: ClassVar[torch.dtype | None] = torch.float64
    drawn: ClassVar[int] = 1000

    def read_parts(self, source: str, settings: Mapping[str, Any], **how: Any) -> Iterator[RowsToScore]:
        header = how.get("header")
        if header is None and is_text_file(source):
            header = settings["header"]
        first = 0
        for part in parts_of(source, header, self.facts["columns"]):
            with reading_part(part):
                rows = self.read(source, settings, **how if part.whole else {**how, "header": part.header})
            yield replace(rows, first=first, done=part.done)
            first += rows.total

    def to_tensor(self, values: np.ndarray) -> Tensor:
        """Float64 (the model casts its features)."""
        return torch.from_numpy(np.require(values, dtype=np.float64, requirements=["C", "W"]))

    def summarise(
        self,
        log_prob: np.ndarray,
        kind: Exactness,
        cost: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> LogLikelihood:
        return summarise(log_prob, kind, weight)

    @staticmethod
    def likelihood(row: Mapping[str, Any]) -> LogLikelihood:
        return LogLikelihood.from_dict(row)

    def scores(self, log_prob: np.ndarray, cost: np.ndarray | None, kind: Exactness) -> dict[str, np.ndarray]:
        return {f"log_density_{kind.replace(' ', '_')}_nats": log_prob}

    @staticmethod
    def size_text(result: Mapping[str, Any]) -> str:
        rows = result["rows"]
        return (
            f"{rows['train']} training, {rows['validation']} validation, {rows['test']} test rows, "
            f"{len(result['columns'])} columns"
        )

    def write_parts(self, out: str, parts: Iterator[tuple[Any, Any]]) -> tuple[str, dict[str, Any]]:
        count, columns = 0, list[str]()
        with TableWriter(out) as writer:
            for samples, z in parts:
                columns = self.add_samples(writer, samples, z)
                count += len(samples)
        return f"{count} rows, {len(columns)} columns", {"columns": columns, "out": out}

    @abstractmethod
    def features(self) -> tuple[Feature, ...]:
        """What the modelled columns are, in the order of `validate`'s, D of them."""

    # -- cells of which others follow -------------------------------------------------------------

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the modelled columns, D of them."""

    def aside(self, name: str) -> str | None:
        """What a column of the table is that is no part of the model; None where there is none."""
        return None

    def check_name(self, name: str) -> int:
        """Place of a modelled column.

        Raises:
            ConfigError: if there is none of that name.
        """
        if name in self.names:
            return self.names.index(name)
        if (spec := self.aside(name)) is not None:
            raise ConfigError(f"column '{name}' is {spec}: no part of the model, which says nothing of it")
        hint = nearest(str(name), self.names) or f"; the columns are {listing(self.names)}"
        raise ConfigError(f"there is no column '{name}' in the model{hint}")

    def given(self, cells: Mapping[str, Any], rows: int = 1) -> np.ndarray:
        """Rows of these cells, encoded, all others missing, ``(rows, D)``.

        Arguments:
            cells: by column one value, or a list or array of one for every row. rows: how many.

        Raises:
            ConfigError: an unknown column, or another number of values.
            DataError: a value that its column cannot have, or a missing one.
        """
        if not isinstance(cells, Mapping):
            raise ConfigError(f"given must be values by column, such as {{'a': 1.0}}, received {cells!r}")
        found = np.full((rows, len(self.names)), np.nan)
        for name, value in cells.items():
            j = self.check_name(name)
            values = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value]
            if len(values) not in (1, rows):
                raise ConfigError(f"column '{name}' is given {len(values)} values for {rows} rows")
            found[:, j] = self.given_cells(j, values)
        return found

    @abstractmethod
    def given_cells(self, column: int, values: Sequence[Any]) -> np.ndarray:
        """Values that a condition names of one column, encoded, ``(n,)``.

        Raises:
            DataError: one that the column cannot have, or nothing but missing ones.
        """

    @abstractmethod
    def known(
        self, X: Any, unseen: str = "error", besides: str | None = None, numbers: np.ndarray | None = None
    ) -> np.ndarray:
        """Rows encoded, from the cells of which others are to follow; NaN where missing.

        Arguments:
            X: rows. unseen: what is done with a cell that its column cannot have, "error", or "missing": as
                if it were so, with a warning.
            besides: a column that is not looked at. numbers: of the rows in the data, for messages.

        Raises:
            ConfigError: another `unseen`. DataError: other columns than the model's; a value that a column
                cannot have, with row and column.
        """

    @abstractmethod
    def filled(self, values: np.ndarray, X: Any) -> Any:
        """Encoded rows ``(N, D)`` of which the missing cells were filled, as a table of the kind that was
        fitted; other cells are those of X, their table, the rows in the same order."""

    def completed(self, values: np.ndarray, given: np.ndarray) -> Any:
        """Encoded rows ``(N, D)``, drawn given some of their cells, as a table of the kind that was fitted.

        Arguments:
            values: the rows. given: the cells they were drawn given, encoded, NaN elsewhere.
        """
        return self.from_tensor(torch.from_numpy(values))

    @abstractmethod
    def cells(self, column: int, values: np.ndarray) -> np.ndarray:
        """Encoded cells of one column, ``(N,)``, as values that it can have."""

    @abstractmethod
    def middle(self, column: int, draws: np.ndarray) -> np.ndarray:
        """The best guess of encoded cells of one column of which there are several draws, ``(n, N) -> (N,)``:
        of numbers the mean."""

    @abstractmethod
    def add_samples(self, writer: TableWriter, samples: Any, z: np.ndarray | None) -> list[str]:
        """Write samples, and the state of each if it is given; returns the names of the columns."""

    def check_target(self, out: str | None, with_state: bool) -> None:
        if out:
            check_writable(out)
