"""Cells of a text table: how lines are split into them, and what one says."""

from __future__ import annotations

import contextlib
import csv
import math
import re
from collections.abc import Sequence

__all__ = ["MISSING", "is_missing", "quoted", "single_blanks", "split_cells", "to_number"]

#: Spellings of "no value", compared in lower case without surrounding blanks: those of pandas, and the
#: dot and dashes of statistics programs.
MISSING = (
    "", "na", "nan", "-nan", "+nan", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "null", "none", "nil",
    "?", "-", "--", ".", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan", "nan(ind)", "-nan(ind)",
)  # fmt: skip
_MISSING = frozenset(MISSING)
_TRUTH = {"true": 1.0, "false": 0.0}
_EXPONENT = re.compile(r"([0-9.])[dD]([+-]?\d)")


def quoted(names: Sequence[str], most: int = 6) -> str:
    """``'a', 'b' and 3 more``, for messages."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def is_missing(cell: str) -> bool:
    """Whether the cell is a mark for no value."""
    return cell.strip().lower() in _MISSING


def to_number(cell: str) -> float | None:
    """The number a cell holds in any usual form, None for text and missing values.

    Forms: decimal points and commas, grouped thousands, Fortran's ``1.5D+00``, a true minus sign, and
    true and false. Used to tell numbers from names, not to read them.
    """
    text = cell.strip()
    lower = text.lower()
    # float() also takes '1_000', which no table means as a number.
    if "_" in text or lower in _MISSING:
        return None
    if lower in _TRUTH:
        return _TRUTH[lower]
    with contextlib.suppress(ValueError):
        return _not_nan(float(text))
    text = _EXPONENT.sub(r"\1e\2", text.replace("−", "-"))
    for form in (text, text.replace(",", ".", 1), text.replace(",", "")):
        with contextlib.suppress(ValueError):
            return _not_nan(float(form))
    return None


def _not_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def split_cells(lines: Sequence[str], separator: str | None) -> list[list[str]]:
    """The cells of lines; " " separates by any number of blanks and tabs, None not at all."""
    if separator is None:
        return [[line.strip().strip('"')] for line in lines]
    if separator == " ":
        lines = [" ".join(line.split()) for line in lines]
    try:
        # Blanks before a quote are common by hand ('a, "b"') and mean nothing.
        return [row or [""] for row in csv.reader(lines, delimiter=separator)]
    except csv.Error:
        return [line.split(separator) for line in lines]


def single_blanks(body: bytes) -> bytes:
    """One blank between cells, none at the ends of lines."""
    body = body.replace(b"\t", b" ")
    while b"  " in body:
        body = body.replace(b"  ", b" ")
    return body.replace(b"\n ", b"\n").replace(b" \n", b"\n").strip(b" ")
