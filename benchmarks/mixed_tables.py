"""The mixed tables on which the field compares generators, their splits, and what is published on them.

Five tables as TabSyn prepared them: kinds of columns, rows and splits are its own (magic lacks the first
record, beijing the rows without a target; numbers are rounded to float32). Published are the scores of ten
methods in the repository of TabPC, five trained models each.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

import numpy as np
import polars as pl

from common import data_file
from modeflow.errors import DataError

__all__ = ["METRICS", "PUBLISHED", "TABLES", "MixedTable", "Published", "load", "ranks", "read_published"]


@dataclass(frozen=True)
class Layout:
    """Files and kinds of columns; numeric are those that are not named."""

    files: tuple[str, ...]
    categorical: tuple[str, ...]
    target: str
    dropped: tuple[str, ...] = ()
    #: The target is a number, scored by its clipped logarithm.
    regression: bool = False
    #: The protocol leaves categories out of the distances to training rows.
    numeric_distances: bool = False


TABLES: dict[str, Layout] = {
    "adult": Layout(
        ("adult_train", "adult_test"),
        (
            "workclass",
            "education",
            "marital.status",
            "occupation",
            "relationship",
            "race",
            "sex",
            "native.country",
            "income",
        ),
        "income",
    ),
    "default": Layout(
        ("default",),
        (
            "SEX",
            "EDUCATION",
            "MARRIAGE",
            "PAY_0",
            "PAY_2",
            "PAY_3",
            "PAY_4",
            "PAY_5",
            "PAY_6",
            "default payment next month",
        ),
        "default payment next month",
    ),
    "shoppers": Layout(
        ("shoppers",),
        (
            "Month",
            "OperatingSystems",
            "Browser",
            "Region",
            "TrafficType",
            "VisitorType",
            "Weekend",
            "Revenue",
        ),
        "Revenue",
    ),
    "magic": Layout(("magic",), ("class",), "class"),
    "beijing": Layout(
        ("beijing_raw",),
        ("year", "month", "day", "hour", "cbwd"),
        "pm2.5",
        dropped=("No",),
        regression=True,
        numeric_distances=True,
    ),
}


@dataclass(frozen=True)
class MixedTable:
    """A table and its splits.

    Attributes:
        name: of the table. train, test: the published split. halves: the split of the protocol's DCR score.
        categorical: columns whose values are categories. target: the column that is predicted.
    """

    name: str
    train: pl.DataFrame
    test: pl.DataFrame
    halves: tuple[pl.DataFrame, pl.DataFrame]
    categorical: tuple[str, ...]
    target: str

    @property
    def layout(self) -> Layout:
        return TABLES[self.name]


def _read(name: str, layout: Layout) -> pl.DataFrame:
    frame = pl.read_csv(data_file(f"mixed/{name}.csv.gz"), infer_schema_length=None, null_values=["NA", ""])
    frame = frame.drop(layout.dropped)
    kinds: list[pl.Expr] = []
    for column in frame.columns:
        values = frame[column]
        if values.dtype == pl.String and set(values.unique()) <= {"TRUE", "FALSE"}:
            kinds.append(pl.col(column) == "TRUE")
        elif values.dtype == pl.Float64:
            kinds.append(pl.col(column).cast(pl.Float32).cast(pl.Float64))
    return frame.with_columns(kinds)


def load(name: str) -> MixedTable:
    """A table of `TABLES` with its splits, from the folder of data.

    Raises:
        DataError: a file is missing, or does not fit the splits.
    """
    layout = TABLES[name]
    frames = [_read(file, layout) for file in layout.files]
    whole = pl.concat(frames)
    splits = np.load(data_file("mixed/tabsyn_splits.npz"))
    parts = [whole[splits[f"{name}_dcr_{part}"]] for part in ("train", "test")]
    if len(frames) == 2:
        train, test = frames
    else:
        train, test = (whole[splits[f"{name}_{part}"]] for part in ("train", "test"))
    for frame in (train, test, *parts):
        if sum(frame.null_count().row(0)):
            raise DataError(
                f"'{name}' has empty cells within its splits: another file than that of the splits"
            )
    return MixedTable(name, train, test, (parts[0], parts[1]), layout.categorical, layout.target)


# -- published ----------------------------------------------------------------------------------------

#: Methods that the field compares with, of those in the file; ablations are left out.
PUBLISHED = (
    "CTGAN",
    "TVAE",
    "GReaT",
    "STaSy",
    "CoDi",
    "TabSyn",
    "TabDiff",
    "FullyFactorizedPreprocessed",
    "ShallowMixture",
    "TabPC",
)
#: Scores by their published names, and the value that is best (None: the larger, the better).
METRICS: dict[str, float | None] = {
    "xgb_detection": None,
    "lr_detection": None,
    "shape": None,
    "trend": None,
    "nmi_l1_weighted_complement": None,
    "alpha_precision": None,
    "beta_recall": None,
    "mle": None,
    "dcr": 0.5,
    "dcr002": 2.0,
    "dcr005": 5.0,
}


@dataclass(frozen=True)
class Published:
    """A published number: mean and standard deviation over trained models, and how it came here."""

    value: float
    std: float
    status: str


def read_published() -> dict[tuple[str, str, str], Published]:
    """Published scores by (table, method, metric)."""
    with data_file("published.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["dataset"], row["method"], row["metric"]): Published(
                float(row["value"]), float(row["std"] or "nan"), row["status"]
            )
            for row in csv.DictReader(file)
            if row["dataset"] in TABLES and row["metric"] in METRICS and row["method"] in PUBLISHED
        }


def ranks(
    scores: dict[tuple[str, str, str], float], metric: str, tables: tuple[str, ...]
) -> dict[str, tuple[float, int]]:
    """Mean rank of every method by a metric, and of how many tables it is the mean; 1 is best.

    Ties share their ranks. A published method without a number on a table is last there; one of ours that has
    not been run there takes no part.

    Arguments:
        scores: by (table, method, metric).
        metric: of `METRICS`. tables: over which the mean is taken.
    """
    found: dict[str, list[float]] = {}
    for table in tables:
        here = {m: value for (t, m, name), value in scores.items() if t == table and name == metric}
        worth = {method: _worth(value, metric, table) for method, value in here.items()}
        for method in PUBLISHED if here else ():
            worth.setdefault(method, -np.inf)
        for method, value in worth.items():
            above = sum(other > value for other in worth.values())
            level = sum(other == value for other in worth.values())
            found.setdefault(method, []).append(above + (level + 1) / 2)
    return {method: (float(np.mean(each)), len(each)) for method, each in found.items()}


def _worth(value: float, metric: str, table: str) -> float:
    best = METRICS[metric]
    if best is not None:
        return -abs(value - best)
    return -value if metric == "mle" and TABLES[table].regression else value
