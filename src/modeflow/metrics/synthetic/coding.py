"""Tables of any kind as arrays that can be compared: numbers, and codes of levels that all tables share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["CodedTables", "Rows", "code_tables"]

#: The level of a cell that is missing.
MISSING = "\0missing"


@dataclass(frozen=True)
class Rows:
    """One table.

    Attributes:
        numbers: numeric columns ``(N, A)``, float64, NaN where a cell is missing.
        codes: categorical columns ``(N, C)``, indices into the levels that all tables share.
    """

    numbers: np.ndarray
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: np.ndarray) -> Rows:
        """Some of the rows."""
        return Rows(self.numbers[index], self.codes[index])


@dataclass(frozen=True)
class CodedTables:
    """Tables of the same columns.

    Attributes:
        names: of the columns, in the order of the first table.
        numeric, categorical: the names by kind, each in that order.
        levels: of every categorical column; a missing cell is a level of its own, the last.
        level_numbers: of every categorical column that holds numbers or booleans, the number of each level
            (NaN for a missing cell); None for a column of text.
        tables: the rows.
    """

    names: tuple[str, ...]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    level_numbers: tuple[np.ndarray | None, ...]
    tables: tuple[Rows, ...]

    def of(self, *tables: Rows) -> CodedTables:
        """The same columns with other rows."""
        return replace(self, tables=tables)


@dataclass(frozen=True)
class _Cells:
    """A column as it was read.

    Attributes:
        numbers: NaN where a cell is missing; of a column of text, empty.
        texts: of a column of text, `MISSING` where a cell is; else None.
        is_category: it is categorical without being named.
        keeps_numbers: its levels are numbers to a classifier, too.
    """

    numbers: np.ndarray
    texts: np.ndarray | None
    is_category: bool
    keeps_numbers: bool = True

    def __len__(self) -> int:
        return len(self.numbers if self.texts is None else self.texts)

    def coded(self) -> tuple[np.ndarray, list[str], list[float] | None]:
        """Codes, and the levels they point to with their numbers; missing cells have the code -1."""
        if self.texts is None:
            known = ~np.isnan(self.numbers)
            values, inverse = np.unique(self.numbers[known], return_inverse=True)
            levels = [_text(v) for v in values.tolist()]
            numbers = values.tolist() if self.keeps_numbers else None
        else:
            known = self.texts != MISSING
            texts, inverse = np.unique(self.texts[known].astype(str), return_inverse=True)
            levels, numbers = texts.tolist(), None
        codes = np.full(len(known), -1, dtype=np.int64)
        codes[known] = inverse
        return codes, levels, numbers


def _text(value: Any) -> str:
    """One name for a level, whatever type its cell has: 2, 2.0 and "2" are the same."""
    if isinstance(value, (Real, Decimal)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    text = str(value)
    return {"True": "1", "False": "0"}.get(text, text)


def _absent(cell: Any) -> bool:
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell


def _read(series: Any, name: str, table: str) -> _Cells:
    kind = str(getattr(series, "dtype", "")).lower()
    has_type = kind.startswith(("category", "categorical", "enum"))
    values = np.asarray(series)
    if values.ndim != 1:
        raise DataError(f"{table}: column '{name}' must be one-dimensional, has shape {values.shape}")
    if values.dtype.kind == "b":
        return _Cells(values.astype(np.float64), None, True)
    if values.dtype.kind in "mM":
        seconds = values.astype(f"{values.dtype.str[1:2]}8[ns]").astype(np.int64) / 1e9
        return _Cells(np.where(np.isnat(values), np.nan, seconds), None, False)
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
    else:
        cells = values.tolist()
        here = [c for c in cells if not _absent(c)]
        if here and all(hasattr(c, "timestamp") for c in here):
            return _Cells(np.array([math.nan if _absent(c) else c.timestamp() for c in cells]), None, False)
        if not here:
            return _Cells(np.full(len(cells), math.nan), None, True, not has_type)
        if not all(isinstance(c, (Real, Decimal)) for c in here):
            texts = np.array([MISSING if _absent(c) else _text(c) for c in cells], dtype=object)
            return _Cells(np.empty(0), texts, True, False)
        numbers = np.array([math.nan if _absent(c) else float(c) for c in cells], dtype=np.float64)
        if all(isinstance(c, (bool, np.bool_)) for c in here):
            return _Cells(numbers, None, True)
    if np.isinf(numbers).any():
        row = int(np.flatnonzero(np.isinf(numbers))[0])
        raise DataError(f"{table}: column '{name}' is infinite at row {row}; remove it or make it missing")
    return _Cells(numbers, None, has_type, not has_type)


def _columns(frame: Any, table: str) -> dict[str, Any]:
    if isinstance(frame, Mapping):
        columns = {str(name): values for name, values in frame.items()}
    elif hasattr(frame, "columns") and hasattr(frame, "__getitem__"):
        columns = {str(name): frame[name] for name in frame.columns}
    else:
        received = type(frame).__name__
        raise DataError(f"{table} must be a pandas or polars frame or a dict of columns, received {received}")
    if not columns:
        raise DataError(f"{table} has no columns")
    sizes = {name: len(values) for name, values in columns.items()}
    if min(sizes.values()) == 0:
        raise DataError(f"{table} has no rows")
    if len(set(sizes.values())) > 1:
        short = min(sizes, key=lambda name: sizes[name])
        raise DataError(f"{table}: column '{short}' has {sizes[short]} rows, others {max(sizes.values())}")
    return columns


def code_tables(tables: Mapping[str, Any], categorical: Iterable[str] | None = None) -> CodedTables:
    """Code tables of the same columns, so that equal cells have equal codes.

    Numeric are columns of numbers and of times (seconds); categorical those of text, of booleans, of a type
    "category", and those named. A level is told by its text: 2, 2.0 and "2" are one, as are True and "True".

    Arguments:
        tables: pandas or polars frames or dicts of columns, by the name that messages have for them. The
            first says which columns there are, in which order, and which are numeric.
        categorical: columns whose numbers are categories.

    Raises:
        DataError: other columns, no rows, infinite cells, text in a numeric column.
        ConfigError: `categorical` names a column that there is not.
    """
    if isinstance(categorical, str):
        raise ConfigError(f"categorical='{categorical}' is one text; give a list of names: ['{categorical}']")
    read: dict[str, dict[str, _Cells]] = {}
    names: tuple[str, ...] = ()
    for table, frame in tables.items():
        columns = _columns(frame, table)
        names = names or tuple(columns)
        for name in names:
            if name not in columns:
                raise DataError(f"{table} has no column '{name}'{nearest(name, columns)}")
        for name in columns:
            if name not in names:
                raise DataError(f"{table} has a column '{name}' that {next(iter(tables))} has not")
        read[table] = {name: _read(columns[name], name, table) for name in names}
    named = [str(name) for name in categorical or ()]
    for name in named:
        if name not in names:
            raise ConfigError(f"categorical: there is no column '{name}'{nearest(name, names)}")
    first = next(iter(read.values()))
    kinds = [name for name in names if name in named or first[name].is_category]
    numeric = tuple(name for name in names if name not in kinds)
    for table, cells in read.items():
        for name in numeric:
            if cells[name].texts is not None:
                raise DataError(
                    f"{table}: column '{name}' holds text where it held numbers; name it in categorical"
                )
    shared = [_shared([cells[name] for cells in read.values()]) for name in kinds]
    rows = []
    for position, cells in enumerate(read.values()):
        count = len(cells[names[0]])
        numbers = [cells[name].numbers for name in numeric]
        codes = [each[0][position] for each in shared]
        rows.append(Rows(_stack(numbers, count, np.float64), _stack(codes, count, np.int64)))
    return CodedTables(
        names,
        numeric,
        tuple(kinds),
        tuple(each[1] for each in shared),
        tuple(each[2] for each in shared),
        tuple(rows),
    )


def _stack(columns: Sequence[Any], rows: int, kind: Any) -> np.ndarray:
    return np.stack(columns, axis=1) if columns else np.empty((rows, 0), dtype=kind)


def _shared(columns: Sequence[_Cells]) -> tuple[list[np.ndarray], tuple[str, ...], np.ndarray | None]:
    """Codes of every table into common levels, these levels, and their numbers."""
    coded = [column.coded() for column in columns]
    everything = {text for _, levels, _ in coded for text in levels}
    numbers: dict[str, float] = {}
    for _, levels, values in coded:
        numbers |= dict(zip(levels, values, strict=True)) if values is not None else {}
    # Numbers only where the first table has them: what another holds in their place is then text.
    is_numeric = coded[0][2] is not None and numbers.keys() == everything
    order = sorted(everything, key=(lambda t: numbers[t]) if is_numeric else str)
    place = {text: i for i, text in enumerate(order)}
    missing = any((codes < 0).any() for codes, _, _ in coded)
    out = []
    for codes, levels, _ in coded:
        # The last entry is what the code -1 points to.
        target = np.array([*(place[text] for text in levels), len(order)], dtype=np.int64)
        out.append(target[codes])
    known = [numbers[text] for text in order] if is_numeric else None
    if missing:
        order = [*order, MISSING]
        known = [*known, math.nan] if known is not None else None
    return out, tuple(order), None if known is None else np.array(known, dtype=np.float64)
