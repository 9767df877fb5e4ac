"""Mixed tables of many files as one file of encoded rows: read once to find out what columns are, and once
to encode them.

What columns are is inferred from a sample of rows, all of them where they are no more; values that the sample
lacks of the columns of few values, and the ends of numbers, stand in it in the place of some that it holds
several times. Where a cell contradicts what was found all such cells join the sample, once: rules decide as
they do in memory. A file that still does not fit is passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from modeflow.data._source import is_text_file
from modeflow.data.columns import IMPOSSIBLE, TableSchema, read_mixed
from modeflow.data.columns.typed import as_typed
from modeflow.domains._mixed_rows import refuse_empty
from modeflow.domains._mixed_sources import MixedData, inferred, specs_of
from modeflow.errors import DataError
from modeflow.runs.stored_files import add_notes, each_part, parts_read
from modeflow.runs.stored_values import Sample, cast
from modeflow.training import StoredRows

__all__ = ["SETTINGS", "drawn", "write"]

#: Settings by which rows are read.
SETTINGS = ("columns", "header", "schema")
#: Values of a column that contradict it, at the most.
_ODD = 256
_PARTS = ("test", "validation", "train")


def write(
    files: Sequence[Path], settings: Mapping[str, Any], path: Path, draw: Callable[[int], Any]
) -> dict[str, Any]:
    """Write the encoded rows of all files, and beside them the rows that are drawn, as they were read.

    Arguments:
        files: of tables. settings: of the run. path: of the numbers.
        draw: from the number of rows to the places of the test, the validation and the sample rows.

    Returns:
        as `modeflow.runs.stored_numbers.write`, and the ``schema``.
    """
    reading = _Reading(settings)
    reading.look(files)
    if not reading.rows:
        return reading.told(0, "", None)
    specs, _ = specs_of(settings, list(reading.sample.types))
    schema, wider = reading.inferred(specs), False
    while True:
        encoded = _encode(reading, schema, path, draw(reading.total) if reading.total else ())
        if not encoded.refused:
            break
        if not wider and any(encoded.odd.values()):
            wider = True
            try:
                schema = inferred(reading.sample.frame(encoded.odd), specs, settings)
                continue
            except DataError:  # a slip of the pen, not a level: of the files that hold it
                pass
        for file, why in encoded.refused.items():
            reading.leave_out(file, why)
    columns = [
        replace(column, missing=True) if column.name in encoded.holes else column for column in schema.columns
    ]
    schema = TableSchema(tuple(columns), schema.frame, schema.notes)
    return reading.told(reading.total, encoded.content, schema)


def drawn(
    found: Mapping[str, Any], source: str, folder: Path, stored: StoredRows, places: Sequence[np.ndarray]
) -> tuple[MixedData, list[pl.DataFrame]]:
    """The data, and test, validation and sample rows as they were read."""
    parts = [pl.read_parquet(folder / f"{name}.parquet") for name in _PARTS]
    return MixedData(source, parts[2], tuple(found["notes"]), TableSchema.from_dict(found["schema"])), parts


class _Reading:
    """What is known of the files after they were looked at once.

    Attributes:
        rows: of every file that can be read. failed: why others cannot. sample: of all rows.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.rows: dict[Path, int] = {}
        self.failed: dict[str, str] = {}
        self.numbers: dict[int, Path] = {}
        self.notes: list[str] = []
        self.columns: list[str] | None = None
        #: Of columns that have some, where there is text beside other files.
        self.types: Mapping[str, Any] = {}
        self.sample = Sample(settings["seed"])

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def look(self, files: Sequence[Path]) -> None:
        """Read every file."""
        typed = [file for file in files if not is_text_file(file)]
        self.types = self._types(typed) if len(typed) < len(files) else {}
        self.sample.begin()
        before, count = self.columns, 0
        for file, part in each_part(files, "look at columns", self._looked_at):
            if isinstance(part, DataError):
                self.failed[str(file)] = str(part)
                self.sample.take_back()
                self.columns = before
            elif part is None:
                self.numbers[self.sample.keep()] = file
                self.rows[file] = count
            else:
                count += part
                continue
            before, count = self.columns, 0

    def inferred(self, specs: Mapping[str, Any]) -> TableSchema:
        """What columns are; a file with words among numbers is passed over, unless every second one is so.

        Raises:
            DataError: see `inferred`.
        """
        try:
            return inferred(self.sample.frame(), specs, self.settings)
        except DataError:
            slips = self.sample.slips(list(specs))
            if not slips or 2 * len(slips) >= len(self.rows):
                raise
        for number, why in slips.items():
            self.sample.drop(number)
            self.leave_out(self.numbers[number], why)
        return inferred(self.sample.frame(), specs, self.settings)

    def leave_out(self, file: Path, why: str) -> None:
        """Pass a file over."""
        self.failed[str(file)] = why
        del self.rows[file]

    def _looked_at(self, file: Path) -> Iterator[tuple[int, float]]:
        for (frame, notes), done in self.frames(file):
            self.columns = list(frame.columns)
            self.sample.add(frame)
            add_notes(self.notes, notes)
            yield frame.height, done

    def frames(self, file: Path) -> Iterator[tuple[tuple[pl.DataFrame, list[str]], float]]:
        """The rows of a file, part by part, with the columns of the files before it."""

        def read(wanted: Sequence[str] | None, header: bool | None) -> tuple[pl.DataFrame, list[str]]:
            frame, notes = read_mixed(file, wanted, header=header, known=wanted or ())
            if not self.types or not is_text_file(file):
                return frame, notes
            frame, more = as_typed(frame, self.types, str(file))
            return frame, [*notes, *more]

        return parts_read(file, self.settings, self.columns, read)

    def _types(self, files: Sequence[Path]) -> Mapping[str, Any]:
        """The types of the columns of the first of these files that can be read."""
        for file in files:
            with suppress(DataError):
                (frame, _), _ = next(self.frames(file))
                return dict(frame.schema)
        return {}

    def told(self, rows: int, content: str, schema: TableSchema | None) -> dict[str, Any]:
        """Plain values for the run folder."""
        notes = [*self.notes, *(() if schema is None else schema.notes)]
        columns = None if schema is None else list(schema.names)
        found = {"columns": columns, "rows": rows, "content": content, "failed": self.failed, "notes": notes}
        return found if schema is None else {**found, "schema": schema.to_dict()}


@dataclass
class _Encoded:
    """What a pass that encodes has found.

    Attributes:
        content: a hash of the numbers. refused: files with cells that their columns cannot have, and why.
        odd: such cells by column. holes: columns with missing cells.
    """

    content: str = ""
    refused: dict[Path, str] = field(default_factory=dict)
    odd: dict[str, list[Any]] = field(default_factory=dict)
    holes: set[str] = field(default_factory=set)


def _encode(reading: _Reading, schema: TableSchema, path: Path, places: Sequence[np.ndarray]) -> _Encoded:
    """Encode the rows of all files that can be read, and keep those at some places as they are."""
    encoded, digest, row, first = _Encoded(), hashlib.sha256(), 0, 0
    picked: list[list[pl.DataFrame]] = [[] for _ in places]
    wanted = [np.sort(each) for each in places]
    with path.open("wb") as out:
        for file, part in each_part(list(reading.rows), "encode", reading.frames):
            if part is None or isinstance(part, DataError):
                if part is not None:  # it is no longer what it was
                    encoded.refused.setdefault(file, str(part))
                first = 0
                continue
            frame = cast(part[0], reading.sample.types)
            first += frame.height
            try:
                values = schema.encode(frame)
                refuse_empty(values, np.arange(len(values)))
            except DataError as error:
                encoded.refused.setdefault(file, _in_file(str(error), first - frame.height))
                _gather(encoded.odd, schema, frame)
                continue
            if encoded.refused:
                continue
            holes = np.isnan(values).any(0)
            encoded.holes |= {name for name, hole in zip(schema.names, holes, strict=True) if hole}
            numbers = np.ascontiguousarray(values, dtype="<f8").tobytes()
            out.write(numbers)
            digest.update(numbers)
            for pieces, rows in zip(picked, wanted, strict=True):
                start, end = np.searchsorted(rows, [row, row + len(values)])
                if end > start:
                    pieces.append(frame[rows[start:end] - row])
            row += len(values)
    if not encoded.refused:
        for name, pieces in zip(_PARTS, picked, strict=True):
            pl.concat(pieces).write_parquet(path.parent / f"{name}.parquet")
            pieces.clear()
    encoded.content = digest.hexdigest()[:16]
    return encoded


def _gather(odd: dict[str, list[Any]], schema: TableSchema, frame: pl.DataFrame) -> None:
    """The cells of a part that their columns cannot have, each value once."""
    for column in schema.columns:
        if column.kind in ("drop", "id"):
            continue
        try:
            wrong = column.encode(frame[column.name], "impossible") == IMPOSSIBLE
        except DataError:
            continue
        if wrong.any():
            known = odd.setdefault(column.name, [])
            values = frame[column.name].filter(pl.Series(wrong)).unique(maintain_order=True).to_list()
            known += [value for value in values if value not in known][: _ODD - len(known)]


def _in_file(why: str, first: int) -> str:
    return why if not first or "data row" not in why else f"{why} (of the rows from {first + 1} on)"
