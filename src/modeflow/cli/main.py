"""Entry point: one line on stderr and a non-zero exit for whatever goes wrong."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

__all__ = ["main", "one_line_warning"]

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0, 2 for bad input, 130 after Ctrl-C)."""
    from modeflow.cli.parser import build_parser
    from modeflow.errors import ModeflowError
    from modeflow.progress import showing

    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks for completions, not for a command
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    try:
        with warnings.catch_warnings(), _any_character(), showing(not (args.quiet or args.json)):
            warnings.showwarning = one_line_warning
            # Notices of libraries about their own internals are not the user's business.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            return int(args.run(args) or 0)
    except ModeflowError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("modeflow: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, say) has left; nothing more can be printed, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _fail("out of memory: use fewer rows, a smaller batch_size or a smaller flow")
    except OSError as error:
        name = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{name}{error.strerror or error}")


@contextmanager
def _any_character() -> Iterator[None]:
    """What is written is UTF-8, as files are, also where the system has another encoding: names of columns
    and signs such as − may not be in it. A terminal, which has its own, shows what it has not as ?."""
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            changed.append((stream, stream.encoding, stream.errors))
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8")
    try:
        yield
    finally:
        for stream, encoding, errors in changed:
            stream.reconfigure(encoding=encoding, errors=errors)


def _fail(message: str) -> int:
    print(f"modeflow: error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_BAD_INPUT


def one_line_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> Any:
    if issubclass(category, UserWarning):
        print(f"modeflow: warning: {' '.join(str(message).split())}", file=file or sys.stderr)
