"""What a user says of the lattice of a column, with ``dequantize``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from modeflow.data.lattice import Lattice, find_lattice, lattice_of_step
from modeflow.errors import ConfigError, DataError

__all__ = ["lattice_as_said"]


def lattice_as_said(column: np.ndarray, name: str, said: Any) -> Lattice | None:
    """The lattice of one column, as found or as said."""
    if isinstance(said, str):
        if said not in ("auto", "none", "lattice"):
            raise ConfigError(f"dequantize['{name}']='{said}' is not known; use 'auto', 'none' or a step")
        if said == "none" or not np.isfinite(column).all():
            return None
        found = find_lattice(column, evidence=said == "auto")
        if found is None and said == "lattice":
            value = column[np.argmax(column != np.round(column))]
            raise DataError(
                f"column '{name}' lies on no lattice (it holds {value:g}): name a step, "
                f"dequantize={{'{name}': 0.01}}, or do not dequantise this column"
            )
        return found
    options = dict(said) if isinstance(said, Mapping) else {"step": said}
    unknown = set(options) - {"step", "low", "high"}
    step = options.get("step")
    numbers = [v for v in options.values() if v is not None]
    if unknown or any(isinstance(v, bool) or not isinstance(v, (int, float, np.number)) for v in numbers):
        raise ConfigError(f"dequantize['{name}'] needs a step, or step, low and high; received {said!r}")
    if step is not None and not (math.isfinite(step) and step > 0):
        raise ConfigError(f"dequantize['{name}'] needs a step above 0, received {step!r}")
    found = find_lattice(column, False) if step is None else lattice_of_step(column, float(step))
    if found is None:
        raise ConfigError(f"dequantize['{name}'] needs a step: its values show none")
    wrong = np.flatnonzero(found.misses(column))
    if len(wrong):
        raise DataError(
            f"column '{name}', data row {wrong[0] + 1} holds {column[wrong[0]]:g}, which is no multiple of "
            f"the step {found.step:g} from {column.min():g}; give a finer step or do not dequantise it"
        )
    return _bounded(found, name, column, options)


def _bounded(lattice: Lattice, name: str, column: np.ndarray, options: Mapping[str, Any]) -> Lattice:
    """The lattice with the bounds that the user gave."""
    ends, piled = [lattice.low, lattice.high], list(lattice.piled)
    for side, key in enumerate(("low", "high")):
        if key in options:
            bound = options[key]
            ends[side] = None if bound is None else _inwards(lattice, float(bound), side)
            piled[side] = bound is not None
    low, high = ends
    n = lattice.number(np.array([column.min(), column.max()]))
    if (low is not None and n[0] < low) or (high is not None and n[1] > high):
        raise DataError(f"column '{name}' holds values beyond the bounds that dequantize gives it")
    return replace(lattice, low=low, high=high, piled=(piled[0], piled[1]))


def _inwards(lattice: Lattice, bound: float, side: int) -> int:
    """The number of the outermost value within a bound, the lower (side 0) or the upper (1)."""
    n = (bound - lattice.offset) / lattice.step
    if not lattice.misses(np.array([bound]))[0]:
        return round(n)
    return math.ceil(n) if side == 0 else math.floor(n)
