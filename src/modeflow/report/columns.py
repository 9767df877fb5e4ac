"""The columns of a table on its page: what each holds, and the rows that stand out in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from modeflow.report import words
from modeflow.report.canvas import label
from modeflow.report.contents import ColumnRow, DataSummary, WorstRow
from modeflow.report.likelihoods import LIKELIHOOD_TERMS
from modeflow.report.sections import Column, Section, Table, long_name
from modeflow.report.selection import frame

__all__ = ["columns_section", "worst_section", "write_in_column"]

_BINS = 28


def columns_section(summary: DataSummary, data: np.ndarray | None, samples: np.ndarray | None) -> Section:
    """Every column: its kind, mean, spread and range, and a small histogram of data and samples."""
    columns = summary.columns

    def spark(at: tuple[int, ColumnRow]) -> Markup:
        inside = [None if x is None or at[0] >= x.shape[1] else x[:, at[0]] for x in (data, samples)]
        return _sparkline(*inside)

    table = Table(
        "Columns",
        "Columns: kind, mean, standard deviation and range",
        [
            Column("column", lambda c: long_name(c[1].name, 36)),
            Column("kind", lambda c: c[1].kind),
            Column("data and samples", spark),
            Column("mean", lambda c: words.in_column(c[1].mean, c[1].sd), True),
            Column("sd", lambda c: words.quantity(c[1].sd), True),
            Column("min", lambda c: words.quantity(c[1].minimum), True),
            Column("max", lambda c: words.quantity(c[1].maximum), True),
            *[Column("missing", lambda c: words.integer(c[1].missing), True)]
            * any(c.missing for c in columns),
        ],
        list(enumerate(columns)),
        summary=words.plural(len(columns), "column"),
        open=len(columns) <= 20,
    )
    sizes = (
        f"{words.plural(summary.train_rows, 'row')} for training, {words.integer(summary.validation_rows)} "
        f"for validation, {words.integer(summary.test_rows)} for the test, from {summary.source}."
    )
    return Section("columns", "Columns", text=(sizes,), items=summary.notes, table=table if columns else None)


def _sparkline(data: np.ndarray | None, samples: np.ndarray | None) -> Markup:
    """Outlines of two histograms in a 120 × 26 box: data filled, samples as a line."""
    if data is None or not np.isfinite(data).any():
        return Markup("")
    span = frame(data, 0.02)

    def heights(x: np.ndarray) -> np.ndarray:
        counts, _ = np.histogram(x[np.isfinite(x)], bins=_BINS, range=span)
        return counts / max(1, np.isfinite(x).sum())

    filled = heights(data)
    line = heights(samples) if samples is not None else None
    top = max(filled.max(), line.max() if line is not None else 0.0, 1e-12)

    def path(h: np.ndarray) -> str:
        x = np.linspace(0, 120, _BINS + 1)
        y = 26 - 25 * h / top
        return "".join(f"L{x[k]:.1f} {y[k]:.1f}L{x[k + 1]:.1f} {y[k]:.1f}" for k in range(_BINS))

    paths = Markup('<path d="M0 26{}L120 26Z" fill="var(--data)"/>').format(path(filled))
    if line is not None:
        paths += Markup(
            '<path d="M0 26{}L120 26" fill="none" stroke="var(--blue)" stroke-width="1.3"/>'
        ).format(path(line))
    return Markup(
        '<svg class="spark" viewBox="0 0 120 26" preserveAspectRatio="none" role="img" '
        'aria-label="histogram">{}</svg>'
    ).format(paths)


def worst_section(
    rows: Sequence[WorstRow],
    columns: Sequence[ColumnRow],
    names: Sequence[str],
    shown: Sequence[int],
    counted_in: str,
    states: bool,
) -> Section:
    """The rows that the model finds least likely, the least likely first.

    Arguments:
        rows, columns: of the table, and the `names` of its columns. shown: the columns that are listed.
        counted_in: what the numbers of the rows count in. states: whether the model has any.
    """
    rows = sorted(rows, key=lambda r: r.log_density)

    def value(j: int) -> Column:
        return Column.named(
            names[j], lambda r: write_in_column(columns, j, r.values[j] if j < len(r.values) else None)
        )

    table = Table(
        "Worst rows",
        "Rows with the lowest log-density",
        [
            Column("row", lambda r: words.integer(r.row), True),
            Column("log-density", lambda r: words.log_density(r.log_density), True),
            *[Column("state", lambda r: "–" if r.state is None else str(r.state))] * states,
            *[Column("stands out in", lambda r: _stands_out(columns, r) or "no single column")]
            * any(_stands_out(columns, r) for r in rows),
            *[value(j) for j in shown],
        ],
        rows,
    )
    text = (
        "The rows that the model finds least likely: errors in the data, rare cases, or where the model "
        f"fits badly. Rows are counted from 1 in {counted_in}; a header line is not counted."
    )
    return Section("worst", "Worst rows", text=(text,), table=table, definitions=LIKELIHOOD_TERMS)


def _stands_out(columns: Sequence[ColumnRow], row: WorstRow) -> str:
    """Say in which column a row is farthest from the mean."""
    best, text = 2.0, ""
    for column, value in zip(columns, row.values, strict=False):
        if isinstance(value, str) or value is None or column.mean is None or not column.sd:
            continue
        away = (float(value) - column.mean) / column.sd
        if np.isfinite(away) and abs(away) > best:
            best = abs(away)
            side = "above" if away > 0 else "below"
            text = f"{label(column.name, 28)}: {words.quantity(abs(away), 2)} sd {side} the mean"
    return text


def write_in_column(columns: Sequence[ColumnRow], j: int, value: object, mean: bool = False) -> str:
    """Write a value of column `j` as finely as the column's spread warrants."""
    if j >= len(columns):
        return words.quantity(value)
    return words.in_column(value, columns[j].sd, "continuous" if mean else columns[j].kind)
