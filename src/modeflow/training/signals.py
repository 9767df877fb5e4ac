"""Ctrl-C and SIGTERM end a training after the step under way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "handled", "stop_on_signals"]

Handler = Callable[[int, FrameType | None], None]


class Stop:
    """Becomes true at the first signal; the second raises KeyboardInterrupt at once.

    Arguments:
        worker: this is one of several processes. Its parent hears Ctrl-C too (the terminal sends it to both)
            and passes one SIGTERM on, so here SIGINT counts only when the parent is gone.
    """

    def __init__(self, worker: bool = False) -> None:
        self.asked = False
        self._parent = os.getppid() if worker else None

    def __call__(self) -> bool:
        return self.asked

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._parent is not None:
            if os.getppid() != self._parent:
                raise KeyboardInterrupt
            self.asked |= signum == signal.SIGTERM
            return
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def stop_on_signals(worker: bool = False) -> Iterator[Stop]:
    """A `Stop` that listens to SIGINT and SIGTERM within the block."""
    stop = Stop(worker)
    with handled(stop.handle):
        yield stop


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` within the block; outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in previous.items():
            # None: a handler that was not set from Python and cannot be given back.
            signal.signal(number, signal.SIG_DFL if old is None else old)
