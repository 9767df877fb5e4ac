"""One fit at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modeflow.errors import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "locked"]

#: In a folder that a process fits into.
LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it where the process ends, however it ends.

    Raises:
        DataError: another process fits into it.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    handle = _taken(path, folder)
    try:
        yield
    finally:
        # Taken away while it is held: who opened it meanwhile sees that it is another file.
        path.unlink(missing_ok=True)
        os.close(handle)


def _taken(path: Path, folder: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise DataError(
                f"another process is fitting into '{folder}': wait until it has ended, or give another folder"
            ) from error
        except FileNotFoundError:
            pass
        except OSError:  # a file system without locks
            return handle
        os.close(handle)
