"""Whether samples of a mixed table can be shared in place of its rows: what tells them apart, and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from modeflow.data.columns import TableSchema
from modeflow.metrics.synthetic import Detection, NearCopies, NearestRow
from modeflow.metrics.synthetic.coding import code_tables
from modeflow.metrics.synthetic.neighbours import copies_and_nearest_of
from modeflow.metrics.synthetic.two_sample import FOLDS, detection_of
from modeflow.report import words
from modeflow.report.canvas import label
from modeflow.report.copula import NEEDED, copula_rows
from modeflow.report.fidelity import columns_of, equal_parts
from modeflow.report.sections import Column, Definition, Section, Table

__all__ = ["Sharing", "sharing_of", "sharing_section"]

#: Rows of each kind, and training rows that they are compared with.
_ROWS, _TRAIN = 2000, 20_000
#: Pairs that are shown, and columns of them.
_PAIRS, _COLUMNS = 5, 12
#: Errors by which samples lie nearer to training rows than new rows do.
_CLEAR = 2.0
_TERMS = (
    Definition(
        "AUC of samples",
        "Area under the curve of a classifier that tells samples from test rows, cross-validated: 0.5 where "
        "it guesses, 1 where it always tells. Rows whose columns are shuffled, each by itself, keep every "
        "column, and lose all that columns say of each other; rows of a Gaussian copula keep what "
        f"correlations say of it ({NEEDED}).",
    ),
    Definition(
        "Nearer than new rows",
        "Share of samples nearer to a training row than 95 % of the test rows are (numbers in standard "
        "deviations, 2 for a level that differs). New rows give 5 %, a model that repeats its rows more.",
    ),
)


@dataclass(frozen=True)
class Sharing:
    """Samples beside test rows, by what tells them apart and by how near they lie to training rows.

    Attributes:
        rows: so many samples and test rows.
        samples, training, shuffled: detection of samples, of training rows and of rows with their columns
            shuffled among test rows; None where there are too few rows.
        copula: detection of rows of a Gaussian copula fitted to the training rows, where one is installed.
        copies: how near samples lie to training rows.
        nearest: the samples nearest to a training row; pairs: their cells, the sample's and the training
            row's, by column. names: of the columns shown.
    """

    rows: int
    samples: Detection | None
    training: Detection | None
    shuffled: Detection | None
    copies: NearCopies
    nearest: Sequence[NearestRow]
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]]
    names: Sequence[str]
    copula: Detection | None = None

    @property
    def remembers(self) -> bool:
        """Whether more samples lie near training rows, or equal one, than chance leaves of new rows."""
        near, copies = self.copies.dcr005 / 100, self.copies.copies / 100
        same = max(self.copies.test_copies / 100, 1 / self.rows)

        def room(share: float) -> float:  # of the difference of two shares of so many rows
            return _CLEAR * math.sqrt(2 * share * (1 - share) / self.rows)

        return near > 0.05 + room(0.05) or copies > same + room(same)

    @property
    def verdict(self) -> list[str]:
        """What follows, in sentences."""
        found, copies = [], self.copies
        if self.samples is not None and self.training is not None and self.shuffled is not None:
            found.append(
                f"A classifier ({self.samples.classifier}) tells samples from test rows with an AUC of "
                f"{self.samples.auc:.2f}; training rows from test rows with {self.training.auc:.2f} (chance "
                f"gives 0.50), rows whose columns are shuffled with {self.shuffled.auc:.2f}"
                + (f", rows of a Gaussian copula with {self.copula.auc:.2f}." if self.copula else ".")
            )
        near = (
            f"{copies.dcr005:.1f} % of samples lie nearer to a training row than 95 % of test rows do (of "
            f"new rows 5 %), and {copies.copies:.1f} % equal one ({copies.test_copies:.1f} % of test rows do)"
        )
        if self.remembers:
            what = (
                "more than of new rows. Rows may have been learned by heart: look at the nearest before "
                "samples are shared."
            )
        else:
            what = (
                "no sign that rows were learned by heart. That is no proof of privacy: a row that no other "
                "resembles may still show."
            )
        return [*found, f"{near}: {what}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        told = {name: getattr(self, name) for name in ("samples", "training", "shuffled", "copula")}
        return {
            "rows": self.rows,
            **{name: None if d is None else d.to_dict() for name, d in told.items()},
            "near_copies": self.copies.to_dict(),
            "remembers": self.remembers,
            "nearest": [vars(pair) for pair in self.nearest],
        }


def sharing_of(
    schema: TableSchema, test: np.ndarray, samples: np.ndarray, train: np.ndarray, seed: int = 0
) -> Sharing | None:
    """Compare encoded rows, ``(N, D)``; None where there are no test rows.

    Samples have no missing cells: they get those of the test rows, one row from each.
    """
    rng = np.random.default_rng(seed)
    real, drawn, like = equal_parts(test, samples, train, _ROWS, rng)
    count = len(real)
    if count < 2:
        return None
    known = train[rng.permutation(len(train))[:_TRAIN]]
    loose = np.column_stack([rng.permutation(column) for column in like.T])
    named = {"train": known, "samples": drawn, "test": real, "training": like, "shuffled": loose}
    peer = copula_rows(schema, known, count, seed)
    if peer is not None:
        named["copula"] = np.where(np.isnan(real), np.nan, peer)
    coded = code_tables({name: columns_of(schema, rows) for name, rows in named.items()})
    trained, ours, tested, *_ = coded.tables
    told: list[Detection | None] = [None] * 4
    if count >= FOLDS:
        beside = (ours, *coded.tables[3:])
        for i, rows in enumerate(beside):
            told[i] = detection_of(coded.of(tested, rows), _classifier(), seed)
    copies, nearest = copies_and_nearest_of(coded.of(trained, ours, tested), _PAIRS)
    shown = [c.name for c in schema.modelled[:_COLUMNS]]
    frames = [columns_of(schema, rows) for rows in (drawn, known)]

    def cells(which: int, place: int) -> list[str]:
        return [_cell(frames[which][name][place]) for name in shown]

    return Sharing(
        count,
        told[0],
        told[1],
        told[2],
        copies,
        nearest,
        [(cells(0, pair.synthetic), cells(1, pair.train)) for pair in nearest],
        shown,
        told[3],
    )


def _classifier() -> str:
    return "xgboost" if find_spec("xgboost") else "logistic"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return label(value, 20) if isinstance(value, str) else words.quantity(float(value), 5)


def sharing_section(found: Sharing) -> Section:
    """The verdict, and the samples nearest to a training row, each above that row."""
    lines = []
    for pair, (sample, row) in zip(found.nearest, found.pairs, strict=True):
        lines += [(f"sample, {pair.distance:.3g} away", sample), ("training row", row)]

    def cell(j: int) -> Column:
        return Column(label(found.names[j], 20), lambda line: line[1][j], True)

    table = Table(
        "Nearest rows",
        "Samples nearest to a training row, and that row",
        [Column("", lambda line: line[0]), *(cell(j) for j in range(len(found.names)))],
        lines,
        summary=f"the {len(found.nearest)} samples nearest to a training row",
    )
    return Section(
        "sharing", "Rows to share", tuple(found.verdict), table=table, definitions=_TERMS, link="Sharing"
    )
