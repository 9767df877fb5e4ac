"""What the page does when something is chosen: asked in the model's thread, errors as one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dash import ALL, Dash, Input, Output, State, ctx, dcc, no_update

from modeflow.errors import ModeflowError
from modeflow.exploring.answers import Page, line_of
from modeflow.exploring.parts import editor, trouble
from modeflow.exploring.views import ScoredFile, shown
from modeflow.report import words
from modeflow.serving.app import Service

__all__ = ["connect"]


def connect(app: Dash, service: Service, found: Page) -> None:
    """Have the page ask `found`, in the model's thread.

    Arguments:
        app: with the layout of `modeflow.exploring.layout`. found: what it shows. service: has the thread.
    """
    scored: dict[str, ScoredFile] = {}

    async def ask(function: Callable[[], Any]) -> tuple[Any, str]:
        """What is found, or None; and what went wrong, in a line."""

        def quietly() -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function()

        try:
            return await service.ask(quietly), ""
        except ModeflowError as error:
            return None, line_of(error)
        except MemoryError:
            return None, "out of memory: ask for fewer rows"

    given_state = (
        State({"type": "given", "name": ALL}, "value"),
        State({"type": "given", "name": ALL}, "id"),
    )
    node = Input("node", "data" if len(found.explored.nodes) < 2 else "value")
    node_state = State(node.component_id, node.component_property)

    @app.callback(
        Output("states", "options"),
        Output("states", "value"),
        node,
        Input("all-states", "n_clicks"),
        Input("no-states", "n_clicks"),
    )
    async def legend(node: str | None, _all: int, _none: int) -> Any:
        told, _ = await ask(lambda: found.legend(node))
        options, states = told or ([], [])
        return options, [] if ctx.triggered_id == "no-states" else states

    @app.callback(
        Output("data", "figure"), Output("data-said", "children"),
        Input("across", "value"), Input("up", "value"), Input("part", "value"), Input("states", "value"),
        Input("marked-by-form", "data"), node_state, State("marked", "data"),
    )  # fmt: skip
    async def data(
        across: str, up: str, part: str, states: list[int], form: Any, node: str | None, marked: Any
    ) -> Any:
        marked = form if ctx.triggered_id == "marked-by-form" else marked
        told, wrong = await ask(lambda: found.data(across, up, part, node, states, marked))
        return told or (no_update, wrong)

    @app.callback(
        Output("samples", "figure"), Output("samples-said", "children"), Output("map", "figure"),
        Output("map-said", "children"), Output("given-words", "children"), Output("trouble", "children"),
        Input("across", "value"), Input("up", "value"), Input({"type": "given", "name": ALL}, "value"),
        Input("states", "value"), Input("marked-by-form", "data"),
        State({"type": "given", "name": ALL}, "id"), node_state, State("marked", "data"),
    )  # fmt: skip
    async def model(
        across: str, up: str, values: list[Any], states: list[int], form: Any, ids: list[Any],
        node: str | None, marked: Any,
    ) -> Any:  # fmt: skip
        marked = form if ctx.triggered_id == "marked-by-form" else marked
        told, wrong = await ask(lambda: found.model(across, up, _given(values, ids), node, states, marked))
        return (*(told or (no_update,) * 5), wrong)

    @app.callback(
        Output("given", "children"), Input("conditions", "value"), *given_state, prevent_initial_call=True
    )
    async def conditions(names: list[str] | None, values: list[Any], ids: list[Any]) -> Any:
        told, _ = await ask(lambda: found.conditions(names or [], _given(values, ids)))
        return told or []

    @app.callback(
        Output("marked", "data"), Output("marked-by-form", "data"), Output("marked-said", "children"),
        Output("marked-rows", "children"),
        Input("data", "selectedData"), Input("samples", "selectedData"), Input("select", "n_clicks"),
        Input("clear", "n_clicks"),
        State("across", "value"), State("up", "value"), State("part", "value"), State("across-from", "value"),
        State("across-to", "value"), State("up-from", "value"), State("up-to", "value"),
        State("select-what", "value"), State("states", "value"), node_state, *given_state,
        prevent_initial_call=True,
    )  # fmt: skip
    async def selected(
        of_data: Any, of_samples: Any, _select: int, _clear: int, across: str, up: str, part: str, a: str,
        b: str, c: str, d: str, what: str, states: list[int], node: str | None, values: list[Any],
        ids: list[Any],
    ) -> Any:  # fmt: skip
        by = ctx.triggered_id
        if by == "clear":
            return None, {"source": "", "rows": None}, "No rows are selected.", []
        source = what if by == "select" else str(by)
        chosen = of_data if by == "data" else of_samples
        if by in ("data", "samples") and not (chosen and (chosen["points"] or "range" in chosen)):
            return (no_update,) * 4  # of a picture that is drawn again

        def answer() -> Any:
            rows = found.rows_of(source, part, across, up, _given(values, ids))
            if by == "select":
                numbers = found.between(rows, across, up, (a or "", b or "", c or "", d or ""), node, states)
            else:
                numbers = [int(point["customdata"]) for point in chosen["points"]]
            return numbers, *found.marked(rows, numbers, source)

        told, wrong = await ask(answer)
        if told is None:
            return no_update, no_update, wrong, no_update
        numbers, said, table = told
        mark = {"source": source, "rows": numbers} if numbers else None
        return mark, mark or {"source": "", "rows": None} if by == "select" else no_update, said, table

    @app.callback(
        Output("cells", "children"), Output("row", "data"),
        Input("data", "clickData"), Input("samples", "clickData"),
        Input({"type": "explain", "source": ALL, "row": ALL}, "n_clicks"),
        State("across", "value"), State("up", "value"), State("part", "value"), *given_state,
        prevent_initial_call=True,
    )  # fmt: skip
    async def chosen(
        of_data: Any, of_samples: Any, _clicks: list[int], across: str, up: str, part: str, values: list[Any],
        ids: list[Any],
    ) -> Any:  # fmt: skip
        by = ctx.triggered_id
        if isinstance(by, dict):
            if not ctx.triggered[0]["value"]:  # a button that has only just come
                return no_update, no_update
            source, number = by["source"], int(by["row"])
        else:
            source = str(by)
            point = ((of_data if source == "data" else of_samples) or {}).get("points", [{}])[0]
            if "customdata" not in point:
                return no_update, no_update
            number = int(point["customdata"])

        def answer() -> Any:
            if source == "file":
                place = scored["last"].rows.index(number)
                frame, at = scored["last"].told["frame"], place
            else:
                frame, at = found.rows_of(source, part, across, up, _given(values, ids)).frame, number
            row = {name: shown(cell) for name, cell in frame.row(at, named=True).items()}
            return editor(found.explored, row), row

        told, _ = await ask(answer)
        return told or (no_update, no_update)

    @app.callback(
        Output("row-said", "children"), Input("row", "data"), Input("score-row", "n_clicks"),
        State({"type": "cell", "name": ALL}, "value"), State({"type": "cell", "name": ALL}, "id"),
        prevent_initial_call=True,
    )  # fmt: skip
    async def one_row(row: Any, _: int, values: list[Any], ids: list[Any]) -> Any:
        if ctx.triggered_id == "score-row" or row is None:
            row = {each["name"]: value or "" for each, value in zip(ids, values, strict=True)}
        told, wrong = await ask(lambda: found.one_row(row))
        return told or trouble(wrong)

    @app.callback(
        Output("file-said", "children"), Output("get-scores", "style"), Input("file", "contents"),
        State("file", "filename"), prevent_initial_call=True,
    )  # fmt: skip
    async def file(contents: str | None, name: str | None) -> Any:
        if contents is None:
            return no_update, no_update
        told, wrong = await ask(lambda: found.file(name or "the file", contents))
        if told is None:
            return trouble(wrong), {"display": "none"}
        scored["last"] = told[1]
        return told[0], {}

    @app.callback(Output("scores-csv", "data"), Input("get-scores", "n_clicks"), prevent_initial_call=True)
    async def scores(_: int) -> Any:
        last = scored.get("last")
        return no_update if last is None else dcc.send_string(last.csv(), "scores.csv")

    @app.callback(
        Output("samples-csv", "data"), Output("samples-trouble", "children"),
        Input("get-samples", "n_clicks"), State("count", "value"), State("seed", "value"), *given_state,
        prevent_initial_call=True,
    )  # fmt: skip
    async def samples(_: int, n: Any, seed: Any, values: list[Any], ids: list[Any]) -> Any:
        told, wrong = await ask(lambda: found.samples_csv(n, seed, _given(values, ids)))
        if told is None:
            return no_update, trouble(wrong)
        return dcc.send_string(told, "samples.csv"), f"{words.plural(int(n), 'row')} drawn."


def _given(values: Sequence[Any], ids: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Encoded cells by column, from the sliders and lists that are there."""
    return {each["name"]: float(value) for each, value in zip(ids, values, strict=True) if value is not None}
