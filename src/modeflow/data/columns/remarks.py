"""What is said of columns that were found out: in short in their schema, and where a person should look."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modeflow.data.columns.aside import STRAY
from modeflow.data.columns.base import Column, shown
from modeflow.data.columns.cells import Cells
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.few import MAX_LEVELS_NUMERIC
from modeflow.data.columns.numeric import Numeric
from modeflow.data.columns.spans import of_span
from modeflow.data.columns.steps import Steps
from modeflow.data.columns.times import Datetime

__all__ = ["Remark", "about", "gathered", "remarks", "stray_row"]

#: Cells of text among numbers are slips where they are fewer than this share of more than so many values.
_STRAY, _FEW = 0.1, 10
#: Columns named in one line.
_NAMED = 20
#: Atoms of a column that are told, those with the most rows.
_ATOMS = 5
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
#: Remarks of one kind, with the columns in the place of {}: of one column, and of several.
_TOPICS: dict[str, tuple[str, str]] = {
    "id": (
        "column {} names the rows: say 'drop', or what else it is",
        "columns {} name the rows: say 'drop', or what else they are",
    ),
    "stray": ("column {}: correct these cells, say 'drop' or a kind",) * 2,
    "constant": (
        "column {} is set aside, and put back into samples",
        "columns {} are set aside, and put back into samples",
    ),
    "atoms": (
        "values that hold far more rows than those around are atoms beside them, in column {}",
        "values that hold far more rows than those around are atoms beside them, in columns {}",
    ),
    "codes of digits": ("numbers with leading zeros are codes: text, in column {}",) * 2,
    "large": (
        "column {} holds numbers above 2^53, which float64 rounds: subtract a constant, or say 'drop'",
        "columns {} hold numbers above 2^53, which float64 rounds: subtract constants, or say 'drop'",
    ),
    "round": (
        "column {} may go round: if it does, say so",
        "columns {} may go round: if they do, say so",
    ),
    "name of a code": (
        "column {} is a code by its name: if it is no quantity, say 'categorical'",
        "columns {} are codes by their names: if they are no quantities, say 'categorical'",
    ),
}


class Remark(NamedTuple):
    """What should be said of a column: the kind of remark, and what is particular to the column."""

    topic: str
    detail: str


def gathered(found: Sequence[tuple[str, Remark]]) -> list[str]:
    """Remarks on columns, by their names: one line for all of a kind."""
    lines = []
    for topic in dict.fromkeys(remark.topic for _, remark in found):
        columns = [
            f"'{name}' ({remark.detail})" if remark.detail else f"'{name}'"
            for name, remark in found
            if remark.topic == topic
        ]
        more = f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else ""
        one, many = _TOPICS[topic]
        lines.append((many if len(columns) > 1 else one).format(", ".join(columns[:_NAMED]) + more))
    return lines


def about(cells: Cells, column: Column) -> str:
    """What is in a column, in short."""
    if column.kind == "constant" or cells.refusal:
        return ""
    n = len(cells)
    parts: list[str] = []
    times = cells.times(column.form) if isinstance(column, Datetime) else None
    if times is not None:
        parts.append(f"{len(np.unique(times[1][~np.isnan(times[1])]))} values")
        absent = int(np.isnan(times[1]).sum())
    elif isinstance(column, Numeric) or cells.kind == "number" or cells.spells_numbers:
        known = cells.numbers[~np.isnan(cells.numbers)]
        absent = n - len(known)
        if len(known):
            distinct = len(np.unique(known))
            low, high = (_end(float(v), cells.dtype) for v in (known.min(), known.max()))
            counted = {"duration": ", in seconds", "period": ", counted from 1970"}
            parts.append(f"{distinct} values from {low} to {high}{counted.get(portable(cells.dtype), '')}")
    else:
        listed = Counter(v for v in cells.list() if v is not None)
        absent = n - listed.total()
        if listed:
            top, count = listed.most_common(1)[0]
            word = str(top) if len(str(top)) <= 30 else str(top)[:27] + "..."
            parts.append(f"{len(listed)} values, most often {word} ({_percent(count / n)})")
        if column.kind == "id" and (row := stray_row(cells)) is not None:
            parts = [f"{STRAY} {shown(cells.value(row))} in data row {row + 1}"]
    if isinstance(column, Numeric) and column.atoms:
        shares = sorted(((float((cells.numbers == a).mean()), a) for a in column.atoms), reverse=True)
        parts += [f"{_percent(share)} are {atom:g}" for share, atom in shares[:_ATOMS]]
        if len(shares) > _ATOMS:
            parts.append(f"and {len(shares) - _ATOMS} more atoms")
    if absent:
        parts.append(f"{_percent(absent / n)} missing")
    return ", ".join(parts)


def _end(value: float, dtype: str) -> str:
    span = of_span(value, dtype)
    return f"{value:.6g}" if span is None else str(span)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 or share == 1 else f"{100 * share:.4g} %"


def stray_row(cells: Cells) -> int | None:
    """The first row of text among many different numbers, which is rather a slip than a level."""
    if cells.bad is None or not cells.bad.any():
        return None
    known = cells.numbers[~np.isnan(cells.numbers)]
    many = min(MAX_LEVELS_NUMERIC, max(_FEW, len(known) / 2))
    few = cells.bad.sum() < _STRAY * len(known) and len(np.unique(known)) > many
    return int(np.argmax(cells.bad)) if few else None


def remarks(cells: Cells, column: Column) -> list[Remark]:
    """What a person should know of a column that was found out."""
    found: list[Remark] = []
    name, kind = column.name, column.kind
    if kind == "id":
        slips = cells.bad is not None and stray_row(cells) is not None
        found.append(Remark("stray" if slips else "id", column.about))
    if kind == "constant":
        found.append(Remark("constant", column.spec))
    if isinstance(column, Numeric) and column.atoms:
        shares = sorted(((float((cells.numbers == a).mean()), a) for a in column.atoms), reverse=True)
        most = [f"{a:g}: {_percent(share)}" for share, a in shares[:_ATOMS]]
        more = [f"and {len(shares) - _ATOMS} more"] if len(shares) > _ATOMS else []
        found.append(Remark("atoms", ", ".join([*most, *more])))
    if (
        cells.text is not None
        and not cells.spells_numbers
        and kind in ("categorical", "id")
        and cells.bad is not None
    ):
        known = cells.text.drop_nulls()
        if len(known) and not cells.bad.any():
            found.append(Remark("codes of digits", ""))
    if cells.kind == "number" and np.abs(cells.numbers[~np.isnan(cells.numbers)]).max(initial=0) >= 2**53:
        found.append(Remark("large", ""))
    if isinstance(column, Steps) and kind == "integer":
        known = cells.numbers[~np.isnan(cells.numbers)]
        low, high = float(known.min()), float(known.max())
        for first, last, period, word in _ROUND:
            ends = (low == first and high == last) or (
                last >= 360 and first <= low and 0.9 * last < high <= last
            )
            if ends and word.search(name):
                found.append(Remark("round", f"{low:g} to {high:g}: 'circular({period})'"))
                break
        if _CODES.search(name):
            found.append(Remark("name of a code", ""))
    return found
