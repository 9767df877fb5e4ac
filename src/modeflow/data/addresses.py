"""Tables at addresses (``s3://bucket/*.parquet``): which there are, and a copy here while one is read.

Whatever fsspec reaches (s3 by s3fs, gs by gcsfs, http, sftp, ...), with its own settings and credentials. A
file is copied whole to a temporary folder and read there as any other.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from modeflow.data.parts import is_table
from modeflow.data.table import SUFFIXES
from modeflow.errors import DataError

__all__ = ["Listed", "addresses_of", "copied", "is_address"]


@dataclass(frozen=True)
class Listed:
    """A table among others.

    Attributes:
        name: its path or address. place: under the folder that all of them share. size: bytes.
        modified: when it was written, ns; 0 where that is not told.
    """

    name: str
    place: PurePath
    size: int
    modified: int


def is_address(source: Any) -> bool:
    """Whether DATA is elsewhere: ``scheme://...``, and no file here of that name."""
    return isinstance(source, str) and "://" in source and not Path(source).exists()


def addresses_of(source: str) -> list[Listed]:
    """The tables that an address names: one, those of a pattern or of a folder, in the order of their names.

    Raises:
        DataError: none is there, it cannot be reached, or what reaches it is not installed.
    """
    with _reaching(source) as (system, path):
        if glob.has_magic(path):
            found = system.glob(path)
        else:
            found = system.ls(path, detail=False) if system.isdir(path) else [path]
        names = sorted(name for name in found if is_table(Path(name)) and system.isfile(name))
        if not names:
            raise DataError(f"'{source}' names no table: give files that end in {', '.join(SUFFIXES)}")
        places = [PurePosixPath(name) for name in names]
        root = next(p for p in places[0].parents if all(other.is_relative_to(p) for other in places))
        return [
            Listed(
                system.unstrip_protocol(name),
                place.relative_to(root),
                int(system.size(name) or 0),
                _modified(system, name),
            )
            for name, place in zip(names, places, strict=True)
        ]


@contextmanager
def copied(name: str) -> Iterator[Path]:
    """A copy of the file at an address, under its own name, until it has been read.

    Raises:
        DataError: it cannot be reached, or what reaches it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="modeflow-") as folder:
        file = Path(folder) / PurePosixPath(name).name
        with _reaching(name) as (system, path):
            system.get_file(path, str(file))
        yield file


@contextmanager
def _reaching(name: str) -> Iterator[tuple[Any, str]]:
    """What reaches an address, and its path there; its errors, of which every one has its own, in a line."""
    try:
        from fsspec.core import url_to_fs

        yield url_to_fs(name)
    except DataError:
        raise
    except ImportError as error:
        why = " ".join(str(error).split())
        raise DataError(f"'{name}' cannot be reached: {why} (pip install it), or copy the files") from error
    except Exception as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(f"'{name}' cannot be read: {why}") from error


def _modified(system: Any, name: str) -> int:
    try:
        return int(system.modified(name).timestamp() * 1e9)
    except (NotImplementedError, AttributeError, KeyError):
        return 0
