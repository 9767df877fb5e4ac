"""What rows of numbers and rows of mixed columns have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
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
from modeflow.domains.base import Domain, RowsToScore
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

    @abstractmethod
    def add_samples(self, writer: TableWriter, samples: Any, z: np.ndarray | None) -> list[str]:
        """Write samples, and the state of each if it is given; returns the names of the columns."""

    def check_target(self, out: str | None, with_state: bool) -> None:
        if out:
            check_writable(out)
