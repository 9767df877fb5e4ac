"""What commands take in: a run, the rows to be scored by it, tables that come in through a pipe."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeflow.cli.commands._output import columns_of, say_notes, set_device, warn

__all__ = ["kept_input", "open_run", "rows_of"]

#: Where a run keeps the rows that came through a pipe.
_KEPT = "data.csv"


def open_run(args: argparse.Namespace) -> Any:
    """The run that a command is given, on the device asked for; says where its training was interrupted."""
    from modeflow.runs import load_run

    run = load_run(args.run_folder)
    if run.interrupted:
        warn(run.interruption)
    set_device(args, run.estimator)
    run.estimator.verbose = not (args.quiet or args.json)
    return run


def rows_of(args: argparse.Namespace, run: Any) -> Any:
    """The rows of DATA for the estimator of a run (`RowsToScore`); says what was guessed about the file."""
    loaded = run.estimator.domain_.read(
        args.data,
        run.config.settings,
        columns=columns_of(args.columns),
        header=args.header,
        skip_text=args.skip_text,
    )
    say_notes(args, loaded.notes)
    return loaded


@contextmanager
def kept_input(settings: dict[str, Any], folder: Path, say: Any) -> Iterator[dict[str, Any]]:
    """Rows from standard input are kept in the run folder as the text they are, so that they are read as a
    file is, and the run can be repeated and reported.

    Yields:
        The settings, with the kept file in the place of ``-``.
    """
    from modeflow.data import read_source
    from modeflow.data.table import atomic_write
    from modeflow.errors import ConfigError, DataError

    if settings.get("data") != "-":
        yield settings
        return
    if (folder / "config.yaml").exists():
        raise DataError(f"'{folder}' already holds a run: go on with --resume, or give another folder")
    text, notes = read_source(None)
    for note in notes:
        say(note)
    new = not folder.exists()
    kept = atomic_write(folder / _KEPT, lambda file: file.write_bytes(text))
    try:
        yield {**settings, "data": str(kept)}
    except (ConfigError, DataError) as error:
        if (folder / "config.yaml").exists():
            raise
        kept.unlink(missing_ok=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()
        # The file is gone: what is wrong is said of the rows as they were given.
        raise type(error)(str(error).replace(str(kept), "-")) from error
