"""Progress of a training on stderr: a bar on a terminal, lines in a log."""

from __future__ import annotations

from typing import Any

from modeflow import progress
from modeflow.progress import Lines

__all__ = ["TrainingProgress"]


class TrainingProgress:
    """Epoch, time left, current and best validation likelihood."""

    def __init__(self, description: str, epochs: int, done: int, quiet: bool) -> None:
        self._bar: Any = None
        self._lines: Lines | None = None
        self._epochs, self._validation = epochs, ""
        if quiet:
            return
        if not progress.on_terminal():
            self._lines = Lines(description)
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
        if current is not None:
            self._validation = f"validation {current:.3f} (best {best:.3f})"
        if self._bar is not None:
            self._bar.update(self._task, completed=epoch, validation=self._validation)
        elif self._lines is not None:
            validation = f", {self._validation}" if self._validation else ""
            self._lines.say(f"epoch {epoch:.0f} of at most {self._epochs}{validation}")

    def expect(self, epochs: int) -> None:
        """Training ends with another epoch than was thought."""
        self._epochs = epochs
        if self._bar is not None:
            self._bar.update(self._task, total=epochs)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
