"""The tables of a run part by part, with one bar for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from modeflow.errors import DataError
from modeflow.progress import track

__all__ = ["each_part"]

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
