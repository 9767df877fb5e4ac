"""How alike samples and held-out rows of a mixed table are, beside what chance leaves of real rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from modeflow.data.columns import Steps, TableSchema
from modeflow.metrics.synthetic import Fidelity
from modeflow.metrics.synthetic.coding import CodedTables, code_tables
from modeflow.metrics.synthetic.columns import mutual_information_of, shape_of, trend_of
from modeflow.report import words
from modeflow.report.marginals import level_names
from modeflow.report.sections import Column, Section, Table

__all__ = ["Agreement", "agreement_of", "agreement_section", "columns_of", "equal_parts"]

#: The measures, and what each means in a line.
_MEANING = {
    "Shape": ("shape", "one column: 1 − the largest distance of the distribution functions (numbers), or 1 − "
              "half the summed differences of shares (levels)"),
    "Trend": ("trend", "two columns: 1 − half the difference of correlations (numbers), or 1 − half the "
              "summed differences of shares of pairs"),
    "wNMI": ("mutual_information", "two columns: 1 − the difference of normalized mutual informations, "
             "strongly dependent pairs counting more"),
}  # fmt: skip
_WORST = 3


@dataclass(frozen=True)
class Agreement:
    """Test rows against as many samples, and against as many training rows.

    Attributes:
        rows: so many of each. samples, training: the scores; 1 is best.
        holes: whether samples were given the missing cells of test rows.
    """

    rows: int
    samples: Fidelity
    training: Fidelity
    holes: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the scores of both."""
        return {"rows": self.rows, "samples": self.samples.scores(), "training": self.training.scores()}

    def lines(self) -> list[str]:
        """The scores for a terminal."""
        what = {"Shape": "columns, one by one", "Trend": "pairs", "wNMI": "pairs, dependent ones more"}
        rows = [
            f"{name:12} {_score(mine.score)}   {_score(getattr(self.training, key).score)}   {what[name]}"
            for name, (key, _) in _MEANING.items()
            if (mine := getattr(self.samples, key)) is not None
        ]
        return ["alike test rows, 1 is fully: samples, and training rows beside them", *rows]


def agreement_of(
    schema: TableSchema, test: np.ndarray, samples: np.ndarray, train: np.ndarray, most: int, seed: int = 0
) -> Agreement:
    """Compare encoded rows, ``(N, D)``, at most so many of each part, equally many.

    Samples have no missing cells: they get those of the test rows, one row from each.
    """
    real, drawn, like = equal_parts(test, samples, train, most, np.random.default_rng(seed))
    named = {"test": real, "samples": drawn, "training": like}
    coded = code_tables({name: columns_of(schema, rows) for name, rows in named.items()})
    first, second, third = coded.tables
    holes = bool(np.isnan(real).any())
    return Agreement(len(real), _scores(coded.of(first, second)), _scores(coded.of(first, third)), holes)


def equal_parts(
    test: np.ndarray, samples: np.ndarray, train: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equally many rows of each, at most so many; samples get the missing cells of the test rows."""
    count = min(most, len(test), len(samples), len(train))
    real, like = (rows[rng.permutation(len(rows))[:count]] for rows in (test, train))
    return real, np.where(np.isfinite(real), samples[:count], np.nan), like


def columns_of(schema: TableSchema, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Encoded rows as columns to be compared: numbers, and levels as text."""
    found: dict[str, np.ndarray] = {}
    for column, values in zip(schema.modelled, rows.T, strict=True):
        known = np.isfinite(values)
        if not column.feature().levels:
            found[column.name] = np.where(known, values, np.nan)
            continue
        codes = np.where(known, values, 0).astype(np.int64)
        if isinstance(column, Steps):
            found[column.name] = np.where(known, np.array(column.levels)[codes], np.nan)
        else:
            text = np.array(level_names(column), dtype=object)[codes]
            text[~known] = None
            found[column.name] = text
    return found


def _scores(coded: CodedTables) -> Fidelity:
    sizes = len(coded.tables[0]), len(coded.tables[1])
    if len(coded.names) < 2:
        return Fidelity(sizes, shape_of(coded))
    return Fidelity(sizes, shape_of(coded), trend_of(coded), mutual_information_of(coded))


def agreement_section(found: Agreement) -> Section:
    """The scores of samples and of training rows, and where samples agree least."""
    rows = [
        (name, meaning, getattr(found.samples, key), getattr(found.training, key))
        for name, (key, meaning) in _MEANING.items()
        if getattr(found.samples, key) is not None
    ]
    table = Table(
        "Fidelity",
        "Agreement of test rows with samples, and with training rows",
        [
            Column("measure", lambda r: Markup('{} <span class="note">{}</span>').format(r[0], r[1])),
            Column("samples", lambda r: _score(r[2].score), True),
            Column("training rows", lambda r: _score(r[3].score), True),
        ],
        rows,
        stacked=True,
    )
    text = (
        f"{words.plural(found.rows, 'test row')} against as many samples; beside it against as many training "
        "rows, which is about the best that chance allows. 1 is full agreement."
    )
    note = ""
    if found.holes:
        note = (
            "Samples have no missing cells: to be compared each was given those of a test row. Where cells "
            "are missing because of what other columns hold, pairs agree less for this reason alone."
        )
    return Section("fidelity", "Fidelity of samples", (text,), _worst(rows), table=table, note=note)


def _score(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _worst(rows: Sequence[tuple[str, str, Any, Any]]) -> list[Markup]:
    """The columns and pairs that agree least, a line each measure."""
    lines = []
    for name, _, samples, training in rows:
        beside = training.columns if name == "Shape" else training.pairs
        told = [
            f"{key if isinstance(key, str) else ' and '.join(key)} {value:.3f}"
            + (f" (training rows {beside[key]:.3f})" if key in beside else "")
            for key, value in samples.worst(_WORST)
        ]
        what = "columns" if name == "Shape" else "pairs"
        lines.append(Markup("{}, {} that agree least: {}").format(name, what, "; ".join(told)))
    return lines
