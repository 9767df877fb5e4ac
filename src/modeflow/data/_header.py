"""Is the first line of a text table its header? Decided by comparing it with the rows below."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from modeflow.data._cells import is_missing, to_number

__all__ = ["Verdict", "decide"]

# A row that looks like a header by chance this rarely is taken for one.
_RARE = 1e-3
_WHOLE = re.compile(r"\d+")


@dataclass(frozen=True)
class Verdict:
    """What the first line is.

    Attributes:
        header: whether it names the columns.
        certain: no guess was needed.
        doubtful: the evidence is on both sides, so that a person should look.
    """

    header: bool
    certain: bool = True
    doubtful: bool = False


def decide(first: Sequence[str], rows: Sequence[Sequence[str]], quoted: bool = False) -> Verdict:
    """Compare the first line with the rows below it.

    Text above numbers is a header, and so are numbers that the rows below cannot be a continuation of:
    ``0,1,2,...`` above fractions (what pandas writes for a frame without names), whole numbers above
    rows none of which is written so, or evenly spaced values (years, wavelengths) far outside of the
    columns below.

    Arguments:
        first: cells of the first line.
        rows: cells of the lines below (a sample; all as wide as `first`).
        quoted: the first line is in quotation marks and the rows are not.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(first)
    over_numbers = [_mostly_numbers(column) for column in columns]
    named = [not is_missing(cell) and to_number(cell) is None for cell in first]
    text = [j for j, (name, number) in enumerate(zip(named, over_numbers, strict=True)) if name and number]
    numbers = [j for j, cell in enumerate(first) if over_numbers[j] and to_number(cell) is not None]
    if not any(over_numbers):
        # One line, or rows of text alone: then only a line of text can be a header.
        return Verdict(any(named), certain=all(named) or not any(named))
    if quoted and not text:
        return Verdict(True, certain=False)
    if text and not numbers:
        return Verdict(True)
    if not numbers:
        if any(named):
            return Verdict(True, certain=False)
        return Verdict(False, certain=False, doubtful=True)
    if first[0].strip() == "" and _counts(columns[0]):
        return Verdict(True, certain=False)  # a saved index has no name
    verdict = _of_numbers([first[j].strip() for j in numbers], [columns[j] for j in numbers])
    if text and (verdict.header or len(text) >= len(numbers)):
        return Verdict(True, certain=False)
    return verdict


def _of_numbers(cells: list[str], columns: list[Sequence[str]]) -> Verdict:
    """A first line of numbers above columns of numbers."""
    values = [to_number(cell) or 0.0 for cell in cells]
    rows = len(columns[0])
    if len(set(cells)) < len(cells) or not rows:
        return Verdict(False, certain=False)
    whole = all(_WHOLE.fullmatch(cell) for cell in cells)
    below = [[v for v in map(to_number, column) if v is not None] for column in columns]
    outside = [_far_outside(value, column) for value, column in zip(values, below, strict=True)]
    d = len(cells)
    counting = whole and values in ([float(i) for i in range(d)], [float(i + 1) for i in range(d)])
    steps = _steps(values)
    repeated = steps is not None and any(_steps(row) == steps for row in _numeric_rows(columns))
    fractions = any(to_number(c) is not None and not _is_whole(c) for column in columns for c in column)
    if counting and values[0] == 0 and fractions and (d > 1 or rows >= 10):
        return Verdict(True, certain=False)
    same = math.prod(_share(column, value) for column, value in zip(below, values, strict=True))
    if counting and d > 1 and rows >= 10 and same < _RARE and not repeated:
        return Verdict(True, certain=False)
    if d >= 3 and steps is not None and all(outside) and not repeated:
        return Verdict(True, certain=False)
    form = math.prod(_form_share(column) for column in columns) if whole else 1.0
    rising = all(a < b for a, b in itertools.pairwise(values)) and d >= 3
    if form < _RARE and (rising or any(outside)):
        return Verdict(True, certain=False)
    if whole and all(outside) and rows >= 5:
        # A name taken for a row ruins a density, a row taken for a name costs one row; but the largest of a
        # sorted single column can lie as far out.
        return Verdict(d > 1 or form < 0.05, certain=False, doubtful=True)
    return Verdict(False, certain=False, doubtful=form < _RARE)


def _mostly_numbers(column: Sequence[str]) -> bool:
    cells = [cell for cell in column if not is_missing(cell)]
    return bool(cells) and 2 * sum(to_number(cell) is not None for cell in cells) >= len(cells)


def _counts(column: Sequence[str]) -> bool:
    """At least two cells, each one more than the one above."""
    values = [to_number(cell) for cell in column]
    known = [v for v in values if v is not None]
    return len(known) == len(values) > 1 and _steps(known, least=2) == 1.0


def _is_whole(cell: str) -> bool:
    return _WHOLE.fullmatch(cell.strip().lstrip("+-")) is not None


def _far_outside(value: float, column: Sequence[float]) -> bool:
    """Further from all values of the column than they are from each other."""
    if len(column) < 2:
        return False
    low, high = min(column), max(column)
    return value > high + (high - low) or value < low - (high - low)


def _steps(values: Sequence[float], least: int = 3) -> float | None:
    """The step of evenly spaced values, else None."""
    if len(values) < least:
        return None
    step = values[1] - values[0]
    even = all(math.isclose(b - a, step, rel_tol=1e-6) for a, b in itertools.pairwise(values))
    return step if step and even else None


def _numeric_rows(columns: list[Sequence[str]]) -> list[list[float]]:
    rows = ([to_number(cell) for cell in row] for row in zip(*columns, strict=True))
    return [[v for v in row if v is not None] for row in rows if None not in row]


def _share(column: Sequence[float], value: float) -> float:
    """Chance that a row of this column holds `value`: Laplace's rule, (k + 1) / (n + 2)."""
    return (sum(v == value for v in column) + 1) / (len(column) + 2)


def _form_share(column: Sequence[str]) -> float:
    """Chance that a row of this column is written as a whole number."""
    numbers = [cell for cell in column if to_number(cell) is not None]
    return (sum(map(_is_whole, numbers)) + 1) / (len(numbers) + 2)
