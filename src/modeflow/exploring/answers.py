"""What the page shows for every change of it, as the values of its components; no browser is needed."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from dash import no_update

from modeflow.errors import DataError, ModeflowError
from modeflow.exploring import parts
from modeflow.exploring.axes import Axis
from modeflow.exploring.figures import density_figure, points_figure
from modeflow.exploring.maps import density_map
from modeflow.exploring.views import Explored, Rows, ScoredFile
from modeflow.report import words
from modeflow.report.colours import DATA, MODEL

__all__ = ["Page", "line_of"]

#: Rows of a selection that are listed.
_LISTED = 50


class Page:
    """What is found for every change of the page.

    Arguments:
        explored: the run.
    """

    def __init__(self, explored: Explored) -> None:
        self.explored = explored

    # -- pictures --------------------------------------------------------------------------------

    def legend(self, node: str | None) -> tuple[list[Any], list[int]]:
        """Boxes of the states of a node, all ticked."""
        states = self.explored.states_of(self._node(node)) if not self.explored.stateless else ()
        return parts.legend_options(states), list(states)

    def data(
        self, across: str, up: str, part: str, node: str | None, states: Sequence[int], marked: Any
    ) -> tuple[Any, str]:
        """Picture and caption of the rows of the data."""
        if not self.explored.parts:
            return no_update, ""
        rows = self.explored.rows(part)
        return self._points(rows, across, up, node, states, marked, "data", f"{part} row", DATA)

    def model(
        self,
        across: str,
        up: str,
        given: Mapping[str, float],
        node: str | None,
        states: Sequence[int],
        marked: Any,
    ) -> tuple[Any, str, Any, str, str]:
        """Pictures and captions of samples and density, and what is given, in words."""
        explored = self.explored
        shown = [name for name in given if name in (across, up)]
        given = _held(given, across, up)
        told = explored.words(given)
        note = (
            f"Given {told}." if given else "Nothing is given: choose columns to hold, such as an age of 40."
        )
        if shown:
            note += f" What is shown ({', '.join(shown)}) is not held."
        rows = explored.samples(given)
        kind = f"sample {'given ' + told if given else 'of the whole model'}"
        figure, said = self._points(rows, across, up, node, states, marked, "samples", kind, MODEL)
        x, y = self._axes(across, up)
        every = set(explored.states_of("state")) if not (explored.stateless or explored.tree) else set()
        some = frozenset(states) if every and set(states) != every else None
        found = density_map(explored, across, y.name if y else None, given, some)
        return figure, said, density_figure(found, x, y), found.said + _atoms(x, y), note

    def _points(
        self,
        rows: Rows,
        across: str,
        up: str,
        node: str | None,
        states: Sequence[int],
        marked: Any,
        source: str,
        kind: str,
        colour: str,
    ) -> tuple[Any, str]:
        x, y = self._axes(across, up)
        chosen = marked["rows"] if marked and marked["source"] == source else None
        name = None if self.explored.stateless else self._node(node)
        figure, drawn = points_figure(
            rows, self.explored.names, x, y, node=name, states=states, selected=chosen, colour=colour
        )
        first, _, rest = kind.partition(" ") if source == "samples" else (kind, "", "")
        said = words.plural(drawn, first) + (f" {rest}" if rest else "")
        if rows.total > len(rows.values):
            said += f", some of {rows.total:,}"
        left = len(rows.values) - drawn
        if left:
            said += f"; {left:,} not drawn (a cell is missing, a level is rare, or their state is off)"
        return figure, said + "."

    # -- conditions ------------------------------------------------------------------------------

    def conditions(self, names: Sequence[str], values: Mapping[str, float]) -> list[Any]:
        """A slider or list for every column that is given; those there are keep their values."""
        explored = self.explored
        found = []
        for name in names:
            usual = float(explored.likeliest[explored.names.index(name)])
            found.append(parts.condition(explored, name, values.get(name, usual)))
        return found

    # -- selections ------------------------------------------------------------------------------

    def rows_of(self, source: str, part: str, across: str, up: str, given: Mapping[str, float]) -> Rows:
        """The rows that are drawn in a picture."""
        if source == "data":
            return self.explored.rows(part)
        try:
            return self.explored.samples(_held(given, across, up))
        except ModeflowError:
            return self.explored.samples()

    def between(
        self, rows: Rows, across: str, up: str, limits: Sequence[str], node: str | None, states: Sequence[int]
    ) -> list[int]:
        """Numbers of rows that lie between limits: of the column across, and of that up, as written."""
        names = self.explored.names
        x, y = self._axes(across, up)
        inside = x.between(limits[0], limits[1], rows.values[:, names.index(x.name)])
        if y is not None:
            inside &= y.between(limits[2], limits[3], rows.values[:, names.index(y.name)])
        state = None if self.explored.stateless else rows.states.get(self._node(node))
        return [i for i in inside.nonzero()[0].tolist() if state is None or int(state[i]) in states]

    def marked(self, rows: Rows, numbers: Sequence[int], source: str) -> tuple[str, Any]:
        """The rows of a selection, in words and as a table."""
        if not numbers:
            return "No rows are selected.", []
        what = "row" if source == "data" else "sample"
        said = f"{words.plural(len(numbers), what)} selected"
        if len(numbers) > _LISTED:
            said += f"; the first {_LISTED} are listed"
        some = sorted(numbers)[:_LISTED]
        return said + ".", parts.rows_table(rows.frame[some], some, source)

    # -- one row, a file, samples -----------------------------------------------------------------

    def one_row(self, cells: Mapping[str, str]) -> list[Any]:
        """The score and the reasons of a row that is written as text."""
        row = {name: (text if (text or "").strip() else None) for name, text in cells.items()}
        return parts.reasons_result(self.explored, self.explored.reasons(row))

    def file(self, name: str, contents: str) -> tuple[list[Any], ScoredFile]:
        """What a file that was dropped says, and its scores.

        Arguments:
            contents: as a browser sends it, ``data:...;base64,...``.
        """
        try:
            content = base64.b64decode(contents.partition(",")[2], validate=True)
        except (binascii.Error, ValueError) as error:
            raise DataError(f"'{name}' did not arrive whole: drop it again") from error
        found = self.explored.score_file(name, content)
        return parts.file_result(found), found

    def samples_csv(self, n: Any, seed: Any, given: Mapping[str, float]) -> str:
        """New rows as text.

        Raises:
            DataError: a number of rows, or a seed, that is none.
        """
        for value, what, least in ((n, "How many", 1), (seed, "The seed", 0)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**32:
                raise DataError(f"{what} must be a whole number of {least} or more")
        return self.explored.sample_csv(n, given, seed)

    # -- inside ----------------------------------------------------------------------------------

    def _axes(self, across: str, up: str) -> tuple[Axis, Axis | None]:
        axes = self.explored.axes
        return axes[across], (axes[up] if up and up != across else None)

    def _node(self, node: str | None) -> str:
        return node if node else self.explored.nodes[0]


def _held(given: Mapping[str, float], across: str, up: str) -> dict[str, float]:
    """What is given of the columns that are not shown."""
    return {name: value for name, value in given.items() if name not in (across, up)}


def _atoms(*axes: Axis | None) -> str:
    """What is said of single values that have a probability of their own."""
    found = [
        f"{axis.name} ({', '.join(axis.labels(np.array(axis.feature.atoms)))})"
        for axis in axes
        if axis is not None and axis.feature.atoms
    ]
    return (
        f" Single values have a probability of their own, not shown here: {', '.join(found)}."
        if found
        else ""
    )


def line_of(error: BaseException) -> str:
    """A message without its line ends."""
    return " ".join(str(error).split())
