"""What a column is: its kind, how its cells become numbers for a model, and how these become cells again."""

from __future__ import annotations

import datetime as dt
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from modeflow.data.columns.cells import Cells
from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.frames import cells_of
from modeflow.errors import ConfigError, DataError, nearest
from modeflow.transforms.mixed import Cell

__all__ = ["IMPOSSIBLE", "KINDS", "Column", "Feature", "Unseen", "kind_named", "shown"]

#: What is to be done with a cell that a column cannot have: an error; as if it were missing; `IMPOSSIBLE`,
#: for which a model has no probability; for numbers, the nearest value that the column can have; or "score":
#: a number beyond a guessed range stays, for the little density there is; anything else is impossible.
Unseen = Literal["error", "missing", "impossible", "nearest", "score"]
#: Encoded cell of a value that the column cannot have.
IMPOSSIBLE = -math.inf

#: Options of every kind.
_COMMON = ("missing", "dtype")
#: Kinds of columns by name.
KINDS: dict[str, type[Column]] = {}


@dataclass(frozen=True)
class Feature:
    """What a modelled column is to a model: one column of an encoded table.

    Attributes:
        name, kind: of the column.
        levels: number of codes 0 to L - 1, each with a probability of its own; 0 for numbers in their units.
        ordered: whether neighbouring codes are alike.
        circular: whether the line is closed; period, origin: its length and where it starts.
        atoms: single values beside the continuous part: a flag says which of them a cell is, or none.
        step, offset: numbers lie on ``offset + n * step``; step 0 for a density.
        low, high: ends of the support of a density or, of a lattice, of its outer cells; infinite where open.
        missing: whether cells were missing in the data.
    """

    name: str
    kind: str
    levels: int = 0
    ordered: bool = False
    circular: bool = False
    period: float = 0.0
    origin: float = 0.0
    atoms: tuple[float, ...] = ()
    step: float = 0.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    missing: bool = False

    @property
    def cell(self) -> Cell:
        """What the first layer of a model is told."""
        if self.levels:
            return Cell(levels=self.levels)
        ends = {} if self.circular else {"low": self.low, "high": self.high}
        period = self.period if self.circular else 0.0
        return Cell(0, period, self.origin, self.step, self.offset, atoms=self.atoms, **ends)


@dataclass(frozen=True, kw_only=True)
class Column(ABC):
    """A column of a table: its name, what values it can have, and both ways between cells and numbers.

    Arguments:
        name: of the column.
        dtype: the frame's name for the type of its cells, which decoded cells get back; "" for the plain one.
        missing: whether cells may be missing.
        about: what was seen in the data, for people.
    """

    name: str
    dtype: str = ""
    missing: bool = False
    about: str = field(default="", compare=False)

    #: The kind's word, and whether a model sees the column.
    kind: ClassVar[str] = ""
    modelled: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__ and cls.kind:
            KINDS[cls.kind] = cls

    # -- cells and numbers -----------------------------------------------------------------------

    def encode(self, values: Any, unseen: Unseen = "error") -> np.ndarray:
        """Cells as float64 ``(N,)``: numbers in the column's units, or codes of levels; NaN where missing.

        Arguments:
            values: a column of any frame, an array, a list, or `Cells`.
            unseen: what is done with values that the column cannot have, see `Unseen`.

        Raises:
            DataError: cells of another type, infinite ones, or ones that the column cannot have; names
                column, row and value.
        """
        if unseen not in get_args(Unseen):
            raise ConfigError(
                f"unseen='{unseen}' is not known{nearest(str(unseen), get_args(Unseen))}; use 'error', "
                "'missing', 'impossible', 'nearest' or 'score'"
            )
        cells = values if isinstance(values, Cells) else cells_of(values, self.name)
        cells.check(self.name)
        if portable(cells.dtype) == "period" and self.dtype != cells.dtype:
            raise DataError(
                f"column '{self.name}' holds periods of type {cells.dtype}, not {self.dtype or 'numbers'}: "
                "convert them (asfreq)"
            )
        encoded, wrong, near = self._read(cells)
        if not wrong.any():
            return encoded
        row = int(np.argmax(wrong))
        if unseen == "error" or (unseen == "nearest" and near is None):
            raise self._refusal(cells, row, int(wrong.sum()))
        if unseen == "nearest" and near is not None:
            return np.where(wrong, near, encoded)
        if unseen == "score" and self.has_density:
            return encoded
        return np.where(wrong, math.nan if unseen == "missing" else IMPOSSIBLE, encoded)

    @property
    def has_density(self) -> bool:
        """Whether a model has some density for numbers that the column cannot have."""
        return False

    @abstractmethod
    def _read(self, cells: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Encoded cells, which are values that the column cannot have, and the nearest ones to those (or
        None)."""

    @abstractmethod
    def decode(self, encoded: np.ndarray) -> np.ndarray:
        """Numbers ``(N,)`` as cells of the column's own type, always ones that it can have; missing for NaN.

        Integers, floats, booleans and times are numpy's (NaN and NaT where missing, integers then floats);
        other levels are objects, None where missing.
        """

    def middle(self, draws: np.ndarray) -> np.ndarray:
        """The best guess of encoded cells of which there are several draws: the most frequent.

        Arguments:
            draws: encoded, ``(n, N)``; none is missing.

        Returns:
            encoded cells ``(N,)``, which `decode` makes values of the column.
        """
        found = np.empty(draws.shape[1])
        for i, column in enumerate(draws.T):
            values, counts = np.unique(column, return_counts=True)
            found[i] = values[counts.argmax()]
        return found

    def feature(self) -> Feature:
        """What the column is to a model."""
        return Feature(self.name, self.kind, missing=self.missing)

    def _refusal(self, cells: Cells, row: int, count: int) -> DataError:
        others = f" (and {count - 1} more rows)" if count > 1 else ""
        return DataError(
            f"column '{self.name}', data row {row + 1} holds {shown(cells.said(row))}{others}, which "
            f"{self.spec} cannot have; {self._remedy(cells, row)}"
        )

    def _remedy(self, cells: Cells, row: int) -> str:
        return "change the column in the schema, or leave out the row"

    # -- for people and files --------------------------------------------------------------------

    @property
    @abstractmethod
    def spec(self) -> str:
        """Short text, such as ``circular(360)`` or ``ordinal(low < mid < high)``."""

    def describe(self) -> str:
        """One line for people."""
        missing = ", cells may be missing" if self.missing else ""
        about = f"; {self.about}" if self.about else ""
        return f"{self.name}: {self.spec}{missing}{about}"

    def options(self) -> dict[str, Any]:
        """The options of the kind that differ from their defaults, as plain values."""
        own = {f.name: f for f in fields(self) if f.name not in ("name", "about")}
        # What every kind has comes last.
        names = [name for name in own if name not in _COMMON] + [name for name in _COMMON if name in own]
        found = {name: getattr(self, name) for name in names}
        return {name: _plain(v) for name, v in found.items() if v != own[name].default}

    def said(self) -> dict[str, Any]:
        """Kind and all options as plain values, defaults too: nothing is left to be found out."""
        every = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return {"kind": self.kind, **{k: _written(v) for k, v in every.items() if k not in ("name", "about")}}

    def to_dict(self) -> dict[str, Any]:
        """Plain values: name, kind and options."""
        return {"name": self.name, "kind": self.kind, **{k: _written(v) for k, v in self.options().items()}}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Column:
        """The column that `to_dict` wrote.

        Raises:
            ConfigError: an unknown kind or option (the nearest is named), or an option that is missing.
        """
        options = dict(content)
        name = str(options.pop("name", "?"))
        kind = kind_named(options.pop("kind", None), name)
        return kind.of(name, options)

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any]) -> Self:
        """The column of this kind with plain options."""
        cls.check_options(name, options)
        given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
        needed = [f.name for f in fields(cls) if _required(f) and f.name not in ("name", *given)]
        if needed:
            raise ConfigError(f"column '{name}' of kind '{cls.kind}' needs {', '.join(needed)}")
        return cls(name=name, **given)

    @classmethod
    def is_complete(cls, options: Mapping[str, Any]) -> bool:
        """Whether options suffice without data."""
        return all(f.name in options for f in fields(cls) if _required(f) and f.name != "name")

    @classmethod
    def option_names(cls) -> set[str]:
        """The options of the kind."""
        return {f.name for f in fields(cls)} - {"name", "about"}

    @classmethod
    def check_options(cls, name: str, options: Mapping[str, Any]) -> None:
        """Raise `ConfigError` for an option that the kind has not."""
        known = [f.name for f in fields(cls) if f.name not in ("name", "about")]
        for key in options:
            if key not in known:
                raise ConfigError(
                    f"column '{name}': kind '{cls.kind}' has no option '{key}'{nearest(str(key), known)} "
                    f"(it has {', '.join(known)})"
                )


def _required(option: Field[Any]) -> bool:
    return option.default is MISSING and option.default_factory is MISSING


def kind_named(word: Any, column: str) -> type[Column]:
    """The kind of this name.

    Raises:
        ConfigError: an unknown one; names the column and the nearest kind.
    """
    if not isinstance(word, str) or word not in KINDS:
        hint = nearest(str(word), KINDS)
        raise ConfigError(f"column '{column}': kind {word!r} is not known{hint} (kinds: {', '.join(KINDS)})")
    return KINDS[word]


def shown(value: Any) -> str:
    """A cell in a message."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return repr(value)[:60] if isinstance(value, str) else str(value)[:60]


def _written(value: Any) -> Any:
    """Dates as text, which every kind of file has."""
    if isinstance(value, list):
        return [_written(v) for v in value]
    return value.isoformat() if isinstance(value, dt.date) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value
