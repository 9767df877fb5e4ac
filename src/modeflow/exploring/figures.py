"""Pictures as plain values, as plotly.js draws them."""

from __future__ import annotations

import html
from collections.abc import Collection
from typing import Any

import numpy as np

from modeflow.exploring.axes import Axis
from modeflow.exploring.maps import DensityMap
from modeflow.exploring.views import Rows
from modeflow.report.colours import DATA, GRID, INK, MODEL, state_colour, state_glyph

__all__ = ["density_figure", "places_of", "points_figure", "symbol_of"]

#: plotly's name of every marker that the report draws.
_SYMBOLS = {
    "●": "circle", "■": "square", "▲": "triangle-up", "◆": "diamond", "▼": "triangle-down", "✚": "cross",
    "✖": "x",
}  # fmt: skip
#: From nothing to the densest cell.
_SCALE = (
    (0.0, "#ffffff"), (0.2, "#d6e6f2"), (0.4, "#a3c9e2"), (0.6, "#64a2cc"), (0.8, "#2b74ad"),
    (1.0, "#0b3c6f"),
)  # fmt: skip
#: Columns of a row that are told where the pointer is.
_TOLD = 3


def symbol_of(state: int) -> str:
    """plotly's name of the marker of a state."""
    return _SYMBOLS[state_glyph(state)]


def places_of(rows: Rows, names: tuple[str, ...], x: Axis, y: Axis | None) -> tuple[np.ndarray, np.ndarray]:
    """Where rows lie, ``(N,)`` each; NaN where they have no place."""
    across = x.jittered(rows.values[:, names.index(x.name)], 0)
    if y is None:
        return across, np.random.default_rng(1).uniform(-0.4, 0.4, len(across))
    return across, y.jittered(rows.values[:, names.index(y.name)], 1)


def points_figure(
    rows: Rows,
    names: tuple[str, ...],
    x: Axis,
    y: Axis | None,
    *,
    node: str | None = None,
    states: Collection[int] | None = None,
    selected: Collection[int] | None = None,
    colour: str = MODEL,
) -> tuple[dict[str, Any], int]:
    """Rows as points, a trace a state, and how many of them are drawn.

    Arguments:
        rows: to be drawn. names: of the columns. x, y: axes; without `y` the rows are strewn along a line.
        node: whose states give the colours; none if None. states: that are drawn; all if None.
        selected: numbers of rows that are marked; all alike if None. colour: of rows without states.
    """
    across, up = places_of(rows, names, x, y)
    there = np.isfinite(across) & np.isfinite(up)
    state = rows.states.get(node) if node is not None else None
    traces, drawn = [], 0
    kinds = (
        [None] if state is None else [int(k) for k in np.unique(state) if states is None or int(k) in states]
    )
    chosen = None if selected is None else np.isin(np.arange(len(across)), list(selected))
    for kind in kinds:
        mine = np.flatnonzero(there if kind is None or state is None else there & (state == kind))
        drawn += len(mine)
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": "rows" if kind is None else f"state {kind}",
            "x": _plain(across[mine]),
            "y": _plain(up[mine]),
            "customdata": mine.tolist(),
            "text": [_told(rows, int(i), names, x, y, kind) for i in mine],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": {
                "size": 6,
                "opacity": 0.75,
                "color": colour if kind is None else state_colour(kind),
                "symbol": "circle" if kind is None else symbol_of(kind),
                "line": {"width": 0.5, "color": "#ffffff"},
            },
            "unselected": {"marker": {"opacity": 0.12}},
        }
        if chosen is not None:
            trace["selectedpoints"] = np.flatnonzero(chosen[mine]).tolist()
        traces.append(trace)
    return {"data": traces, "layout": _layout(x, y, "select")}, drawn


def density_figure(found: DensityMap, x: Axis, y: Axis | None) -> dict[str, Any]:
    """A density as colours: of every cell than how much of the probability it is denser."""
    # Of levels, and of one line of cells, nothing is to be smoothed.
    smooth: Any = False
    if not (x.codes or y is None or y.codes or min(found.level.shape) < 2):
        # A browser stretches even cells by itself; of others plotly finds the colour of every dot.
        smooth = "fast" if _even(found.x) and _even(found.y) else "best"
    trace = {
        "type": "heatmap",
        "x": _plain(found.x),
        "y": _plain(found.y),
        "z": [_plain(row) for row in found.level],
        "zmin": 0,
        "zmax": 1,
        "zsmooth": smooth,
        "colorscale": [list(each) for each in _SCALE],
        "showscale": False,
        "hovertemplate": "denser than %{z:.0%} of the probability<extra></extra>",
    }
    return {"data": [trace], "layout": _layout(x, y, "zoom")}


def _even(places: np.ndarray) -> bool:
    steps = np.diff(places)
    return bool(np.ptp(steps) <= 1e-4 * np.abs(steps).max())


def _layout(x: Axis, y: Axis | None, drag: str) -> dict[str, Any]:
    return {
        "xaxis": _axis(x),
        "yaxis": {"visible": False, "range": [-1, 1], "fixedrange": True} if y is None else _axis(y),
        "dragmode": drag,
        "hovermode": "closest",
        "showlegend": False,
        "margin": {"l": 12, "r": 10, "t": 8, "b": 12},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "#ffffff",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        # What a reader has zoomed and selected stays as long as the columns do.
        "uirevision": f"{x.name}|{'' if y is None else y.name}",
        "selectionrevision": f"{x.name}|{'' if y is None else y.name}",
        "newselection": {"line": {"color": INK, "width": 1.5}},
        "modebar": {
            "orientation": "h",
            "bgcolor": "rgba(255,255,255,0.8)",
            "color": DATA,
            "activecolor": INK,
        },
    }


def _axis(axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {
        "title": {"text": html.escape(axis.name), "standoff": 8},
        "range": list(axis.range),
        "gridcolor": GRID,
        "zeroline": False,
        "automargin": True,
        "ticks": "outside",
        "tickcolor": GRID,
        "linecolor": DATA,
        "showline": True,
    }
    if (ticks := axis.ticks) is not None:
        found |= {
            "tickmode": "array",
            "tickvals": ticks[0],
            "ticktext": [html.escape(_short(word)) for word in ticks[1]],
        }
    return found


def _told(rows: Rows, i: int, names: tuple[str, ...], x: Axis, y: Axis | None, state: int | None) -> str:
    """A row where the pointer is: the columns that are looked at first."""
    first = [x.name] + ([] if y is None else [y.name])
    order = [*first, *(name for name in names if name not in first)][:_TOLD]
    cells = [f"{html.escape(name)}: {html.escape(_short(rows.cells[name][i]) or '–')}" for name in order]
    return "<br>".join([f"row {i + 1}" + ("" if state is None else f", state {state}"), *cells])


def _short(text: str) -> str:
    return text if len(text) <= 18 else text[:17] + "…"


def _plain(values: np.ndarray) -> list[float]:
    """Numbers with as many digits as a picture has use for."""
    return [float(f"{v:.6g}") for v in values]
