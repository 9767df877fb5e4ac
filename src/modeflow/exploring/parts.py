"""Parts of the page that come as they are asked for: conditions, rows, reasons, the scores of a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from modeflow.exploring.axes import Axis
from modeflow.exploring.views import Explored, ScoredFile, shown
from modeflow.report import words
from modeflow.report.colours import state_colour, state_glyph

__all__ = [
    "condition",
    "editor",
    "file_result",
    "legend_options",
    "reasons_result",
    "rows_table",
    "trouble",
]

#: Rows of a table that are listed, and bars of reasons.
_LISTED, _BARS = 50, 12


def legend_options(states: Sequence[int]) -> list[dict[str, Any]]:
    """A box to tick for every state, with its colour and marker."""
    return [
        {
            "label": html.Span(
                [
                    html.Span(state_glyph(k), style={"color": state_colour(k)}, **{"aria-hidden": "true"}),
                    f" {k}",
                ]
            ),
            "value": k,
        }
        for k in states
    ]


def condition(explored: Explored, name: str, value: float) -> Any:
    """A slider, or a list of levels, that says which cell of a column is given."""
    axis: Axis = explored.axes[name]
    ident = {"type": "given", "name": name}
    if axis.codes:
        options = [
            {"label": label, "value": code}
            for code, label in zip(
                axis.codes, axis.labels(np.array(axis.codes, dtype=np.float64)), strict=True
            )
        ]
        box = dcc.Dropdown(id=ident, options=options, value=int(value), clearable=False)
    else:
        marks = dict(zip(*_marks(axis), strict=True))
        box = dcc.Slider(
            id=ident, min=axis.low, max=axis.high, step=_step(axis), marks=marks, value=value, included=False,
            allow_direct_input=not axis.is_time, updatemode="mouseup",
        )  # fmt: skip
    return html.Div(
        [html.Div(name, className="name"), html.Div(box, **{"data-label": f"{name} is given as"})],
        className="one",
    )


def _marks(axis: Axis) -> tuple[list[float], list[str]]:
    ends = [axis.low, axis.high]
    return ends, axis.labels(np.array(ends))


def _step(axis: Axis) -> float:
    """How far an arrow key moves a slider: a hundredth, whole steps of a lattice."""
    step, wide = axis.feature.step, (axis.high - axis.low) / 100
    if step <= 0:
        return float(f"{wide:.3g}")
    return float(step * max(1, round(wide / step)))


def rows_table(
    frame: Any, places: Sequence[int], source: str, more: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """Rows as a table, each with a button that takes it to be explained.

    Arguments:
        frame: the rows. places: of each, from 0. source: where they are from, for the button.
        more: further columns.
    """
    more = more or {}
    head = ["", "row", *more, *frame.columns]
    body = []
    for i, number in enumerate(places[:_LISTED]):
        cells = [shown(cell) for cell in frame.row(i)]
        button = html.Button(
            "Explain", id={"type": "explain", "source": source, "row": int(number)}, n_clicks=0,
            className="small",
            **{"aria-label": f"Explain row {number + 1}"},
        )  # fmt: skip
        extra = [column[i] for column in more.values()]
        body.append(html.Tr([html.Td(button), html.Td(str(number + 1)), *map(html.Td, [*extra, *cells])]))
    table = html.Table([html.Thead(html.Tr([html.Th(h, scope="col") for h in head])), html.Tbody(body)])
    return html.Div(table, className="wide", tabIndex="0", role="region", **{"aria-label": "Rows"})


def editor(explored: Explored, row: Mapping[str, str]) -> list[Any]:
    """A field for every cell of a row.

    Arguments:
        row: text by column.
    """
    return [
        html.Label(
            [
                html.Span(name),
                dcc.Input(
                    id={"type": "cell", "name": name},
                    value=row.get(name, ""),
                    type="text",
                    autoComplete="off",
                ),
            ]
        )
        for name in explored.names
    ]


def reasons_result(explored: Explored, told: Mapping[str, Any]) -> list[Any]:
    """The score of one row and what each column says of it."""
    score, p = told["log_density"][0], told["p_value"][0]
    impossible = score is None
    first = "density 0" if impossible else f"log-density {score:.3f} nats ({told['density']})"
    lines = [html.P([html.Strong(first), _rank(p, told["rows_held_out"])])]
    nats = {name: column[0] for name, column in told["nats"].items()}
    nats |= dict.fromkeys(told["impossible"], math.inf)
    order = sorted((n for n in nats if nats[n] is not None), key=lambda n: -abs(nats[n]))[:_BARS]
    lines.append(html.P(f"More surprising than expected: {told['why'][0]}."))
    widest = max([abs(nats[n]) for n in order if abs(nats[n]) != math.inf] or [1.0]) or 1.0
    rows = []
    for name in order:
        value = nats[name]
        sure = value == math.inf
        width = 100.0 if sure else 100 * abs(value) / widest
        side = "more" if value > 0 else "less"
        rows.append(
            html.Tr(
                [
                    html.Th(name, scope="row"),
                    html.Td("not possible" if sure else f"{value:+.2f}", className="number"),
                    html.Td(
                        html.Div("", className=f"bar {side}", style={"width": f"{width:.1f}%"}),
                        className="bars",
                    ),
                ]
            )
        )
    head = html.Tr(
        [html.Th("column", scope="col"), html.Th("nats", scope="col"), html.Th("", **{"aria-hidden": "true"})]
    )
    caption = html.Caption("How much more surprising than expected each cell is, given the others (nats)")
    lines.append(html.Table([caption, html.Thead(head), html.Tbody(rows)], className="reasons"))
    lines += [html.P(warning, className="hint") for warning in told.get("warnings", ())]
    return lines


def _rank(p: float | None, held: int) -> str:
    if p is None:
        return "; the run has kept no scores to rank it among"
    return f"; p-value {p:.3g} among {words.plural(held, 'test row')}"


def file_result(found: ScoredFile) -> list[Any]:
    """What there is to say of a file that was scored."""
    lines = [
        html.P(
            [
                html.Strong(found.name),
                f": {words.plural(len(found.score), 'row')}, mean log-density {found.mean}",
            ]
        )
    ]
    lines += [html.P(note, className="hint") for note in found.notes]
    more = {
        "log-density": [f"{found.score[row]:.2f}" for row in found.rows],
        "p-value": ["" if p is None else f"{p:.3g}" for p in found.told["p_value"]],
        "why": found.told["why"],
    }
    if found.rows:
        lines += [html.P("The least likely rows:"), rows_table(found.told["frame"], found.rows, "file", more)]
    return lines


def trouble(line: str) -> list[Any]:
    """What went wrong, in a line."""
    return [html.P(line, className="trouble", role="alert")]
