"""Tables that are written piece by piece, all or nothing."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from modeflow.data._source import STDIN
from modeflow.data.columns.files import for_text
from modeflow.data.table import WRITABLE, Table, as_frame, atomic_write, check_writable, write_table
from modeflow.errors import DataError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TableWriter", "numbered"]


def numbered(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Tables below one another, each with its number in a last column ``imputation``; one alone has none."""
    import polars as pl

    if len(tables) == 1:
        return tables[0]
    return pl.concat([table.with_columns(imputation=pl.lit(i)) for i, table in enumerate(tables, 1)])


class TableWriter:
    """A table written in pieces: `with TableWriter(path) as out: out.add(...)`.

    The file appears, whole, at the end of the block; after an error there is none, and one of before stays.
    Text is appended as it comes, pieces of parquet are joined at the end without being held in memory; arrays
    (.npy, .npz, .h5) are held. None as a path writes nothing, "-" csv to standard output.

    Raises:
        DataError: a path that cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else os.fspath(path)
        self._kind = "" if self.path is None else Path(self.path).suffix.lower()
        self._pieces = 0
        self._folder: Path | None = None
        self._held: list[tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]] = []

    def __enter__(self) -> Self:
        if self.path is None or self.path == STDIN:
            return self
        if self._kind not in WRITABLE:
            raise DataError(f"cannot write '{self.path}': unknown ending; use {', '.join(WRITABLE)}")
        if self._kind in (".csv", ".tsv", ".parquet"):
            file = check_writable(self.path)
            self._folder = Path(tempfile.mkdtemp(dir=file.parent, prefix=f".{file.name}."))
        return self

    def add(self, values: np.ndarray, columns: Sequence[str], integer_columns: Sequence[str] = ()) -> None:
        """Rows of numbers, as `write_table` takes them; the same columns each time."""
        if self.path is None:
            return
        if self._folder is None and self.path != STDIN:
            self._held.append((values, tuple(columns), tuple(integer_columns)))
            return
        table = Table(values, tuple(columns), self.path)
        self.add_frame(as_frame(table, {i for i, name in enumerate(columns) if name in set(integer_columns)}))

    def add_frame(self, frame: pl.DataFrame) -> None:
        """Rows of any columns; the same columns each time."""
        first, self._pieces = self._pieces == 0, self._pieces + 1
        if self.path == STDIN:
            sys.stdout.write(for_text(frame).write_csv(include_header=first))
        elif self._folder is not None and self._kind == ".parquet":
            frame.write_parquet(self._folder / f"{self._pieces:08}.parquet")
        elif self._folder is not None:
            separator = "\t" if self._kind == ".tsv" else ","
            with (self._folder / "text").open("ab") as stream:
                for_text(frame).write_csv(stream, separator=separator, include_header=first)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self) -> None:
        if self._held:
            values = np.concatenate([held for held, _, _ in self._held])
            write_table(str(self.path), values, self._held[0][1], integer_columns=self._held[0][2])
        if self._folder is None or not self._pieces or self.path is None:
            return
        written = sorted(self._folder.iterdir())
        if len(written) == 1:
            atomic_write(self.path, lambda target: os.replace(written[0], target))
        else:
            atomic_write(self.path, lambda target: _joined(written, target))


def _joined(pieces: list[Path], target: Path) -> None:
    import polars as pl

    pl.scan_parquet(pieces, glob=False).sink_parquet(target)
