"""Progress of whatever takes longer than a moment, on stderr.

`showing` says, around a piece of work, whether its user wants to see anything; `track` and `busy` mark the
parts of it that may take long. On a terminal a bar appears after two seconds, so that what is quick shows
none, and none appears inside another. Where stderr is a file or a pipe there are lines instead (`Lines`).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["Lines", "busy", "on_terminal", "showing", "track"]

_Item = TypeVar("_Item")

#: Seconds before a bar appears.
DELAY = 2.0
_SHOW: ContextVar[bool] = ContextVar("modeflow_show_progress", default=False)
_here = threading.local()
#: Seconds between two lines of a log at least, and as a share of the time since the work began.
_APART, _SHARE = 10.0, 0.1


def on_terminal() -> bool:
    """Whether stderr is one. Asked of the stream itself: rich takes FORCE_COLOR for a terminal."""
    return sys.stderr.isatty()


class Lines:
    """Progress in a log: a line after ten seconds, and others at growing distances.

    All of a process keep their distance from one another, so that many short pieces of work are not louder
    than a long one.

    Arguments:
        what: is being done.
    """

    _last = -_APART

    def __init__(self, what: str) -> None:
        self.what = what
        self._began = time.monotonic()

    def left(self, share: float) -> str:
        """How long the rest will take, in words, at the rate of so far; `share` is what is done."""
        if not 0 < share < 1:
            return ""
        seconds = (time.monotonic() - self._began) * (1 - share) / share
        for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
            if seconds >= size:
                return f", {seconds / size:.0f} {unit} left"
        return f", {seconds:.0f} s left"

    def say(self, how_far: str) -> None:
        """How far it is, if a line is due."""
        now = time.monotonic()
        since = now - max(Lines._last, self._began)
        if since >= max(_APART, _SHARE * (now - self._began)):
            Lines._last = now
            print(f"modeflow: {self.what}: {how_far}", file=sys.stderr, flush=True)


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


def track(
    items: Iterable[_Item],
    what: str,
    total: float | None = None,
    weights: Callable[[_Item], float] | None = None,
) -> Iterator[_Item]:
    """The items, one after the other, with a bar of how many are done.

    Arguments:
        items: to go through. what: is done with them. total: how many there are, where `items` cannot say.
        weights: how much of the total an item is, where that is not 1.
    """
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with _bar(what, total) as bar:
        for item in items:
            yield item
            bar.advance(1.0 if weights is None else weights(item))


class _Bar:
    """A bar that starts after `DELAY` seconds, by a thread: the first step may be what takes long."""

    def __init__(self, what: str, total: float | None) -> None:
        self._what, self._total, self._done = what, total, 0.0
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
        self._task = shown.add_task(self._what, total=self._total, completed=0)
        shown.update(self._task, completed=self._done)
        shown.start()
        self._shown = shown

    def advance(self, by: float = 1.0) -> None:
        """So much more is done."""
        self._done += by
        if self._shown is not None:
            self._shown.update(self._task, completed=self._done)

    def close(self) -> None:
        """Remove the bar."""
        self._timer.cancel()
        self._timer.join()
        if self._shown is not None:
            self._shown.stop()


class _NoBar:
    def advance(self, by: float = 1.0) -> None:
        """Nothing."""


class _LineBar:
    """Lines in place of a bar."""

    def __init__(self, what: str, total: float | None) -> None:
        self._lines, self._total, self._done = Lines(what), total, 0.0
        # Work that cannot say how far it is says once that it is under way.
        self._timer = threading.Timer(_APART, self._lines.say, ("under way",)) if total is None else None
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def advance(self, by: float = 1.0) -> None:
        """So much more is done."""
        self._done += by
        if self._total:
            self._lines.say(
                f"{100 * self._done / self._total:.0f} %{self._lines.left(self._done / self._total)}"
            )

    def close(self) -> None:
        """Nothing more is said."""
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def _bar(what: str, total: float | None) -> Iterator[_Bar | _LineBar | _NoBar]:
    if not _SHOW.get() or getattr(_here, "active", False):
        yield _NoBar()
        return
    _here.active = True
    bar = _Bar(what, total) if on_terminal() else _LineBar(what, total)
    try:
        yield bar
    finally:
        bar.close()
        _here.active = False
