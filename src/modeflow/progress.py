"""Progress of whatever takes longer than a moment: on stderr, for people only.

`showing` says, around a piece of work, whether its user wants to see anything; `track` and `busy` mark the
parts of it that may take long. A bar appears after two seconds, so that what is quick shows none, and none
appears inside another or where stderr is no terminal.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["busy", "showing", "track"]

_Item = TypeVar("_Item")

#: Seconds before a bar appears.
DELAY = 2.0
_SHOW: ContextVar[bool] = ContextVar("modeflow_show_progress", default=False)
_here = threading.local()


@contextmanager
def showing(on: bool) -> Iterator[None]:
    """Whether progress is shown within the block."""
    token = _SHOW.set(on)
    try:
        yield
    finally:
        _SHOW.reset(token)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Within the block, what is being done; for work that cannot say how far it is."""
    with _bar(what, None):
        yield


def track(items: Iterable[_Item], what: str, total: int | None = None) -> Iterator[_Item]:
    """The items, one after the other, with a bar of how many are done.

    Arguments:
        items: to go through. what: is done with them. total: how many there are, where `items` cannot say.
    """
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with _bar(what, total) as bar:
        for item in items:
            yield item
            bar.advance()


class _Bar:
    """A bar that starts after `DELAY` seconds, by a thread: the first step may be what takes long."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._shown: Any = None
        self._timer = threading.Timer(DELAY, self._start)
        self._timer.daemon = True
        self._timer.start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
        if self._total is not None:
            columns += [TextColumn("left"), TimeRemainingColumn()]
        shown = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = shown.add_task(self._what, total=self._total, completed=self._done)
        shown.start()
        self._shown = shown

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        if self._shown is not None:
            self._shown.update(self._task, completed=self._done)

    def close(self) -> None:
        """Remove the bar."""
        self._timer.cancel()
        self._timer.join()
        if self._shown is not None:
            self._shown.stop()


class _NoBar:
    def advance(self) -> None:
        """Nothing."""


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[_Bar | _NoBar]:
    # Asked of the stream itself: rich takes FORCE_COLOR for a terminal.
    if not _SHOW.get() or getattr(_here, "active", False) or not sys.stderr.isatty():
        yield _NoBar()
        return
    _here.active = True
    bar = _Bar(what, total)
    try:
        yield bar
    finally:
        bar.close()
        _here.active = False
