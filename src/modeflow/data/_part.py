"""Some of the rows of a file in the place of all: what readers are told while a file is read in parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Part", "current_part", "reading_part"]


@dataclass(frozen=True)
class Part:
    """Rows of a file that follow one another.

    Attributes:
        file: None for a source that is read whole.
        text: of a text table, as UTF-8, below the lines that say how it is laid out.
        lines: of the file that lie between those and the first of these rows.
        rows: first and last + 1, of other files.
        header: whether the first line of `text` names the columns; None where that is to be found out.
        done: share of the file that ends with this part.
    """

    file: Path | None = None
    text: bytes | None = None
    lines: int = 0
    rows: tuple[int, int] | None = None
    header: bool | None = None
    done: float = 1.0

    @property
    def whole(self) -> bool:
        """Whether it is all of its source."""
        return self.text is None and self.rows is None


_PART: ContextVar[Part | None] = ContextVar("modeflow_part", default=None)


@contextmanager
def reading_part(part: Part) -> Iterator[None]:
    """Within it, whoever reads the file of this part is given its rows alone."""
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)


def current_part(file: Path | None) -> Part | None:
    """The part of this file that is to be read; None for all of it."""
    part = _PART.get()
    if part is None or part.whole or file is None or part.file is None:
        return None
    return part if part.file == file else None
