"""Printing: text for people, or one JSON object."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable
from typing import Any

__all__ = [
    "check_output",
    "columns_of",
    "emit",
    "likelihood_text",
    "refuse_data",
    "say",
    "say_notes",
    "say_unscored",
    "say_wrote",
    "set_device",
    "warn",
]


def emit(args: argparse.Namespace, result: dict[str, Any], lines: list[str]) -> None:
    """Print `result` as JSON with ``--json``, else the lines (on stderr where ``-o -`` sends a table to
    stdout)."""
    if args.json:
        from modeflow.data.json_text import json_text

        print(json_text(result))
    else:
        stream = sys.stderr if getattr(args, "out", None) == "-" else sys.stdout
        for line in lines:
            print(line, file=stream)


def likelihood_text(row: dict[str, Any]) -> str:
    """A likelihood of a report's summary; what is known has no standard error."""
    if row["standard_error"] is None:
        return f"{row['value']:.3f} nats (known)".replace("-", "−")
    from modeflow.metrics import LogLikelihood

    return str(LogLikelihood.from_dict({k: v for k, v in row.items() if k != "name"}))


def say_notes(args: argparse.Namespace, notes: Iterable[str]) -> None:
    """What was guessed about files, a line each."""
    for note in notes:
        say(args, f"modeflow: {note}")


def say_unscored(rows: Any, what: str = "score") -> None:
    """How many rows have no score (state, ...) and why: on stderr also with ``--quiet``, as it concerns the
    result."""
    text = rows.bad_text(what)
    if text:
        warn(text)


def warn(text: str) -> None:
    """A line on stderr that concerns the result, and is said also with ``--quiet``."""
    print(f"modeflow: warning: {text}", file=sys.stderr, flush=True)


def say_wrote(args: argparse.Namespace, what: str) -> None:
    """That ``-o`` was written, and what is in it."""
    say(args, f"wrote {'to stdout' if args.out == '-' else args.out}: {what}")


def say(args: argparse.Namespace, line: str) -> None:
    """A remark on stderr, unless ``--quiet`` or ``--json``."""
    if not (args.quiet or args.json):
        print(line, file=sys.stderr, flush=True)


def check_output(args: argparse.Namespace) -> None:
    """Refuse, before any work, a file that cannot be written."""
    from modeflow.data import check_writable
    from modeflow.errors import ConfigError

    if args.out == "-" and args.json:
        raise ConfigError("-o - and --json both print to stdout: give one of them")
    if args.out:
        refuse_data([args.out], [getattr(args, "data", None)])
        check_writable(args.out)


def refuse_data(outputs: Iterable[str | None], sources: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuse outputs that are what is read, which would be lost (`ConfigError`)."""
    from modeflow.errors import ConfigError

    read = {_place(source) for source in sources if source is not None}
    for out in outputs:
        if out is not None and out != "-" and _place(out) in read:
            raise ConfigError(f"'{out}' is read, and would be lost if it were written: give another -o")


def _place(path: str | os.PathLike[str]) -> str:
    return os.path.realpath(os.path.expanduser(path))


def columns_of(text: str | None) -> list[str] | None:
    """``"a, b"`` to ``["a", "b"]``."""
    return None if text is None else [c for c in listed(text) if c]


def listed(text: str) -> list[str]:
    """``'a, "b, c"'`` to ``["a", "b, c"]``: a part with commas in it stands in quotes, as in a csv."""
    return [part.strip() for part in next(csv.reader([text], skipinitialspace=True), [])]


def set_device(args: argparse.Namespace, estimator: Any) -> None:
    """Score on the device asked for; says so if it is not there."""
    from modeflow.errors import ConfigError

    if args.device is None:
        return
    if args.device not in ("auto", "cpu") and not args.device.startswith("cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda, received '{args.device}'")
    if args.device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("--device cuda: torch finds no CUDA device here; use cpu")
    estimator.device = args.device
