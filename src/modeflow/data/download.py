"""Downloads that either arrive whole and verified or leave nothing behind."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path

from modeflow.data.table import atomic_write, check_writable
from modeflow.errors import DataError

__all__ = ["download", "extract", "file_md5"]

_CHUNK = 1 << 20


def file_md5(path: str | os.PathLike[str]) -> str:
    """MD5 of a file as 32 hexadecimal digits (an integrity check, not a security one)."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    url: str,
    path: str | os.PathLike[str],
    md5: str | None = None,
    *,
    progress: bool = True,
    timeout: float = 30.0,
) -> Path:
    """Fetch `url` into `path`.

    The file appears under its name only when it is complete and its checksum is right. A file that is
    already there with the right checksum is not fetched again.

    Arguments:
        url: http, https or file.
        path: target; its folder is created.
        md5: expected MD5; None checks the announced length only.
        progress: draw a bar if standard error is a terminal.
        timeout: seconds without an answer after which to give up.

    Raises:
        DataError: the url cannot be reached, the transfer broke off, the checksum differs or the target
            cannot be written. The message says where to put the file by hand.
    """
    target = check_writable(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise DataError(f"cannot download '{url}'; give an http, https or file address")
    if md5 is not None and target.is_file() and file_md5(target) == md5.lower():
        return target
    by_hand = f"download it by hand and put it at {target}"

    def fetch(temporary: Path) -> None:
        digest = hashlib.md5(usedforsecurity=False)
        received = 0
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response, open(temporary, "wb") as out:
                length = response.headers.get("Content-Length")
                total = int(length) if length and length.isdigit() else None
                with _Bar(url, total, progress) as bar:
                    while chunk := response.read(_CHUNK):
                        out.write(chunk)
                        digest.update(chunk)
                        received += len(chunk)
                        bar.advance(len(chunk))
        except urllib.error.HTTPError as error:
            raise DataError(f"{url} answers {error.code} {error.reason}; {by_hand}") from error
        except urllib.error.URLError as error:
            raise DataError(f"cannot reach {url} ({error.reason}); {by_hand}") from error
        except (TimeoutError, http.client.HTTPException, ConnectionError) as error:
            why = str(error) or type(error).__name__
            raise DataError(f"{url} broke off after {received} bytes ({why}); run again") from error
        if total is not None and received != total:
            raise DataError(f"{url} broke off after {received} of {total} bytes; run again")
        if md5 is not None and digest.hexdigest() != md5.lower():
            raise DataError(
                f"{url} has checksum {digest.hexdigest()}, expected {md5.lower()}: the file is damaged or "
                f"was changed; run again, or {by_hand}"
            )

    return atomic_write(target, fetch)


class _Bar:
    """A rich progress bar on standard error, or nothing."""

    def __init__(self, url: str, total: int | None, show: bool) -> None:
        self._progress = None
        if show and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            name = Path(urllib.parse.urlsplit(url).path).name or url
            self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> _Bar:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, count: int) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, count)


def extract(
    archive: str | os.PathLike[str], members: Mapping[str, str], folder: str | os.PathLike[str]
) -> list[Path]:
    """Take single files out of a .tar.gz.

    Arguments:
        archive: the archive.
        members: name in the archive -> relative path below `folder`.
        folder: target.

    Raises:
        DataError: the archive is damaged, unsafe or lacks a member.
    """
    if not hasattr(tarfile, "data_filter"):
        raise DataError("extracting archives safely needs Python 3.11.4 or newer; update Python")
    wanted = {name.removeprefix("./"): Path(folder) / target for name, target in members.items()}
    check_writable(Path(folder) / "extracting")
    found: list[Path] = []
    try:
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".extract-") as scratch,
            # "r|gz" streams: one pass over a large archive, stopped when all members were seen.
            tarfile.open(archive, "r|gz") as tar,
        ):
            for member in tar:
                target = wanted.get(member.name.removeprefix("./"))
                if target is None:
                    continue
                if not member.isfile():
                    raise DataError(f"'{member.name}' in '{archive}' is not a plain file; refused")
                tar.extract(member, scratch, filter="data")
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(scratch) / member.name, target)
                found.append(target)
                if len(found) == len(wanted):
                    break
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"'{archive}' cannot be extracted ({error}); delete it and download again") from error
    missing = [name for name, target in wanted.items() if target not in found]
    if missing:
        raise DataError(f"'{archive}' does not hold {', '.join(missing)}; is it the right archive?")
    return found
