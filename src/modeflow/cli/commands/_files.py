"""What commands take in: a run, the rows to be scored by it, tables that come in through a pipe."""

from __future__ import annotations

import argparse
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from modeflow.cli.commands._output import columns_of, say_notes, set_device, warn

__all__ = ["Seen", "kept_input", "open_run", "part_seed", "parts_to_score", "rows_of"]

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


def parts_to_score(args: argparse.Namespace, run: Any, what: str, holes: bool = False) -> Iterator[Any]:
    """`rows_of` in parts of a bounded size, with a bar where there are several; says what was guessed of the
    first.

    Arguments:
        holes: whether missing cells cost no row, as they are to be filled.
    """
    from modeflow.progress import track

    parts = run.estimator.domain_.read_parts(
        args.data,
        run.config.settings,
        columns=columns_of(args.columns),
        header=args.header,
        skip_text=args.skip_text,
        holes=holes,
    )
    first = next(parts)
    say_notes(args, first.notes)
    if first.whole:
        yield first
        return
    last = [0.0]

    def share(part: Any) -> float:
        step, last[0] = part.done - last[0], part.done
        return float(step)

    # An estimator warns of its rows, of which it now has some at a time: once is enough.
    with warnings.catch_warnings():
        warnings.filterwarnings("once", category=UserWarning)
        yield from track(chain([first], parts), what, 1.0, share)


def part_seed(args: argparse.Namespace, seed: int, part: Any) -> int:
    """The seed of what is drawn for a part: that of the command, unless its source has other parts or others
    stand beside it, whose draws are then different ones; whoever does the part draws the same."""
    import numpy as np

    many = getattr(args, "of_many", False)
    if part.whole and not many:
        return seed
    name = zlib.crc32(Path(args.data).name.encode()) if many else 0
    return int(np.random.SeedSequence([seed, name, part.first]).generate_state(1)[0])


class Seen:
    """What there is to say of all rows of a source that was read in parts."""

    #: Bad rows that are listed.
    most = 10_000

    def __init__(self) -> None:
        self.total = self.more = 0
        self.bad: dict[int, str] = {}
        self.empty: list[int] = []
        self.notes: tuple[str, ...] = ()
        self.whole = True

    def add(self, part: Any) -> None:
        """One part more."""
        for row, why in part.bad.items():
            if len(self.bad) < self.most:
                self.bad[part.first + row] = why
            else:
                self.more += 1
        self.empty += [part.first + int(row) for row in part.empty]
        self.notes = tuple(part.notes) if part.first == 0 else self.notes
        self.total = part.first + part.total
        self.whole = part.whole

    @property
    def rows(self) -> Any:
        """The same as `RowsToScore`, without the rows."""
        import numpy as np

        from modeflow.domains import RowsToScore

        some = np.zeros(0, dtype=np.int64)
        return RowsToScore(
            None, some, self.total, self.bad, self.notes, np.array(self.empty, np.int64), more=self.more
        )

    def told(self, word: str) -> dict[str, Any]:
        """For the JSON of a command: rows without a score, and rows without a cell."""
        more = {f"{word}s_without_score_not_listed": self.more} if self.more else {}
        return {
            f"{word}s_without_score": [{word: row + 1, "reason": why} for row, why in self.bad.items()],
            **more,
            f"{word}s_without_cells": [row + 1 for row in self.empty],
        }


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
