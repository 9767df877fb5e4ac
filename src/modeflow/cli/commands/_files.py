"""What commands take in: a run, the rows to be scored by it, tables that come in through a pipe."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeflow.cli.commands._output import columns_of, say_notes, set_device, warn

__all__ = ["kept_input", "open_run", "reading_of", "rows_of"]

#: Where a run keeps the rows that came through a pipe.
_KEPT = "data.parquet"


def open_run(args: argparse.Namespace) -> Any:
    """The run that a command is given, on the device asked for; says where its training was interrupted."""
    from modeflow.experiments import load_run

    run = load_run(args.run_folder)
    if run.interrupted:
        warn(run.interruption)
    set_device(args, run.estimator)
    run.estimator.verbose = not (args.quiet or args.json)
    return run


def rows_of(args: argparse.Namespace, run: Any) -> tuple[Any, Any]:
    """The rows of DATA for the estimator of a run: `RowsToScore`, and the good ones as the estimator takes
    them."""
    from modeflow.experiments import load_rows
    from modeflow.experiments.runs import frame

    estimator = run.estimator
    loaded = load_rows(
        args.data,
        estimator,
        columns_of(args.columns) or run.config["columns"],
        **reading_of(args, run.config),
    )
    say_notes(args, loaded.table.notes)
    named = hasattr(estimator, "feature_names_in_")
    return loaded, frame(loaded.table) if named else loaded.table.values


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
