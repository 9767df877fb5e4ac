"""The tables of a run part by part, with one bar for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modeflow.data._source import is_text_file
from modeflow.data.parts import parts_of, reading_part
from modeflow.domains._table_sources import column_names
from modeflow.errors import DataError
from modeflow.progress import track

__all__ = ["add_notes", "each_part", "parts_read"]

#: Notes on files that are kept.
_NOTES = 20
_Item = TypeVar("_Item")


def each_part(
    files: Sequence[Path], what: str, parts: Callable[[Path], Iterator[tuple[_Item, float]]]
) -> Iterator[tuple[Path, _Item | DataError | None]]:
    """Every part of every file; after the last of a file None, or what is wrong with it.

    Arguments:
        files: to be read. what: is done with them.
        parts: of a file, each with the share of it that ends there.
    """
    sizes = {file: file.stat().st_size for file in files}

    def found() -> Iterator[tuple[Path, _Item | DataError | None, float]]:
        for file in files:
            before, end = 0.0, None
            try:
                for item, done in parts(file):
                    yield file, item, (done - before) * sizes[file]
                    before = done
            except DataError as error:
                end = error
            yield file, end, (1 - before) * sizes[file]

    for file, item, _ in track(found(), what, float(sum(sizes.values())), lambda each: each[2]):
        yield file, item


def parts_read(
    file: Path,
    settings: Mapping[str, Any],
    columns: Sequence[str] | None,
    read: Callable[[Sequence[str] | None, bool | None], _Item],
) -> Iterator[tuple[_Item, float]]:
    """The rows of a file, part by part, each with the share of the file that ends there.

    Arguments:
        file: a table. settings: of the run. columns: of the files before it.
        read: a part, by the names of the columns that are wanted, and whether it has a header.
    """
    header = settings["header"] if is_text_file(file) else None
    wanted = column_names(settings["columns"]) or columns
    for part in parts_of(file, header, wanted or ()):
        with reading_part(part):
            found = read(wanted, part.header if not part.whole else header)
        yield found, part.done


def add_notes(notes: list[str], more: Iterable[str]) -> None:
    """Add notes on a part to those on all, each once, as long as they are few."""
    notes += [note for note in more if len(notes) < _NOTES and note not in notes]
