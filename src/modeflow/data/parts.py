"""Large files part by part, and many files as one source: memory does not depend on the number of rows."""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from modeflow.data._arrays import first_line
from modeflow.data._part import Part, reading_part
from modeflow.data._source import STDIN, TEXT_SUFFIXES, as_plain
from modeflow.data._text import EXCEL_SEP, Layout
from modeflow.data.image_sets import is_image_source
from modeflow.data.table import SUFFIXES, existing_file, file_kind
from modeflow.errors import DataError

__all__ = ["Part", "can_be_cut", "files_of", "is_large", "is_table", "parts_of", "reading_part"]

#: Bytes of text in a part, rows at most, and cells at most. Files of one part are read as they always were.
_BYTES, _ROWS, _CELLS = 8 << 20, 65_536, 1 << 20
_OPENERS: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
#: What is too much to be held in memory unasked: cells of .parquet and .npy, bytes of text, and of text that
#: is packed.
LARGE_CELLS, LARGE_BYTES, LARGE_PACKED = 1 << 25, 256 << 20, 64 << 20
#: Beginnings of text that is not cut: in wide characters a byte of a line end is none.
_UNCUT = (b"\xff\xfe", b"\xfe\xff", b"PK\x03\x04")


def files_of(source: str | os.PathLike[str] | None) -> list[Path] | None:
    """The tables that a pattern (``"folder/*.parquet"``) or a folder names, in the order of their names; None
    where DATA is a single source.

    Raises:
        DataError: a pattern, or a folder without images, that holds no table; an address (``s3://``).
    """
    if source is None or os.fspath(source) == STDIN:
        return None
    path = Path(source).expanduser()
    if path.is_file():
        return None
    if "://" in os.fspath(source):
        raise DataError(
            f"'{source}' is an address, and files are read: mount it as a folder, or copy the files"
        )
    if path.is_dir():
        if is_image_source(path):
            return None
        found = [file for file in path.iterdir() if not file.name.startswith(".")]
    elif glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
    else:
        return None
    tables = sorted(file for file in found if file.is_file() and is_table(file))
    if not tables:
        raise DataError(f"'{source}' names no table: give files that end in {', '.join(SUFFIXES)}")
    return tables


def is_table(file: Path) -> bool:
    """Whether a file has the ending of one that is read as a table."""
    try:
        return bool(file_kind(file))
    except DataError:
        return False


def can_be_cut(source: str | os.PathLike[str]) -> bool:
    """Whether DATA is a file of a kind that `parts_of` reads in parts, be it large or small."""
    file = Path(source).expanduser()
    return file.is_file() and is_table(file) and file_kind(file) in (*TEXT_SUFFIXES, ".parquet", ".npy")


def is_large(source: str | os.PathLike[str]) -> bool:
    """Whether DATA is a file that can be read in parts, and holds more than is read whole unasked: 2^25 cells
    of .parquet and .npy, 256 MB of text, 64 MB of packed text."""
    if not can_be_cut(source):
        return False
    file = Path(source).expanduser()
    kind = file_kind(file)
    if kind in TEXT_SUFFIXES:
        packed = file.suffix.lower() in (".gz", ".bz2", ".xz")
        return file.stat().st_size > (LARGE_PACKED if packed else LARGE_BYTES)
    try:
        rows, columns = _parquet_shape(file) if kind == ".parquet" else _array_shape(file)
    except DataError:
        return False  # said by who reads it
    return rows * columns > LARGE_CELLS


def parts_of(
    source: str | os.PathLike[str], header: bool | None = None, known: Sequence[str] = ()
) -> Iterator[Part]:
    """The rows of a source in parts of a bounded size; one part where it is small, or of a kind that is read
    whole (.npz, .h5, .zip, UTF-16, standard input).

    Arguments:
        source: DATA. header, known: as `read_rows` has them.

    Raises:
        DataError: a file that cannot be read.
    """
    if os.fspath(source) == STDIN or not Path(source).expanduser().is_file():
        yield Part()
        return
    file = existing_file(source)
    kind = file_kind(file)
    if kind in TEXT_SUFFIXES:
        yield from _text_parts(file, kind, header, known)
    elif kind == ".parquet":
        yield from _row_parts(file, *_parquet_shape(file))
    elif kind == ".npy":
        yield from _row_parts(file, *_array_shape(file))
    else:
        yield Part(file)


def _row_parts(file: Path, rows: int, columns: int) -> Iterator[Part]:
    at_once = max(256, min(_ROWS, _CELLS // max(1, columns)))
    if rows <= 2 * at_once:
        yield Part(file)
        return
    for start in range(0, rows, at_once):
        end = min(start + at_once, rows)
        yield Part(file, rows=(start, end), done=end / rows)


def _parquet_shape(file: Path) -> tuple[int, int]:
    import polars as pl

    try:
        lazy = pl.scan_parquet(file)
        return int(lazy.select(pl.len()).collect().item()), len(lazy.collect_schema())
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        raise DataError(f"'{file}' cannot be read as parquet ({first_line(error)})") from error


def _array_shape(file: Path) -> tuple[int, int]:
    try:
        shape = np.load(file, mmap_mode="r", allow_pickle=False).shape
    except Exception:  # numpy reads a header as Python text, and says what Python says of it
        return 0, 0  # said by who reads it
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


# --- text -----------------------------------------------------------------------------------------


def _text_parts(file: Path, kind: str, header: bool | None, known: Sequence[str]) -> Iterator[Part]:
    try:
        with file.open("rb") as raw:
            start = raw.read(8)
            raw.seek(0)
            opener = next((opened for magic, opened in _OPENERS if start.startswith(magic)), None)
            stream: Any = raw if opener is None else opener(raw)
            yield from _cut(file, kind, stream, raw, header, known)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"'{file}' cannot be read ({error})") from error


def _cut(
    file: Path, kind: str, stream: IO[bytes], raw: IO[bytes], header: bool | None, known: Sequence[str]
) -> Iterator[Part]:
    text = stream.read(_BYTES)
    more = stream.read(_BYTES)
    if not more or text.startswith(_UNCUT) or b"\x00" in text[:4096]:
        yield Part(file)
        return
    size, top, lines, first = file.stat().st_size, b"", 0, True
    while True:
        end = _row_end(text) if more else len(text)
        while end < 0 and more:  # a row longer than a part, or quotation marks that are none
            text, more = text + more, stream.read(_BYTES)
            end = _row_end(text) if more else len(text)
        body, text = as_plain(text[:end], str(file)), text[end:] + more
        done = min(raw.tell() / size, 1.0) if more else 1.0
        if first:
            top, has_header, below = _top(Layout(body, str(file), kind, header, known, []))
            yield Part(file, body, 0, header=header, done=done)
            lines, header, first = body.count(b"\n") - below, has_header, False
        elif body.strip():
            yield Part(file, top + body, lines, header=header, done=done)
            lines += body.count(b"\n")
        if not more:
            return
        more = stream.read(_BYTES)


def _top(layout: Layout) -> tuple[bytes, bool, int]:
    """What is put above other rows of a table, so that they are read as its first ones are.

    Returns:
        the lines above the rows, with one that names the separator; whether the last of them names the
        columns; and how many lines they are.
    """
    end = layout.line_end(layout.start) + 1 if layout.has_header else layout.start
    top = layout.data[:end]
    if top and not top.endswith(b"\n"):
        top += b"\n"
    named = layout.separator in (",", ";", "\t", "|") and not EXCEL_SEP.match(top)
    if named and layout.separator is not None:
        top = b"sep=" + layout.separator.encode() + b"\n" + top
    return top, layout.has_header, top.count(b"\n")


def _row_end(text: bytes) -> int:
    """Where the last whole row ends: at a line end outside of quotation marks; -1 where there is none."""
    end = text.rfind(b"\n")
    quotes = text.count(b'"', 0, end + 1)
    for _ in range(1000):
        if end < 0 or quotes % 2 == 0:
            break
        before = text.rfind(b"\n", 0, end)
        quotes -= text.count(b'"', before + 1, end + 1)
        end = before
    else:  # a stray mark far above: rows are lines
        end = text.rfind(b"\n")
    return end + 1 if end >= 0 else -1
