"""A tree of latent states on a page: its nodes are columns, an edge as wide as they depend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from modeflow.report import words
from modeflow.report.canvas import halo, label, new_figure, styled
from modeflow.report.colours import FAINT, INK
from modeflow.report.sections import Column, Definition, Picture, Section, Table, long_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["TreeView", "place_nodes", "plot_tree", "tree_section"]

#: Nodes that are drawn; more are a table.
_NODES = 40
#: Inches: between rows of nodes, around a label, between levels, by which children are indented, the width
#: of a page, and below which a picture is set smaller.
_ROW, _PAD, _GAP, _INDENT, _PAGE, _SMALL = 0.31, 0.07, 0.75, 0.55, 12.0, 7.0
_FONT = 8.5
#: Fill and edge of a node by what it is.
_LOOKS = {
    "number": ("#e3eff7", "#0072B2"),
    "angle": ("#dff1ea", "#009E73"),
    "levels": ("#fdf1dc", "#C98500"),
    "atom?": ("#ffffff", "#8a949e"),
}
_TERMS = (
    Definition(
        "Tree of columns",
        "The Chow–Liu tree: of all trees over the columns the one of most mutual information along edges. "
        "Every column has states of its own, and they depend on each other along its edges alone. A column "
        "with atoms has a node more, which says whether a cell is one of them (and which).",
    ),
    Definition(
        "Mutual information",
        "How much knowing one column lowers the entropy of another, nats, of the training rows cut into bins "
        "(at most 16 a number); what chance adds is taken off. 0 where they are independent.",
    ),
)


@dataclass(frozen=True)
class TreeView:
    """A rooted tree over columns.

    Attributes:
        names: of the nodes. kinds: of each, ``number``, ``angle``, ``levels`` or ``atom?``.
        parents: of each, -1 for the root. information: that it shares with its parent, nats; 0 of the root.
    """

    names: Sequence[str]
    kinds: Sequence[str]
    parents: Sequence[int]
    information: Sequence[float]

    @property
    def edges(self) -> list[tuple[str, str, float]]:
        """Parent, child and their mutual information, the strongest first."""
        found = [
            (self.names[p], self.names[k], float(self.information[k]))
            for k, p in enumerate(self.parents)
            if p >= 0
        ]
        return sorted(found, key=lambda edge: -edge[2])


def tree_section(tree: TreeView) -> Section:
    """The tree as a picture, and its edges as a table."""
    many = len(tree.names) > _NODES
    pictures = []
    if not many:
        figure = plot_tree(tree)
        strong = "; ".join(f"{a} and {b} {words.quantity(i, 2)}" for a, b, i in tree.edges[:5])
        alt = f"The tree of the columns, {tree.names[tree.parents.index(-1)]} its root; strongest: {strong}"
        look = "chart" if figure.get_figwidth() <= _SMALL else "wide"
        pictures = [Picture.lines(figure, alt, kind=look)]
    table = Table(
        "Edges of the tree",
        "Edges of the tree and their mutual information",
        [
            Column("column", lambda e: long_name(e[1], 40)),
            Column("depends on", lambda e: long_name(e[0], 40)),
            Column("mutual information, nats", lambda e: words.quantity(e[2], 3), True),
        ],
        tree.edges,
        summary=words.plural(len(tree.edges), "edge"),
        open=many,
    )
    text = "Columns that say the most of each other are joined; the wider the line, the more they say (nats)."
    if many:
        text = f"The columns have {len(tree.names)} nodes, too many to draw: the edges, the strongest first."
    return Section(
        "tree", "Tree of columns", text=(text,), pictures=pictures, table=table, definitions=_TERMS
    )


def place_nodes(parents: Sequence[int], weight: Sequence[float]) -> tuple[list[int], list[float]]:
    """Depth and row of every node; nodes of equal depth lie at least one row apart.

    Leaves take a row each, a node that has children lies in the middle of theirs; the child of the largest
    `weight` comes first.
    """
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    depth, row = [0] * len(parents), [0.0] * len(parents)
    order, leaves = [], 0
    waiting = [list(parents).index(-1)]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if not children[node]:
            row[node], leaves = float(leaves), leaves + 1
        for child in sorted(children[node], key=lambda k: weight[k]):  # the last is visited first
            depth[child] = depth[node] + 1
            waiting.append(child)
    for node in reversed(order):
        if children[node]:
            rows = [row[child] for child in children[node]]
            row[node] = (min(rows) + max(rows)) / 2
    return depth, row


@styled
def plot_tree(tree: TreeView) -> Figure:
    """Draw a tree, its root at the left; one of many levels as a list in which children are indented."""
    texts = [label(name, 22) for name in tree.names]
    wide = np.array([_width(text) + 2 * _PAD for text in texts])
    depth, row = place_nodes(tree.parents, tree.information)
    levels = [wide[np.array(depth) == d].max() for d in range(max(depth) + 1)]
    starts = np.concatenate([[0.0], np.cumsum(np.array(levels) + _GAP)])
    # Many levels would make a picture too wide for a page: then every node has a row of its own.
    flat = float(starts[-1] - _GAP) <= _PAGE
    if not flat:
        row = _own_rows(tree.parents, depth)
        starts = _INDENT * np.arange(max(depth) + 1)
    x, y = starts[depth], -_ROW * np.array(row)
    across = float((x + wide).max()) + 0.3
    figure, axes = _canvas(max(across, _SMALL if across <= _SMALL else 10.0), _ROW * max(row) + 0.75)
    most = max(tree.information) or 1.0
    for child, parent in enumerate(tree.parents):
        if parent < 0:
            continue
        share = max(0.0, tree.information[child]) / most
        if flat:
            start, bend = (x[parent] + wide[parent], y[parent]), x[parent] + levels[depth[parent]]
            _bent(axes, start, bend, (x[child], y[child]), share)
        else:
            _angled(axes, (x[parent] + 0.14, y[parent] - 0.1), (x[child], y[child]), share)
        _amount(axes, (x[child], y[child]), tree.information[child], share)
    for k, text in enumerate(texts):
        _node(axes, x[k], y[k], wide[k], text, tree.kinds[k])
    _legend(axes, [kind for kind in _LOOKS if kind in tree.kinds])
    return figure


def _width(text: str) -> float:
    """Of a text, inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.1
    font = FontProperties(family="DejaVu Sans")
    return float(TextPath((0, 0), text, size=_FONT, prop=font, usetex=False).get_extents().width) / 72


def _own_rows(parents: Sequence[int], depth: Sequence[int]) -> list[float]:
    """Every node in a row of its own, above its children, of which those with the most below come last."""
    below = [1] * len(parents)
    for node in sorted(range(len(parents)), key=lambda k: -depth[k]):
        if parents[node] >= 0:
            below[parents[node]] += below[node]
    children: dict[int, list[int]] = {}
    for node in sorted(range(len(parents)), key=lambda k: -below[k]):  # the last is visited first
        children.setdefault(parents[node], []).append(node)
    found, waiting, count = [0.0] * len(parents), list(children[-1]), 0
    while waiting:
        node = waiting.pop()
        found[node], count = float(count), count + 1
        waiting += children.get(node, [])
    return found


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes in inches, the first row at 0, with room for a legend above."""
    figure = new_figure(width, height, constrained=False)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(-0.1, width - 0.1)
    axes.set_ylim(0.55 - height, 0.55)
    return figure, axes


def _width_of_line(share: float) -> float:
    """Of an edge of so much of the largest information, points."""
    return 0.7 + 4.3 * share


def _bent(
    axes: Axes, start: tuple[float, float], bend: float, end: tuple[float, float], share: float
) -> None:
    """A line that leaves and arrives level, clear of the boxes of the level it leaves."""
    from matplotlib.path import Path

    stop = end[0] - 0.34  # the number stands above the straight end
    middle = (bend + stop) / 2
    points = [start, (bend, start[1]), (middle, start[1]), (middle, end[1]), (stop, end[1]), end]
    _draw(axes, points, [Path.MOVETO, Path.LINETO, *[Path.CURVE4] * 3, Path.LINETO], share)


def _angled(axes: Axes, start: tuple[float, float], end: tuple[float, float], share: float) -> None:
    """A thin line down, which siblings share, and one as wide as the edge across."""
    from matplotlib.path import Path

    corner = (start[0], end[1])
    _draw(axes, [start, corner], [Path.MOVETO, Path.LINETO], 0.0)
    _draw(axes, [corner, end], [Path.MOVETO, Path.LINETO], share)


def _draw(axes: Axes, points: list[tuple[float, float]], codes: list[Any], share: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    look: dict[str, Any] = {"linewidth": _width_of_line(share), "edgecolor": "#8fa3b5", "capstyle": "butt"}
    path = Path(points, codes)
    axes.add_patch(PathPatch(path, facecolor="none", joinstyle="round", zorder=1, **look))


def _amount(axes: Axes, end: tuple[float, float], information: float, share: float) -> None:
    """The number of an edge, clear of it however wide it is."""
    text = "0" if information < 0.005 else f"{information:.2f}"
    above = end[1] + _width_of_line(share) / 144 + 0.01
    look: dict[str, Any] = {"fontsize": 6.8, "color": FAINT, "path_effects": halo(), "zorder": 2}
    axes.text(end[0] - 0.05, above, text, ha="right", va="bottom", **look)


def _node(axes: Axes, x: float, y: float, width: float, text: str, kind: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    fill, edge = _LOOKS[kind]
    box = FancyBboxPatch(
        (x, y - 0.1), width, 0.2, boxstyle="round,pad=0,rounding_size=0.05", facecolor=fill, edgecolor=edge,
        linewidth=1.0, linestyle=(0, (2, 1.2)) if kind == "atom?" else "-", zorder=3,
    )  # fmt: skip
    axes.add_patch(box)
    axes.text(x + width / 2, y, text, ha="center", va="center_baseline", fontsize=_FONT, color=INK, zorder=4)


def _legend(axes: Axes, kinds: list[str]) -> None:
    from matplotlib.patches import FancyBboxPatch

    said = {"number": "numbers", "angle": "angles", "levels": "levels", "atom?": "whether an atom"}
    x, y = 0.0, axes.get_ylim()[1] - 0.2
    for kind in kinds:
        fill, edge = _LOOKS[kind]
        box = FancyBboxPatch(
            (x, y - 0.055), 0.16, 0.11, boxstyle="round,pad=0,rounding_size=0.03", facecolor=fill,
            edgecolor=edge, linewidth=1.0, linestyle=(0, (2, 1.2)) if kind == "atom?" else "-",
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x + 0.22, y, said[kind], va="center_baseline", fontsize=8, color=FAINT)
        x += 0.22 + _width(said[kind]) + 0.25
