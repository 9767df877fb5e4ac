"""A progress bar on stderr, for people only."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """Epoch, time left, current and best validation likelihood; nothing where stderr is no terminal."""

    def __init__(self, description: str, epochs: int, done: int, quiet: bool) -> None:
        self._bar: Any = None
        # Asked of the stream itself: rich takes FORCE_COLOR for a terminal.
        if quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("epoch {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[validation]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(description, total=epochs, completed=done, validation="")
        self._bar.start()

    def update(self, epoch: float, current: float | None = None, best: float | None = None) -> None:
        """Move to an epoch (fractions while one is under way)."""
        if self._bar is None:
            return
        if current is None:
            self._bar.update(self._task, completed=epoch)
        else:
            text = f"validation {current:.3f} (best {best:.3f})"
            self._bar.update(self._task, completed=epoch, validation=text)

    def expect(self, epochs: int) -> None:
        """Training ends with another epoch than was thought."""
        if self._bar is not None:
            self._bar.update(self._task, total=epochs)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
