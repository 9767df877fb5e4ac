"""Options of how a table is read, and tables that come in through a pipe."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["kept_input", "reading_of"]

#: Where a run keeps the rows that came through a pipe.
_KEPT = "data.parquet"


def reading_of(args: argparse.Namespace, config: Any) -> dict[str, Any]:
    """How a table to be scored is read: as that of the fit, unless options say otherwise."""
    from modeflow.data._source import is_text_file

    header = config["header"] if args.header is None else args.header
    # A run on text may score other kinds of files, which have no header line.
    if args.header is None and not is_text_file(args.data):
        header = None
    return {"header": header, "skip_text": config["skip_text"] or args.skip_text}


@contextmanager
def kept_input(settings: dict[str, Any], folder: Path, say: Any) -> Iterator[dict[str, Any]]:
    """Rows from standard input are kept in the run folder, so that the run can be repeated and reported.

    Yields:
        The settings, with the kept file in the place of ``-``.
    """
    from modeflow.data import read_table, write_table
    from modeflow.errors import ConfigError, DataError
    from modeflow.experiments.config import READING

    if settings.get("data") != "-":
        yield settings
        return
    if (folder / "config.yaml").exists():
        raise DataError(f"'{folder}' already holds a run: go on with --resume, or give another folder")
    columns = settings.get("columns")
    columns = [c.strip() for c in columns.split(",")] if isinstance(columns, str) else columns
    reading = {key: settings[key] for key in READING if key in settings}
    table = read_table("-", columns, array=settings.get("array"), **reading)
    for note in table.notes:
        say(note)
    new = not folder.exists()
    kept = write_table(folder / _KEPT, table.values, table.columns)
    try:
        yield {**settings, "data": str(kept)}
    except (ConfigError, DataError):
        if not (folder / "config.yaml").exists():
            kept.unlink(missing_ok=True)
            if new and not any(folder.iterdir()):
                folder.rmdir()
        raise
