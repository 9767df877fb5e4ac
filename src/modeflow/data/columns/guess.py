"""Which kind a column is, by its cells: what a person who knows data would take it for at first sight."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from modeflow.data.columns.aside import STRAY
from modeflow.data.columns.atoms import bounds, find_atoms
from modeflow.data.columns.base import Column, shown
from modeflow.data.columns.cells import PROGRAM_MARKS, Cells
from modeflow.data.columns.learn import (
    MAX_LEVELS,
    MAX_LEVELS_NUMERIC,
    few_valued,
    learn,
    level_values,
    trusted_lattice,
)
from modeflow.data.columns.numeric import Numeric, numbers_of
from modeflow.data.columns.steps import Steps

__all__ = ["Guess", "about", "guess"]

#: Rows from which on values that are all different say something.
_ROWS = 20
#: Pairs of equal values that whole numbers, spread evenly over their range, would be expected to hold: beyond
#: it, with none, they number something (by chance with probability e^-10 or less).
_PAIRS = 10.0
#: Share of rows with a value seen once, from which on text names rows.
_ONCE = 0.2
#: Text of so few values has levels, however few its rows; share of cells that are slips among numbers.
_FEW, _STRAY = 10, 0.1
#: Cells of a lattice beyond which a few values are just some numbers.
_CELLS = 1000
_NAMES_ROWS = re.compile(r"(?:^|[\s_.-])(?:id|pid|uuid|guid|key|index|rownames|row)$", re.IGNORECASE)
_CODES = re.compile(
    r"(?:^|[\s_.-])(?:zip|zipcode|postal|postcode|plz|code|phone)(?:$|[\s_.-])", re.IGNORECASE
)
#: Whole numbers from low to high under such a name go round.
_ROUND = (
    (0, 23, 24, re.compile(r"h(ou)?r", re.IGNORECASE)),
    (1, 12, 12, re.compile(r"mo(nth|$|[\s_])|mnth", re.IGNORECASE)),
    (0, 6, 7, re.compile(r"week_?day|dow|day_?of_?week", re.IGNORECASE)),
    (1, 7, 7, re.compile(r"week_?day|dow|day_?of_?week", re.IGNORECASE)),
    (0, 59, 60, re.compile(r"min(ute)?$", re.IGNORECASE)),
    (0, 360, 360, re.compile(r"dir|angle|deg|bearing|azimuth|heading|longitude|phase", re.IGNORECASE)),
    (-180, 180, 360, re.compile(r"angle|deg|bearing|azimuth|longitude|phase", re.IGNORECASE)),
)


@dataclass
class Guess:
    """A column, what should be said about it, and the mark of a program in its text with the rows of it."""

    column: Column
    notes: list[str] = field(default_factory=list)
    marks: tuple[str, int] | None = None


def guess(cells: Cells, name: str, blanks: bool = False) -> Guess:
    """The kind of a column.

    Arguments:
        cells: of the column. name: its name.
        blanks: the table leaves missing cells of text blank, so that a mark such as NA is a word of its own.

    Raises:
        DataError: infinite numbers.
    """
    kind = _kind(cells, name, blanks)
    said: dict[str, object] = {}
    if kind == "categorical":
        said = {"levels": _levels(cells, blanks)}
    elif kind in ("real", "positive", "bounded"):
        kind, said = _support(cells, name)
    column = learn(kind, cells, name, said)
    column = replace(column, about=about(cells, column))
    notes = [f"column '{name}': {note}" for note in _remarks(cells, column)]
    return Guess(column, notes, _mark(cells) if kind == "categorical" else None)


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
    return "id" if varied or len(counts) > MAX_LEVELS or _stray(cells) is not None else "categorical"


def _stray(cells: Cells) -> int | None:
    """The first row of text among many different numbers, which is rather a slip than a level."""
    if cells.bad is None or not cells.bad.any():
        return None
    known = cells.numbers[~np.isnan(cells.numbers)]
    many = min(MAX_LEVELS_NUMERIC, max(_FEW, len(known) / 2))
    few = cells.bad.sum() < _STRAY * len(known) and len(np.unique(known)) > many
    return int(np.argmax(cells.bad)) if few else None


def _numeric(cells: Cells, name: str) -> str:
    values = numbers_of(cells, name)
    known = values[~np.isnan(values)]
    levels, counts = np.unique(known, return_counts=True)
    if len(levels) == 0 or (len(levels) == 1 and len(known) == len(cells)):
        return "constant"
    if len(levels) <= 2:
        return "categorical"
    if len(levels) == len(known) and _numbers_rows(levels, name):
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


# -- words for people -------------------------------------------------------------------------------


def about(cells: Cells, column: Column) -> str:
    """What is in a column, in short."""
    if column.kind == "constant":
        return ""
    n = len(cells)
    parts: list[str] = []
    times = cells.times() if column.kind == "datetime" else None
    if times is not None:
        parts.append(f"{len(np.unique(times[1][~np.isnan(times[1])]))} values")
        absent = int(np.isnan(times[1]).sum())
    elif isinstance(column, Numeric) or cells.kind == "number" or cells.spells_numbers:
        known = cells.numbers[~np.isnan(cells.numbers)]
        absent = n - len(known)
        if len(known):
            distinct = len(np.unique(known))
            parts.append(f"{distinct} values from {known.min():.6g} to {known.max():.6g}")
    else:
        listed = Counter(v for v in cells.list() if v is not None)
        absent = n - listed.total()
        if listed:
            top, count = listed.most_common(1)[0]
            word = str(top) if len(str(top)) <= 30 else str(top)[:27] + "..."
            parts.append(f"{len(listed)} values, most often {word} ({_percent(count / n)})")
        if column.kind == "id" and (row := _stray(cells)) is not None:
            parts = [f"{STRAY} {shown(cells.value(row))} in data row {row + 1}"]
    atoms = column.atoms if isinstance(column, Numeric) else ()
    parts += [f"{_percent(float((cells.numbers == atom).mean()))} are {atom:g}" for atom in atoms]
    if absent:
        parts.append(f"{_percent(absent / n)} missing")
    return ", ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 or share == 1 else f"{100 * share:.4g} %"


def _remarks(cells: Cells, column: Column) -> list[str]:
    notes: list[str] = []
    name, kind = column.name, column.kind
    if kind == "id":
        stray = "" if cells.bad is None or _stray(cells) is None else ": correct these cells"
        notes.append(
            f"{column.about}{stray}, say 'drop' or a kind"
            if stray
            else f"names the rows ({column.about}): say 'drop', or what else it is"
        )
    if kind == "constant":
        notes.append(f"{column.spec}: set aside, and put back into samples")
    if isinstance(column, Numeric) and column.atoms:
        listed = ", ".join(f"{a:g} ({_percent(float((cells.numbers == a).mean()))})" for a in column.atoms)
        one = len(column.atoms) == 1
        notes.append(
            f"the value {listed} holds far more rows than those around: an atom beside them"
            if one
            else f"the values {listed} hold far more rows than those around: atoms beside them"
        )
    if (
        cells.text is not None
        and not cells.spells_numbers
        and kind in ("categorical", "id")
        and cells.bad is not None
    ):
        known = cells.text.drop_nulls()
        if len(known) and not cells.bad.any():
            notes.append("numbers with leading zeros are codes: text")
    if cells.kind == "number" and np.abs(cells.numbers[~np.isnan(cells.numbers)]).max(initial=0) >= 2**53:
        notes.append("holds numbers above 2^53, which float64 rounds: subtract a constant, or say 'drop'")
    if isinstance(column, Steps) and kind == "integer":
        known = cells.numbers[~np.isnan(cells.numbers)]
        low, high = float(known.min()), float(known.max())
        for first, last, period, word in _ROUND:
            ends = (low == first and high == last) or (
                last >= 360 and first <= low and 0.9 * last < high <= last
            )
            if ends and word.search(name):
                notes.append(f"runs from {low:g} to {high:g}: if it goes round, say 'circular({period})'")
                break
        if _CODES.search(name):
            notes.append("its name says a code: if these are no quantities, say 'categorical'")
    return notes
