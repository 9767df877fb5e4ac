"""Errors a user can act on.

Every message is one line that names what was given, what was expected and what to do next. The command
line prints the message alone and exits with status 2; a library caller catches `ModeflowError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ConfigError",
    "DataError",
    "ModeflowError",
    "ModelFileError",
    "ShapeError",
    "TrainingError",
    "nearest",
]


class ModeflowError(Exception):
    """Base class of everything modeflow raises on purpose."""


class DataError(ModeflowError, ValueError):
    """The data cannot be used as it is: names the column, the row and the remedy."""


class ConfigError(ModeflowError, ValueError):
    """A parameter has a name or a value that is not allowed."""


class ShapeError(ModeflowError, ValueError):
    """A tensor has another shape than the model expects."""


class ModelFileError(ModeflowError, ValueError):
    """A model file or run folder is missing, damaged, foreign or from a newer version."""


class TrainingError(ModeflowError, RuntimeError):
    """Training cannot go on (a non-finite loss, for example)."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest of `choices`, or an empty string."""
    found = difflib.get_close_matches(str(word), [str(c) for c in choices], n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
