"""Rows that come in: JSON with its limits, as columns of plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modeflow.data.schema import listing
from modeflow.errors import DataError
from modeflow.serving.arrow import ARROW_STREAM, frame_of_arrow

__all__ = ["JSON", "MEDIA", "columns_of_body", "columns_of_json", "json_value"]

JSON = "application/json"
#: What rows may come as.
MEDIA = (JSON, ARROW_STREAM)
#: Digits up to which a whole number of JSON is kept as such.
_DIGITS = 18
_FORMS = '{"rows": [{"a": 1, "b": "x"}]} or {"columns": ["a", "b"], "rows": [[1, "x"]]}'


def columns_of_body(body: bytes, media: str, most_rows: int, most_columns: int) -> dict[str, Any]:
    """Rows as columns by name.

    Arguments:
        body: its bytes. media: one of `MEDIA`. most_rows, most_columns: how many there may be.

    Raises:
        DataError: no table of that kind, none or more rows, or cells that are no scalars.
    """
    if media == JSON:
        return columns_of_json(json_value(body), most_rows, most_columns)
    frame = frame_of_arrow(body, most_rows)
    if not frame.height:
        raise DataError("the table has no rows")
    if frame.width > most_columns:
        raise DataError(_too_many(frame.width, most_columns))
    return {column.name: column for column in frame}


def json_value(body: bytes) -> Any:
    """The value of JSON text.

    Raises:
        DataError: text that is none: NaN and infinite numbers are no JSON, and none may be beyond float64.
    """
    try:
        return json.loads(body, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise DataError("the body is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are of that kind
        raise DataError(f"the body is no JSON: {' '.join(str(error).split())[:200]}") from error


def columns_of_json(value: Any, most_rows: int, most_columns: int) -> dict[str, list[Any]]:
    """Rows of a JSON value, records or lists of cells, as columns by name; what a record lacks is missing.

    Raises:
        DataError: as `columns_of_body`.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("rows"), list):
        raise DataError(f"the body must be an object with rows: {_FORMS}")
    if extra := [key for key in value if key not in ("rows", "columns")]:
        raise DataError(f"the body has {listing(extra)}, of which nothing is known: {_FORMS}")
    rows, names = value["rows"], value.get("columns")
    if not rows:
        raise DataError("the table has no rows")
    if len(rows) > most_rows:
        raise DataError(f"the table has {len(rows)} rows; at most {most_rows} are taken at once")
    if names is None:
        return _of_records(rows, most_columns)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError("columns must be a list of names")
    if len(names) > most_columns:
        raise DataError(_too_many(len(names), most_columns))
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"the table names column '{twice}' twice; rename one of them")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(names):
            found = f"{len(row)} cells" if isinstance(row, list) else type(row).__name__
            raise DataError(f"data row {number} must be a list of {len(names)} cells, received {found}")
    return _checked({name: [row[j] for row in rows] for j, name in enumerate(names)})


def _of_records(rows: Sequence[Any], most_columns: int) -> dict[str, list[Any]]:
    names: dict[str, None] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            kind = type(row).__name__
            raise DataError(f"data row {number} is no object of cells by column ({kind}): {_FORMS}")
        names |= dict.fromkeys(row)
        if len(names) > most_columns:  # every row may have names of its own
            raise DataError(_too_many(len(names), most_columns))
    if not names:
        raise DataError("the rows have no cells")
    return _checked({name: [row.get(name) for row in rows] for name in names})


def _checked(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for name, cells in columns.items():
        _check_text(name, "the name of a column")
        for number, cell in enumerate(cells, 1):
            if isinstance(cell, (list, dict)):
                kind = "a list" if isinstance(cell, list) else "an object"
                raise DataError(
                    f"column '{name}', data row {number} holds {kind}; a cell is text, a number, "
                    "true or false, or null"
                )
            if isinstance(cell, str):
                _check_text(cell, f"column '{name}', data row {number}")
    return columns


def _check_text(text: str, where: str) -> None:
    """Half of a surrogate pair is JSON, but no text that a table can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where} is no Unicode text: half of a surrogate pair") from error


def _too_many(found: int, most: int) -> str:
    return f"the table has {found} columns or more; at most {most} are taken"


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= _DIGITS else _finite(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is beyond the range of float64")
    return number


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number: a missing cell is null")
