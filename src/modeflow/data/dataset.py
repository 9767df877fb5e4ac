"""A named data set, and what is known about it before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modeflow.data.splits import Split
from modeflow.data.table import Table
from modeflow.data.toy_base import Toy

__all__ = ["Dataset", "DatasetInfo", "DatasetKind"]

DatasetKind = Literal[
    "toy", "bundled", "table", "mixed", "anomaly", "shapes2d", "benchmark", "images", "binary", "file"
]


@dataclass(frozen=True)
class DatasetInfo:
    """One line of the catalogue.

    Attributes:
        name: what `load_dataset` takes.
        kind: the group it belongs to.
        rows, columns: size, None where it is free (toys).
        available: whether `load_dataset` works now, without a download.
        path: the file, where there is one.
        source: where it was published.
        licence: terms of use as far as they are known.
        exact_density: whether the true log-density of any point is known.
        note: what to know before comparing with a paper.
    """

    name: str
    kind: DatasetKind
    rows: int | None
    columns: int | None
    available: bool
    path: str | None
    source: str
    licence: str
    exact_density: bool = False
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dict(self.__dict__)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A loaded data set.

    Attributes:
        name: its name or path.
        kind: the group it belongs to.
        table: all rows, or the training rows where the split is published.
        split: training, validation and test parts where they are published, else None.
        labels: array (rows of `table`,) of true components, classes or anomaly flags; never columns.
        toy: the distribution the rows were drawn from.
        notes: what was done to the rows, and what to know before comparing with a paper.
    """

    name: str
    kind: DatasetKind
    table: Table
    split: Split | None = None
    labels: np.ndarray | None = None
    toy: Toy | None = None
    notes: tuple[str, ...] = ()
