"""Two numbers of a mixed table, each row in the colour of its word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modeflow.report.canvas import label, new_figure, styled
from modeflow.report.colours import MODEL, state_colour, state_marker
from modeflow.report.plots import POINTS, Cloud, scatter
from modeflow.report.selection import frame, outside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_named"]


@styled
def plot_named(
    panels: Mapping[str, tuple[np.ndarray, Sequence[str]]], names: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Draw points beside each other, in the frame of the first panel, above a key of the words.

    Arguments:
        panels: by title, points ``(N, 2)`` and the word of each. names: the words. columns: of the numbers.
    """
    first = next(iter(panels.values()))[0]
    ranges = [frame(first[:, 0]), frame(first[:, 1])]
    figure = new_figure(4.3 * len(panels), 4.9)
    for k, (title, (points, words)) in enumerate(panels.items()):
        axes = figure.add_subplot(1, len(panels), k + 1)
        off = outside(points, ranges)
        axes.set_title(f"{title}: {len(points):,} rows" + (f", {off:,} outside the frame" if off else ""))
        codes = np.array([names.index(word) for word in words], dtype=np.int64)
        scatter(axes, Cloud(points, codes), 0, 1, MODEL, POINTS, 14)
        axes.set_xlim(*ranges[0])
        axes.set_ylim(*ranges[1])
        axes.set_xlabel(label(columns[0]))
        axes.set_ylabel(label(columns[1]))
        axes.set_box_aspect(1)
    handles = [
        figure.axes[0].scatter([], [], s=28, color=state_colour(code), marker=state_marker(code))
        for code in range(len(names))
    ]
    figure.legend(handles, [label(n) for n in names], loc="outside lower center", ncols=min(len(names), 8))
    return figure
