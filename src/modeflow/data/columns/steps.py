"""Kinds of columns whose values lie on a lattice: integers, and multiples of another step.

A column of few values (`levels`) is modelled by their codes: each value then has a probability of its own,
exact, where a dequantised density has only a bound of it, and heaps, gaps and ends cost nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from modeflow.data.columns.base import Feature
from modeflow.data.columns.cells import Cells
from modeflow.data.columns.numeric import Numeric, as_type
from modeflow.data.lattice import Lattice
from modeflow.data.spread import single_slack
from modeflow.errors import ConfigError

__all__ = ["Integer", "Steps", "as_written"]


@dataclass(frozen=True, kw_only=True)
class Steps(Numeric):
    """The values ``offset + n * step``, n whole.

    Arguments:
        step: distance of neighbours. offset: one of the values.
        low, high: the least and the greatest value; None where there is none.
        written: of a step that is no decimal (a third), how its cells are written: ``.2f`` with two decimals,
            ``.10g`` with ten digits; "" with all.
        piled: whether rows pile up at low and at high, as at a bound (0 and 1, a cap) and not in a tail.
        levels: the values there are, of a column of few: it is encoded as their codes.
    """

    step: float
    offset: float = 0.0
    low: float | None = None
    high: float | None = None
    written: str = ""
    piled: tuple[bool, bool] = (False, False)
    levels: tuple[float, ...] = ()

    kind: ClassVar[str] = "lattice"

    def _bounds(self) -> tuple[str, ...]:
        return ("step", "offset", "low", "high")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.step > 0:
            raise ConfigError(f"column '{self.name}': step={self.step:g} must be above 0")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"column '{self.name}': low={self.low:g} must lie below high={self.high:g}")
        try:
            levels = tuple(sorted({float(v) for v in self.levels}))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"column '{self.name}': levels must be numbers") from error
        if levels and len(levels) < 2:
            raise ConfigError(f"column '{self.name}': one level alone is kind 'constant'")
        object.__setattr__(self, "levels", levels)
        if self.written and not re.fullmatch(r"\.\d+[fg]", self.written):
            raise ConfigError(
                f"column '{self.name}': written={self.written!r} must be such as '.2f' or '.10g'"
            )
        object.__setattr__(self, "piled", tuple(bool(p) for p in self.piled))

    @property
    def as_levels(self) -> bool:
        """Whether a model sees codes of single values."""
        return bool(self.levels)

    @property
    def lattice(self) -> Lattice:
        """The lattice, for those who dequantise."""
        low, high = (
            None if bound is None else round((bound - self.offset) / self.step)
            for bound in (self.low, self.high)
        )
        piled = (self.piled[0], self.piled[1])
        return Lattice(self.step, self.offset, self.decimals, low, high, piled)

    @property
    def has_density(self) -> bool:
        return not self.as_levels

    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        numbers, wrong, near = super()._read(cells)
        if not self.as_levels:
            return numbers, wrong, near
        levels = np.array(self.levels)
        known = ~np.isnan(numbers)
        codes = np.where(known, self._code(np.where(known, numbers, levels[0])), 0)
        wrong = known & (
            np.abs(levels[codes] - numbers) > np.maximum(1e-3 * self.step, single_slack(numbers))
        )
        values = codes.astype(np.float64)
        return np.where(known, values, math.nan), wrong, values

    def _code(self, numbers: np.ndarray) -> np.ndarray:
        """The code of the nearest level."""
        levels = np.array(self.levels)
        return np.searchsorted((levels[1:] + levels[:-1]) / 2, numbers)

    def decode(self, encoded: np.ndarray) -> np.ndarray:
        if not self.as_levels:
            return super().decode(encoded)
        x = np.asarray(encoded, dtype=np.float64)
        absent = np.isnan(x)
        codes = np.clip(np.where(absent, 0.0, np.floor(x + 0.5)), 0, len(self.levels) - 1).astype(np.int64)
        return self._typed(np.where(absent, math.nan, np.array(self.levels)[codes]))

    def middle(self, draws: np.ndarray) -> np.ndarray:
        """The mean; of codes the level that is nearest to that of their values."""
        if not self.as_levels:
            return super().middle(draws)
        mean = np.array(self.levels)[draws.astype(np.int64)].mean(0)
        return self._code(mean).astype(np.float64)

    def _typed(self, values: np.ndarray) -> np.ndarray:
        return as_type(values, self.dtype)

    def _possible(self, numbers: np.ndarray) -> np.ndarray:
        # Decimals that went through single precision lie beside the lattice.
        near = self.lattice.value(self.lattice.number(numbers))
        numbers = np.where(np.abs(near - numbers) <= single_slack(numbers), near, numbers)
        beyond = np.zeros(len(numbers), dtype=bool)
        if self.low is not None:
            beyond |= numbers < self.low - 1e-3 * self.step
        if self.high is not None:
            beyond |= numbers > self.high + 1e-3 * self.step
        known = ~np.isnan(numbers)
        off = np.zeros(len(numbers), dtype=bool)
        off[known] = self.lattice.misses(numbers[known])
        return ~(beyond | off)

    def _nearest(self, x: np.ndarray) -> np.ndarray:
        lattice = self.lattice
        # Whole numbers beyond 2^53 steps are no lattice of doubles.
        far = 2.0**52 * self.step
        n = lattice.number(np.clip(x, self.offset - far, self.offset + far))
        if lattice.low is not None or lattice.high is not None:
            n = np.clip(n, lattice.low, lattice.high)
        values = lattice.value(n)
        return as_written(values, self.written) if self.written else values

    def feature(self) -> Feature:
        if self.as_levels:
            return Feature(self.name, self.kind, len(self.levels), ordered=True, missing=self.missing)
        low, high = self.lattice.edges()
        return Feature(
            self.name, self.kind, atoms=self.atoms, step=self.step, offset=self.offset, low=low, high=high,
            missing=self.missing,
        )  # fmt: skip

    def _remedy(self, cells: Cells, row: int) -> str:
        if self.as_levels:
            return f"its values are {_few(self.levels)}: correct the cell, or add its value to them"
        return super()._remedy(cells, row)

    @property
    def spec(self) -> str:
        return self._text(self._step_text(), self._range_text())

    def _step_text(self) -> str:
        return f"{self.step:g}"

    def _range_text(self) -> str:
        if self.as_levels:
            return f"{self.levels[0]:.12g}..{self.levels[-1]:.12g}, as levels"
        low, high = ("" if b is None else f"{b:.12g}" for b in (self.low, self.high))
        return f"{low}..{high}" if low or high else ""


def as_written(values: np.ndarray, form: str) -> np.ndarray:
    """Numbers as a text in this format would say them."""
    distinct, place = np.unique(values, return_inverse=True)
    return np.array([float(format(v, form)) for v in distinct.tolist()])[place]


def _few(levels: tuple[float, ...]) -> str:
    text = ", ".join(f"{v:g}" for v in levels[:12])
    return text + (f" and {len(levels) - 12} more" if len(levels) > 12 else "")


@dataclass(frozen=True, kw_only=True)
class Integer(Steps):
    """Whole numbers: counts, ages, years."""

    step: float = 1.0
    decimals: int | None = 0

    kind: ClassVar[str] = "integer"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("step", "offset"):
            if getattr(self, name) != round(getattr(self, name)):
                raise ConfigError(
                    f"column '{self.name}': {name}={getattr(self, name):g} of an integer must be whole; say "
                    "'lattice' for other steps"
                )

    def _step_text(self) -> str:
        return f"step {self.step:g}" if self.step != 1 else ""
