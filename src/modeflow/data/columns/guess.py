"""Which kind a column is, by its cells: what a person who knows data would take it for at first sight."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np

from modeflow.data.columns.atoms import bounds, find_atoms
from modeflow.data.columns.base import Column
from modeflow.data.columns.cells import PROGRAM_MARKS, Cells
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.few import MAX_LEVELS, few_valued, level_values
from modeflow.data.columns.learn import learn, trusted_lattice
from modeflow.data.columns.numeric import numbers_of
from modeflow.data.columns.remarks import Remark, about, remarks, stray_row

__all__ = ["Guess", "guess"]

#: Rows from which on values that are all different say something.
_ROWS = 20
#: Pairs of equal values that whole numbers, spread evenly over their range, would be expected to hold: beyond
#: it, with none, they number something (by chance with probability e^-10 or less).
_PAIRS = 10.0
#: Share of rows with a value seen once, from which on text names rows.
_ONCE = 0.2
#: Text of so few values has levels, however few its rows.
_FEW = 10
#: Cells of a lattice beyond which a few values are just some numbers.
_CELLS = 1000
_NAMES_ROWS = re.compile(r"(?:^|[\s_.-])(?:id|pid|uuid|guid|key|index|rownames|row)$", re.IGNORECASE)


@dataclass
class Guess:
    """A column, what should be said about it, and the mark of a program in its text with the rows of it."""

    column: Column
    remarks: list[Remark] = field(default_factory=list)
    marks: tuple[str, int] | None = None


def guess(cells: Cells, name: str, blanks: bool = False) -> Guess:
    """The kind of a column.

    Arguments:
        cells: of the column. name: its name.
        blanks: the table leaves missing cells of text blank, so that a mark such as NA is a word of its own.

    Raises:
        DataError: infinite numbers.
    """
    cells.check(name)
    kind = _kind(cells, name, blanks)
    said: dict[str, object] = {}
    if kind == "categorical":
        said = {"levels": _levels(cells, blanks)}
    elif kind in ("real", "positive", "bounded"):
        kind, said = _support(cells, name)
    column = learn(kind, cells, name, said)
    column = replace(column, about=about(cells, column))
    return Guess(column, remarks(cells, column), _mark(cells) if kind == "categorical" else None)


def _mark(cells: Cells) -> tuple[str, int] | None:
    """The first mark of a program in text, and the rows with one."""
    if cells.text is None or cells.spells_numbers:
        return None
    known = cells.text.drop_nulls()
    marked = known.filter(known.str.strip_chars().str.to_lowercase().is_in(list(PROGRAM_MARKS)))
    return (str(marked[0]), len(marked)) if len(marked) else None


def _levels(cells: Cells, blanks: bool) -> tuple[object, ...]:
    if blanks and cells.text is not None and cells.levels is None and not cells.spells_numbers:
        return tuple(sorted(cells.text.drop_nulls().unique().to_list()))
    return level_values(cells)


def _kind(cells: Cells, name: str, blanks: bool) -> str:
    if cells.categorical:
        many = len(level_values(cells)) > MAX_LEVELS
        return "id" if many else "ordinal" if cells.ordered else "categorical"
    if cells.kind == "boolean":
        return "boolean" if not np.isnan(cells.numbers).all() and not _same(cells.numbers) else "constant"
    times = cells.times()
    if times is not None:
        return "constant" if _same(times[1]) else "datetime"
    if cells.kind == "number" or cells.spells_numbers:
        return _numeric(cells, name)
    if cells.text is not None:
        return _words(cells, blanks)
    values = level_values(cells)
    return "constant" if not values else "categorical" if len(values) <= MAX_LEVELS else "id"


def _same(numbers: np.ndarray) -> bool:
    """Whether every cell holds one and the same number."""
    return bool((numbers == numbers[0]).all())


def _words(cells: Cells, blanks: bool) -> str:
    assert cells.text is not None
    known = cells.text.drop_nulls()
    marks = known.str.strip_chars().str.to_lowercase().is_in(list(PROGRAM_MARKS))
    if not blanks:
        known = known.filter(~marks)
    counts = known.value_counts()["count"].to_numpy() if len(known) else np.zeros(0)
    if len(counts) == 0 or (len(counts) == 1 and len(known) == len(cells)):
        return "constant"
    once = float((counts == 1).sum())
    varied = len(known) >= _ROWS and len(counts) > _FEW and once > _ONCE * len(known)
    return "id" if varied or len(counts) > MAX_LEVELS or stray_row(cells) is not None else "categorical"


def _numeric(cells: Cells, name: str) -> str:
    values = numbers_of(cells, name)
    known = values[~np.isnan(values)]
    levels, counts = np.unique(known, return_counts=True)
    if len(levels) == 0 or (len(levels) == 1 and len(known) == len(cells)):
        return "constant"
    if len(levels) <= 2:
        return "categorical"
    span = portable(cells.dtype) in ("duration", "period")
    if len(levels) == len(known) and not span and _numbers_rows(levels, name):
        return "id"
    few = few_valued(levels, counts)
    if np.all(levels == np.round(levels)) and trusted_lattice(known) is not None:
        return "integer"
    lattice = trusted_lattice(known)
    if lattice is not None and not few:
        atoms = find_atoms(levels, counts, lattice)
        rest = known[~np.isin(known, np.array(atoms))]
        # One value that fills a fifth of the rows says nothing of the others.
        lattice = trusted_lattice(rest) if atoms else lattice
    if lattice is not None and not (few and (levels[-1] - levels[0]) / lattice.step > _CELLS):
        return "integer" if lattice.whole else "lattice"
    return "ordinal" if few else "real"


def _numbers_rows(levels: np.ndarray, name: str) -> bool:
    """Whether whole numbers, all different, number the rows or what is in them."""
    if len(levels) < _ROWS or (levels != np.round(levels)).any():
        return False
    if _NAMES_ROWS.search(name):
        return True
    steps = np.diff(levels)
    unit = float(np.gcd.reduce(steps.astype(np.int64))) if steps.max() < 2**53 else 1.0
    cells = float(levels[-1] - levels[0]) / unit + 1
    return len(levels) ** 2 / (2 * cells) > _PAIRS


def _support(cells: Cells, name: str) -> tuple[str, dict[str, object]]:
    """Real, positive or bounded, and its bounds."""
    values = numbers_of(cells, name)
    known = values[~np.isnan(values)]
    atoms = find_atoms(*np.unique(known, return_counts=True), None)
    rest = known[~np.isin(known, np.array(atoms))]
    if len(np.unique(rest)) < 2:
        return "real", {"atoms": atoms}
    low, high = bounds(rest)
    # Where many rows lie on the least value of all, none lies below.
    if atoms and atoms[0] == known.min():
        low = max(low, atoms[0])
    if atoms and atoms[-1] == known.max():
        high = min(high, atoms[-1])
    if low == -np.inf and high == np.inf:
        return "real", {"atoms": atoms}
    if low != -np.inf and high == np.inf:
        return "positive", {"atoms": atoms, **({"low": low} if low else {})}
    ends = {key: bound for key, bound in (("low", low), ("high", high)) if np.isfinite(bound)}
    return "bounded", {"atoms": atoms, **ends}
