"""Pictures of data beside samples, and of the density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.data.spread import mean_and_spread
from modeflow.errors import ShapeError
from modeflow.report.canvas import halo, label, new_figure, say_nothing, styled
from modeflow.report.colours import DATA, FAINT, INK, MODEL, state_colour, state_marker
from modeflow.report.contents import DensityGrid
from modeflow.report.selection import as_states, as_table, choose_columns, frame, outside, subset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_density", "plot_pairs", "plot_panel"]

POINTS = 5000  # drawn in one panel; more only hide one another
DEPTH = 12.0  # nats below the peak down to which a density map has colour


@dataclass
class Cloud:
    """Rows and their states, checked against each other."""

    rows: np.ndarray
    states: np.ndarray | None


def _clouds(
    data: object, samples: object, data_states: object, sample_states: object, width: int | None
) -> tuple[Cloud | None, Cloud | None]:
    found: list[Cloud | None] = []
    for name, values, states in (
        ("data", data, data_states),
        ("samples", samples, sample_states),
    ):
        if values is None:
            found.append(None)
            continue
        rows = as_table(name, values, width)
        width = rows.shape[1]
        found.append(Cloud(rows, as_states(f"{name[:6]}_states", states, len(rows))))
    present = [np.unique(c.states) for c in found if c is not None and c.states is not None]
    if (
        present and len(np.unique(np.concatenate(present))) < 2
    ):  # one state says nothing: tell data from samples
        found = [None if c is None else Cloud(c.rows, None) for c in found]
    return found[0], found[1]


def _names(columns: Sequence[str] | None, width: int) -> list[str]:
    if not columns:
        return [f"x{j}" for j in range(width)]
    if len(columns) != width:
        raise ShapeError(f"{len(columns)} column names were given for {width} columns")
    return [str(c) for c in columns]


def _ranges(data: Cloud | None, samples: Cloud | None) -> list[tuple[float, float]]:
    """The frame is that of the data, so that samples are judged against it."""
    cloud = data if data is not None and len(data.rows) else samples
    if cloud is None:
        return []
    return [frame(cloud.rows[:, j]) for j in range(cloud.rows.shape[1])]


def _square(ranges: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Give two ranges of similar length the same length, so that circles stay circles."""
    spans = [high - low for low, high in ranges]
    if max(spans) > 1.6 * min(spans):
        return ranges
    half = max(spans) / 2
    return [((low + high) / 2 - half, (low + high) / 2 + half) for low, high in ranges]


def scatter(axes: Axes, cloud: Cloud, i: int, j: int, colour: str, limit: int, size: float) -> None:
    """Draw column j over column i, in random order, one call per marker shape."""
    pair = cloud.rows[:, [i, j]]
    good = np.all(np.isfinite(pair), axis=1)
    states = None if cloud.states is None else cloud.states[good]
    pair, states = subset(pair[good], states, limit)
    if len(pair) == 0:
        return
    size = size * float(np.clip((1500 / len(pair)) ** 0.5, 0.5, 1.8))
    look: dict[str, Any] = {"s": size, "alpha": 0.7, "linewidths": 0, "rasterized": True}
    if states is None:
        axes.scatter(pair[:, 0], pair[:, 1], color=colour, **look)
        return
    markers = np.array([state_marker(int(z)) for z in states])
    for marker in np.unique(markers):
        chosen = markers == marker
        colours = [state_colour(int(z)) for z in states[chosen]]
        axes.scatter(pair[chosen, 0], pair[chosen, 1], c=colours, marker=str(marker), **look)


def _number_states(axes: Axes, cloud: Cloud, i: int, j: int) -> None:
    """Write each state's number on the row nearest to its median: legible without any colour."""
    if cloud.states is None:
        return
    found = [int(z) for z in np.unique(cloud.states)]
    if len(found) < 2 or len(found) > 40:
        return
    for z in found:
        rows = cloud.rows[cloud.states == z][:, [i, j]]
        rows = rows[np.all(np.isfinite(rows), axis=1)]
        if len(rows) == 0:
            continue
        spread = mean_and_spread(rows)[1]
        away = np.sum(((rows - np.median(rows, axis=0)) / np.where(spread > 0, spread, 1.0)) ** 2, axis=1)
        x, y = rows[np.argmin(away)]
        axes.text(
            x, y, str(z), ha="center", va="center", color=INK, fontsize=9.5, fontweight="bold",
            path_effects=halo(), clip_on=True, zorder=5,
        )  # fmt: skip


def _bins(axes: Axes) -> int:
    return 60 if axes.bbox.width > 300 else 40


def _stacked(axes: Axes, cloud: Cloud, span: tuple[float, float]) -> None:
    """Draw a histogram of the only column, each state in its colour on top of the ones before."""
    assert cloud.states is not None
    good = (cloud.rows[:, 0] >= span[0]) & (cloud.rows[:, 0] <= span[1])
    x, z = cloud.rows[good, 0], cloud.states[good]
    if len(x) == 0:
        return
    bins = _bins(axes)
    weight = bins / (len(x) * (span[1] - span[0]))
    found = np.unique(z).tolist()
    axes.hist(
        [x[z == k] for k in found], bins=bins, range=span, stacked=True, histtype="stepfilled", alpha=0.75,
        weights=[np.full(int((z == k).sum()), weight) for k in found], color=[state_colour(k) for k in found],
    )  # fmt: skip


def _histogram(axes: Axes, x: np.ndarray, span: tuple[float, float], colour: str, line: bool) -> None:
    x = x[np.isfinite(x)]
    x = x[(x >= span[0]) & (x <= span[1])]
    if len(x) == 0:
        return
    look: dict[str, Any] = {"bins": _bins(axes), "range": span}
    if line:
        axes.hist(x, density=True, histtype="step", color=colour, linewidth=1.5, **look)
    else:
        axes.hist(x, density=True, histtype="stepfilled", color=colour, alpha=0.4, **look)


def _density_map(axes: Axes, figure: Figure, density: DensityGrid, below: bool) -> None:
    finite = density.log_density[np.isfinite(density.log_density)]
    top = float(finite.max()) if len(finite) else 0.0
    floor = top - DEPTH
    shown = np.nan_to_num(density.log_density, nan=floor, neginf=floor, posinf=top)
    mesh = axes.pcolormesh(
        density.xs, np.asarray(density.ys), np.maximum(shown, floor), cmap="YlGnBu", vmin=floor, vmax=top,
        shading="nearest", rasterized=True,
    )  # fmt: skip
    axes.grid(False)
    place: dict[str, Any] = {"shrink": 0.82, "pad": 0.02}
    if below:  # as wide as the panels beside it
        place = {"location": "bottom", "shrink": 0.9, "pad": 0.02}
    bar = figure.colorbar(mesh, ax=axes, aspect=28, extend="min", **place)
    bar.set_label("log-density, nats")
    bar.outline.set_visible(False)


def _plane(axes: Axes, ranges: list[tuple[float, float]], names: Sequence[str]) -> None:
    axes.set_xlim(*ranges[0])
    axes.set_ylim(*ranges[1])
    axes.set_xlabel(label(names[0]))
    axes.set_ylabel(label(names[1]))
    axes.set_box_aspect(1)


def _caption(what: str, cloud: Cloud, ranges: list[tuple[float, float]]) -> str:
    good = cloud.rows[np.all(np.isfinite(cloud.rows), axis=1)]
    text = f"{what}: {len(cloud.rows):,} rows"
    off = outside(good, ranges)
    return text + (f", {off:,} outside the frame" if off else "")


@styled
def plot_panel(
    what: str,
    data: object,
    samples: object,
    data_states: object = None,
    sample_states: object = None,
    columns: Sequence[str] | None = None,
    density: DensityGrid | None = None,
) -> tuple[Figure, str]:
    """Return one panel of a two-column table and its caption; `what` is data, samples or density."""
    d, s = _clouds(data, samples, data_states, sample_states, 2)
    names, ranges = _names(columns, 2), _square(_ranges(d, s)) if d or s else []
    figure = new_figure(3.9, 3.75 if what != "density" else 4.35)
    axes = figure.add_subplot()
    if not ranges:
        assert density is not None and density.ys is not None
        ranges = [frame(density.xs, 0), frame(density.ys, 0)]
    caption = _draw_panel(figure, axes, what, d, s, density, ranges, below=True)
    _plane(axes, ranges, names)
    return figure, caption


def _draw_panel(
    figure: Figure, axes: Axes, what: str, data: Cloud | None, samples: Cloud | None,
    density: DensityGrid | None, ranges: list[tuple[float, float]], below: bool = False,
) -> str:  # fmt: skip
    if what == "density":
        assert density is not None
        _density_map(axes, figure, density, below)
        return "Model density"
    cloud = data if what == "data" else samples
    assert cloud is not None
    scatter(axes, cloud, 0, 1, DATA if what == "data" else MODEL, POINTS, 14)
    _number_states(axes, cloud, 0, 1)
    return _caption("Data" if what == "data" else "Samples", cloud, ranges)


@styled
def plot_density(
    data: object,
    samples: object,
    density: DensityGrid | None,
    data_states: object = None,
    sample_states: object = None,
    columns: Sequence[str] | None = None,
    rival: tuple[str, DensityGrid] | None = None,
) -> Figure:
    """Draw a table of one or two columns: data, density of the model on a log scale, samples.

    Panels whose content is None are left out. With one column it is a histogram under the density. `rival`
    is the name and the density of another model of two columns, on the same scale.
    """
    d, s = _clouds(data, samples, data_states, sample_states, None)
    cloud = d or s
    width = cloud.rows.shape[1] if cloud else (1 if density and density.ys is None else 2)
    names = _names(columns, width)
    if width == 1:
        return _one_column(d, s, density, names[0])
    if width != 2:
        raise ShapeError(f"a density map needs a table of 1 or 2 columns; this one has {width}")
    there = (("data", d), ("density", density), ("samples", s), ("rival", rival))
    panels = [what for what, content in there if content is not None]
    figure = new_figure(4.7 * max(1, len(panels)) + 0.6 * ((density is not None) + (rival is not None)), 4.7)
    if not panels:
        say_nothing(figure.add_subplot(), "nothing to draw")
        return figure
    if cloud:
        ranges = _square(_ranges(d, s))
    else:
        assert density is not None and density.ys is not None
        ranges = [frame(density.xs, 0), frame(density.ys, 0)]
    for k, what in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), k + 1)
        if what == "rival" and rival is not None:
            axes.set_title(rival[0])
            _density_map(axes, figure, rival[1], False)
        else:
            axes.set_title(_draw_panel(figure, axes, what, d, s, density, ranges))
        _plane(axes, ranges, names)
    return figure


def _one_column(data: Cloud | None, samples: Cloud | None, density: DensityGrid | None, name: str) -> Figure:
    figure = new_figure(8.2, 3.9)
    axes = figure.add_subplot()
    ranges = _ranges(data, samples) or [frame(density.xs, 0) if density else (-1.0, 1.0)]
    span = ranges[0]
    entries: list[tuple[str, str]] = []
    by_state = data is not None and data.states is not None
    line, curve = (INK, "#C3164E") if by_state else (MODEL, "#D55E00")
    if data is not None:
        if by_state:
            _stacked(axes, data, span)
        else:
            _histogram(axes, data.rows[:, 0], span, DATA, line=False)
        entries.append((_caption("filled: data", data, ranges), DATA))
    if samples is not None:
        _histogram(axes, samples.rows[:, 0], span, line, line=True)
        entries.append((_caption("line: samples", samples, ranges), line))
    if density is not None and density.ys is None:
        axes.plot(density.xs, np.exp(density.log_density), color=curve, linewidth=1.6)
        entries.append(("curve: model density", curve))
    axes.set_xlim(*span)
    axes.set_xlabel(label(name, 60))
    axes.set_ylabel("density")
    for k, (text, colour) in enumerate(entries):
        axes.text(
            k / max(1, len(entries)), 1.02, text, transform=axes.transAxes, va="bottom",
            color=colour, fontweight="bold", fontsize=9,
        )  # fmt: skip
    return figure


@styled
def plot_pairs(
    data: object,
    samples: object,
    data_states: object = None,
    sample_states: object = None,
    columns: Sequence[str] | None = None,
    max_columns: int = 6,
) -> Figure:
    """Draw data beside samples, coloured by state.

    One column is a histogram, two are two panels. With more, every pair of columns is drawn twice: data
    below the diagonal, samples above it with the axes exchanged, so that the picture of a good model is
    symmetric about the diagonal. Of more than `max_columns` columns the most multimodal are drawn.
    """
    d, s = _clouds(data, samples, data_states, sample_states, None)
    cloud = d or s
    if cloud is None:
        figure = new_figure(6, 2)
        say_nothing(figure.add_subplot(), "neither data nor samples to draw")
        return figure
    width = cloud.rows.shape[1]
    names = _names(columns, width)
    if width == 1:
        return _one_column(d, s, None, names[0])
    if width == 2:
        return plot_density(data, samples, None, data_states, sample_states, names)
    chosen, why = choose_columns(cloud.rows, cloud.states, max(2, max_columns))
    return _matrix(d, s, chosen, names, why)


def _matrix(
    data: Cloud | None, samples: Cloud | None, chosen: list[int], names: list[str], why: str
) -> Figure:
    k = len(chosen)
    cell = 10.6 / max(k, 4)
    figure = new_figure(k * cell + 0.7, k * cell + 1.0, constrained=False)
    wide, high = k * cell + 0.7, k * cell + 1.0
    grid = figure.add_gridspec(
        k, k, left=0.62 / wide, right=1 - 0.08 / wide, bottom=0.55 / high, top=1 - 0.42 / high,
        wspace=0.07, hspace=0.07,
    )  # fmt: skip
    ranges = _ranges(data, samples)
    for row, i in enumerate(chosen):
        for column, j in enumerate(chosen):
            axes = figure.add_subplot(grid[row, column])
            axes.set_xlim(*ranges[j])
            cloud = data if row > column else samples
            if row == column:
                if data is not None:
                    _histogram(axes, data.rows[:, j], ranges[j], DATA, line=False)
                if samples is not None:
                    _histogram(axes, samples.rows[:, j], ranges[j], MODEL, line=True)
                axes.set_yticks([])
            else:
                axes.set_ylim(*ranges[i])
                if cloud is not None:
                    scatter(axes, cloud, j, i, DATA if row > column else MODEL, 2000, 7)
            _cell(axes, row, column, k, names[i], names[j])
    left = f"data ({len(data.rows):,} rows) below the diagonal" if data else ""
    right = f"samples ({len(samples.rows):,}) above it" if samples else ""
    text = ", ".join(t for t in (left, right) if t)
    figure.text(0.62 / wide, 1 - 0.26 / high, text, fontsize=10.5, fontweight="bold")
    if why:
        figure.text(1 - 0.08 / wide, 1 - 0.26 / high, why, fontsize=9, color=FAINT, ha="right")
    return figure


def _cell(axes: Axes, row: int, column: int, k: int, y_name: str, x_name: str) -> None:
    """Ticks and names at the left and the bottom edge of the matrix only."""
    from matplotlib.ticker import MaxNLocator

    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.6)
    axes.tick_params(labelsize=7.5, length=2, pad=2)
    for axis in (axes.xaxis, axes.yaxis):
        if not (axis is axes.yaxis and row == column):
            axis.set_major_locator(MaxNLocator(nbins=4, prune="both"))
    if row == k - 1:
        axes.set_xlabel(label(x_name, 20))
    else:
        axes.tick_params(labelbottom=False)
    if column == 0:
        axes.set_ylabel(label(y_name, 20))
        axes.yaxis.set_label_coords(-0.26 * max(k, 4) / 6, 0.5)
    else:
        axes.tick_params(labelleft=False)
