"""The page: its parts and their names. What is on it before anything is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from dash import dcc, html

from modeflow.exploring.parts import editor
from modeflow.exploring.views import Explored
from modeflow.report import words

__all__ = ["first_columns", "page"]

#: Buttons by name: of those that are there by default one sends the picture's data to a server elsewhere.
_BUTTONS = ["select2d", "lasso2d", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]
_GRAPH = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [_BUTTONS],
    "showSendToCloud": False,
    "showEditInChartStudio": False,
    "plotlyServerURL": "",
}


def page(explored: Explored) -> Any:
    """The whole page."""
    return html.Div(
        [
            html.A("Skip to the pictures", href="#pictures", className="skip"),
            _head(explored),
            html.Main(
                [
                    dcc.Store(id="marked"),
                    dcc.Store(id="marked-by-form"),
                    dcc.Store(id="row"),
                    html.P("", id="trouble", className="trouble", role="alert"),
                    _choices(explored),
                    _conditions(explored),
                    _pictures(explored),
                    _marked(),
                    html.Div([_one_row(explored), _file(explored), _download(explored)], className="cards"),
                ]
            ),
        ]
    )


def first_columns(explored: Explored) -> tuple[str, str | None]:
    """The two columns that are looked at first: numbers, where there are two."""
    order = sorted(explored.names, key=lambda name: bool(explored.axes[name].codes))
    return order[0], (order[1] if len(order) > 1 else None)


def _head(explored: Explored) -> Any:
    told = explored.served.describe()
    latent = f"a latent of kind {told['latent']}"
    if explored.tree:
        latent = "a tree of states, some for every column"
    elif not explored.stateless:
        latent = words.plural(told["states"], "state")
    data = PurePath(told["data"]).name
    facts = (
        f"{told['model']}, fitted to {data}: {words.plural(len(explored.names), 'column')}, {latent}. "
        f"Densities are {_article(told['density'])}, {told['units']}."
    )
    notes = [explored.stateless] if explored.stateless else []
    if explored.missing_data:
        notes.append(f"Not available: rows of the data. {explored.missing_data}")
    notes += told["warnings"]
    return html.Header(
        [
            html.H1(told["run"]),
            html.P(facts, className="facts"),
            html.Ul([html.Li(note) for note in notes], className="notes") if notes else None,
        ]
    )


def _choices(explored: Explored) -> Any:
    across, up = first_columns(explored)
    nodes = explored.nodes
    none = [{"label": "(none)", "value": ""}]
    fields = [
        _field("across", "Across", _dropdown("across", explored.names, across)),
        _field(
            "up",
            "Up",
            dcc.Dropdown(id="up", options=none + _options(explored.names), value=up or "", clearable=False),
        ),
    ]
    if len(nodes) > 1:
        first = across if across in nodes else nodes[0]
        fields.append(_field("node", "States of", _dropdown("node", nodes, first)))
    else:
        fields.append(html.Div(dcc.Store(id="node", data=None)))
    parts = explored.parts or ("held out",)
    fields.append(
        html.Fieldset(
            [
                html.Legend("Rows of the data"),
                dcc.RadioItems(id="part", options=list(parts), value=parts[0], inline=True),
            ],
            className="radio",
            disabled=not explored.parts,
        )
    )
    legend = html.Fieldset(
        [
            html.Legend("States"),
            html.Div(
                [
                    html.Button("All", id="all-states", n_clicks=0, className="small"),
                    html.Button("None", id="no-states", n_clicks=0, className="small"),
                    dcc.Checklist(id="states", options=[], value=[], inline=True),
                ],
                className="legend",
            ),
        ],
        style={"display": "none"} if explored.stateless else {},
    )
    return html.Section([html.Div(fields, className="fields"), legend], **_label("What is shown"))


def _conditions(explored: Explored) -> Any:
    return html.Section(
        [
            _field(
                "conditions",
                "Given these columns",
                dcc.Dropdown(
                    id="conditions",
                    options=_options(explored.names),
                    value=[],
                    multi=True,
                    placeholder="none",
                ),
            ),
            html.Div([], id="given", className="given"),
            html.P("", id="given-words", className="said", role="status"),
        ],
        **_label("Conditions"),
    )


def _pictures(explored: Explored) -> Any:
    figures = []
    if explored.parts:
        figures.append(_picture("data", "Data"))
    figures += [_picture("samples", "Samples"), _picture("map", "Density")]
    hidden = [] if explored.parts else [html.Div(_graph("data"), style={"display": "none"})]
    hidden += [] if explored.parts else [html.P("", id="data-said", style={"display": "none"})]
    return html.Section(
        [html.Div(figures, className="pictures"), *hidden], id="pictures", tabIndex="-1", **_label("Pictures")
    )


def _picture(name: str, title: str) -> Any:
    caption = html.Figcaption("", id=f"{name}-said")
    return html.Figure([html.H2(title), _graph(name), caption])


def _graph(name: str) -> Any:
    return dcc.Graph(
        id=name, figure={"data": [], "layout": {}}, config=_GRAPH, responsive=True, className="graph"
    )


def _marked() -> Any:
    form = html.Details(
        [
            html.Summary("Select by numbers or words, without a mouse"),
            html.Div(
                [
                    _input("across-from", "Across, from"),
                    _input("across-to", "to"),
                    _input("up-from", "Up, from"),
                    _input("up-to", "to"),
                    _field("select-what", "Among", _dropdown("select-what", ("data", "samples"), "data")),
                    html.Button("Select", id="select", n_clicks=0),
                ],
                className="fields",
            ),
        ]
    )
    return html.Section(
        [
            html.H2("Selected rows"),
            html.Div(
                [
                    html.P(
                        "Draw a box or a lasso in the data or the samples.", id="marked-said", role="status"
                    ),
                    html.Button("Clear", id="clear", n_clicks=0, className="small"),
                ],
                className="line",
            ),
            html.Div([], id="marked-rows"),
            form,
        ],
        **_label("Selected rows"),
    )


def _one_row(explored: Explored) -> Any:
    return html.Section(
        [
            html.H2("One row"),
            html.P("Choose a row above (click a point, or Explain), or write one.", className="hint"),
            html.Div(editor(explored, {}), id="cells", className="cells"),
            html.Button("Score this row", id="score-row", n_clicks=0),
            dcc.Loading(html.Div([], id="row-said", role="status"), type="dot", delay_show=400),
        ],
        **_label("One row"),
    )


def _file(explored: Explored) -> Any:
    most = explored.served.limits.megabytes * 0.7  # in base64 a third larger, and something around it
    return html.Section(
        [
            html.H2("Score a file"),
            dcc.Upload(
                html.Div(["Drop a csv here, or ", html.Span("choose one", className="link")]),
                id="file", className="drop", className_active="drop over",
            ),
            html.P(f"csv, tsv or parquet, up to {most:.0f} MB; it stays on this machine.", className="hint"),
            dcc.Loading(html.Div([], id="file-said", role="status"), type="dot", delay_show=400),
            html.Button("Download the scores", id="get-scores", n_clicks=0, style={"display": "none"}),
            dcc.Download(id="scores-csv"),
        ],
        id="file-card",
        **_label("Score a file"),
        **{"data-most": str(int(most * 1e6))},
    )  # fmt: skip


def _download(explored: Explored) -> Any:
    most = explored.served.limits.rows
    return html.Section(
        [
            html.H2("Download samples"),
            html.P("Rows that have what is given above.", className="hint"),
            html.Div(
                [
                    html.Label(
                        [
                            html.Span("How many"),
                            dcc.Input(id="count", type="number", value=1000, min=1, max=most, step=1),
                        ]
                    ),
                    html.Label(
                        [html.Span("Seed"), dcc.Input(id="seed", type="number", value=0, min=0, step=1)]
                    ),
                    html.Button("Download csv", id="get-samples", n_clicks=0),
                ],
                className="fields",
            ),
            html.P("", id="samples-trouble", role="status"),
            dcc.Download(id="samples-csv"),
        ],
        **_label("Download samples"),
    )


# -- small parts ------------------------------------------------------------------------------------


def _label(text: str) -> dict[str, Any]:
    return {"aria-label": text}


def _options(names: Sequence[str]) -> list[dict[str, str]]:
    return [{"label": name, "value": name} for name in names]


def _dropdown(ident: str, names: Sequence[str], value: str) -> Any:
    return dcc.Dropdown(id=ident, options=_options(names), value=value, clearable=False)


def _field(ident: str, text: str, box: Any) -> Any:
    return html.Div([html.Label(text, htmlFor=ident), box], className="field")


def _input(ident: str, text: str) -> Any:
    return html.Label([html.Span(text), dcc.Input(id=ident, type="text", value="", autoComplete="off")])


def _article(kind: str) -> str:
    return kind if kind == "exact" else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
