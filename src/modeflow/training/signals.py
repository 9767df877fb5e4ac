"""Ctrl-C and SIGTERM end a training after the step under way, and are then given back.

While a training runs, a signal only asks it to end. When its results are safe (a checkpoint, the best weights
in the model, the attributes of the estimator, the run folder), the signal does what it would have done
without modeflow: KeyboardInterrupt for Ctrl-C, or whatever the caller's handler or the system's default does.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

__all__ = ["Held", "Stop", "handled", "hold", "signals_held", "stop_on_signals"]

Handler = Callable[[int, FrameType | None], object]


class Held:
    """The signal that asked a training to end, until it is given back.

    Attributes:
        signum: its number; None while there was none.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def give_back(self) -> None:
        """Let the signal do what the handler in place, or the default, does.

        Raises:
            KeyboardInterrupt: for SIGINT under Python's own handler.
        """
        signum, self.signum = self.signum, None
        if signum is None:
            return
        handler = signal.getsignal(signum)
        if callable(handler):
            handler(signum, inspect.currentframe())
        elif handler is not None:
            signal.raise_signal(signum)


_HELD: ContextVar[Held | None] = ContextVar("modeflow_held_signal", default=None)


def hold(signum: int | None) -> None:
    """Keep a signal for the end of the `signals_held` around."""
    held = _HELD.get()
    if held is not None and held.signum is None:
        held.signum = signum


@contextmanager
def signals_held(deliver: bool = True) -> Iterator[Held]:
    """A signal that ends a training within the block is given back when the outermost such block is left.

    Arguments:
        deliver: False leaves it to the caller, who finds it in what the block yields.
    """
    outer = _HELD.get()
    if outer is not None:
        yield outer
        return
    held = Held()
    token = _HELD.set(held)
    try:
        yield held
    finally:
        _HELD.reset(token)
        # A KeyboardInterrupt under way is a second signal, which has acted at once.
        if deliver and not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            held.give_back()


class Stop:
    """Becomes true at the first signal; the second raises KeyboardInterrupt at once.

    Arguments:
        worker: this is one of several processes. Its parent hears Ctrl-C too (the terminal sends it to both)
            and passes one SIGTERM on, so here SIGINT counts only when the parent is gone.
    """

    def __init__(self, worker: bool = False) -> None:
        self.signum: int | None = None
        self._parent = os.getppid() if worker else None

    @property
    def asked(self) -> bool:
        """Whether there was a signal."""
        return self.signum is not None

    def __call__(self) -> bool:
        return self.asked

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._parent is not None:
            if os.getppid() != self._parent:
                raise KeyboardInterrupt
            if signum == signal.SIGTERM:
                self.signum = signum
            return
        if self.asked:
            raise KeyboardInterrupt
        self.signum = signum


@contextmanager
def stop_on_signals(worker: bool = False) -> Iterator[Stop]:
    """A `Stop` that listens to SIGINT and SIGTERM within the block; afterwards the signal is held.

    A worker holds none: what its parent passed on is the parent's to give back.
    """
    stop = Stop(worker)
    try:
        with handled(stop.handle, ignored_too=worker):
            yield stop
    finally:
        if not worker:
            hold(stop.signum)


@contextmanager
def handled(handler: Handler, ignored_too: bool = False) -> Iterator[None]:
    """SIGINT and SIGTERM go to `handler` within the block; outside the main thread nothing changes.

    A signal that the caller ignores (a job in the background, say) stays ignored, unless `ignored_too`; one
    whose handler was not set from Python could not be given back, and is left alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    left = (None,) if ignored_too else (None, signal.SIG_IGN)
    numbers = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) not in left]
    previous = {s: signal.signal(s, handler) for s in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
