"""Tables of numbers of many files as one file of float64: every row is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import Dataset, Split, Table, read_table
from modeflow.errors import DataError
from modeflow.runs.stored_files import add_notes, each_part, parts_read
from modeflow.training import StoredRows

__all__ = ["SETTINGS", "drawn", "write"]

#: Settings by which rows are read.
SETTINGS = ("columns", "header", "drop_missing", "skip_text")


def write(
    files: Sequence[Path], settings: Mapping[str, Any], path: Path, draw: Callable[[int], Any]
) -> dict[str, Any]:
    """Write the rows of all files, those of a file that cannot be read left out.

    Arguments:
        files: of tables. settings: of the run. path: of the numbers. draw: has no part in it.

    Returns:
        names of the ``columns``, ``rows``, a hash of the ``content``, files that ``failed`` with the reason,
        and ``notes``.
    """
    columns: list[str] | None = None
    failed: dict[str, str] = {}
    notes: list[str] = []
    digest, rows = hashlib.sha256(), 0
    start, before, told = 0, 0, digest.copy()

    def tables(file: Path) -> Iterator[tuple[Table, float]]:
        how = {key: settings[key] for key in ("drop_missing", "skip_text")}
        return parts_read(
            file, settings, columns, lambda wanted, header: read_table(file, wanted, header=header, **how)
        )

    with path.open("w+b") as out:
        for file, table in each_part(files, "read", tables):
            if isinstance(table, DataError):
                failed[str(file)] = str(table)
                out.seek(start)
                out.truncate()
                rows, digest = before, told
                columns = columns if rows else None
            if table is None or isinstance(table, DataError):
                start, before, told = out.tell(), rows, digest.copy()
                continue
            columns = list(table.columns)
            add_notes(notes, table.notes)
            numbers = np.ascontiguousarray(table.values, dtype="<f8").tobytes()
            out.write(numbers)
            digest.update(numbers)
            rows += len(table)
    content = digest.hexdigest()[:16]
    return {"columns": columns, "rows": rows, "content": content, "failed": failed, "notes": notes}


def drawn(
    found: Mapping[str, Any], source: str, folder: Path, stored: StoredRows, places: Sequence[np.ndarray]
) -> tuple[Dataset, list[Table]]:
    """The data set, and test, validation and training rows at their places in the file."""
    columns = tuple(found["columns"])
    parts = [Table(stored.file_rows(each), columns, source) for each in places]
    notes = tuple(found["notes"])
    test, validation, train = parts
    split = Split(train, validation, test)
    return Dataset(source, "file", replace(train, notes=notes), split, notes=notes), parts
