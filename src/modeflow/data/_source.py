"""The text of a table's file: unpacked, in one encoding, with one kind of line end."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from modeflow.data._part import current_part
from modeflow.errors import DataError

__all__ = ["STDIN", "TEXT_SUFFIXES", "as_plain", "is_text_file", "packed_kind", "read_source"]

#: The path that means standard input.
STDIN = "-"
#: Endings of text tables.
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
_PACKED = (".gz", ".zip", ".bz2", ".xz")
_UNPACKERS = (
    (b"\x1f\x8b", gzip.decompress),
    (b"BZh", bz2.decompress),
    (b"\xfd7zXZ\x00", lzma.decompress),
)
_BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# What a file is that a person took for text, by its first bytes.
_FOREIGN = (
    (b"PAR1", "parquet", ".parquet"),
    (b"\x93NUMPY", "a numpy array", ".npy"),
    (b"\x89HDF", "hdf5", ".h5"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", ".csv"),
    (b"%PDF", "a PDF", ".csv"),
)


def packed_kind(name: str) -> str | None:
    """``".csv"`` for ``t.csv`` and ``t.csv.gz``; None for what is no text table by its ending."""
    path = PurePosixPath(name.lower())
    suffix = path.suffix
    if suffix in _PACKED:
        suffix = PurePosixPath(path.stem).suffix or suffix
        # An archive's only member says what kind it is.
        return ".csv" if suffix == ".zip" else suffix if suffix in TEXT_SUFFIXES else None
    return suffix if suffix in TEXT_SUFFIXES else None


def is_text_file(path: str | os.PathLike[str]) -> bool:
    """Whether a path is read as a text table: by its ending, or from standard input."""
    return os.fspath(path) == STDIN or packed_kind(os.fspath(path)) is not None


def read_source(file: Path | None) -> tuple[bytes, list[str]]:
    """The text of a file (None: of standard input) as UTF-8 with ``\\n`` at the end of lines.

    Returns:
        The bytes, and one note for each thing that had to be guessed.

    Raises:
        DataError: damaged, an archive of several files, or no text.
    """
    label = STDIN if file is None else str(file)
    part = current_part(file)
    if part is not None and part.text is not None:
        return part.text, []
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
        data = _unpacked(data, label)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"'{label}' cannot be read ({error})") from error
    for magic, what, ending in _FOREIGN:
        if data.startswith(magic):
            raise DataError(f"'{label}' is {what}, not text; give a file that ends in {ending}")
    if data[:400].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DataError(f"'{label}' is a web page, not a table; download the file itself")
    notes: list[str] = []
    return as_plain(data, label, notes), notes


def as_plain(data: bytes, label: str, notes: list[str] | None = None) -> bytes:
    """Text as UTF-8 with ``\\n`` at the end of lines; what was guessed is added to the notes."""
    data = _as_utf8(data, label, [] if notes is None else notes)
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data


def _unpacked(data: bytes, label: str) -> bytes:
    for magic, unpack in _UNPACKERS:
        if data.startswith(magic):
            return unpack(data)
    if not data.startswith(b"PK\x03\x04"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
        if "[Content_Types].xml" in names or "mimetype" in names:
            raise DataError(f"'{label}' is a workbook, not text; save its sheet as .csv")
        if len(names) != 1:
            shown = ", ".join(names[:4])
            raise DataError(f"'{label}' packs {len(names)} files ({shown}); unpack it and give one of them")
        return archive.read(names[0])


def _as_utf8(data: bytes, label: str, notes: list[str]) -> bytes:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _recode(data, encoding, label)
    if b"\x00" in data[:4096]:
        # Every other byte of UTF-16 digits is zero; elsewhere a zero byte is no text.
        for encoding, start in (("utf-16-le", 1), ("utf-16-be", 0)):
            if not any(data[start:4096:2]) and any(data[1 - start : 4096 : 2]):
                notes.append(f"'{label}': read as UTF-16, which its bytes look like")
                return _recode(data, encoding, label)
        raise DataError(f"'{label}' is no text (it holds zero bytes); save it as UTF-8")
    if data.isascii():
        return data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        # Digits are the same in all of these; only names of columns can come out wrong.
        notes.append(f"'{label}': read as Windows-1252 (Latin-1), as it is not UTF-8")
        return data.decode("cp1252", errors="replace").encode()
    return data


def _recode(data: bytes, encoding: str, label: str) -> bytes:
    try:
        return data.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise DataError(f"'{label}' is damaged {encoding.upper()} text; save it as UTF-8") from error
