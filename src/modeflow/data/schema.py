"""What each column of a table is: continuous, or on a lattice of values.

Columns on a lattice (counts, prices in cents, see `modeflow.data.lattice`) have probabilities, not densities;
`modeflow.transforms.Cells` says how the model gives them. Here is which columns they are, and of what steps.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modeflow.data._lattice_options import lattice_as_said
from modeflow.data.lattice import Lattice, short_decimals
from modeflow.data.table import check_finite
from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["Dequantize", "Kind", "Schema"]

Kind = Literal["continuous", "integer", "lattice"]
#: What users say of the columns that are dequantised, see `Schema.infer`.
Dequantize = str | Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Schema:
    """Names and kinds of the columns a model was fitted on.

    Arguments:
        columns: the D column names, in the order of the model's dimensions.
        kinds: "continuous", "integer" (a lattice of whole numbers) or "lattice" (of others) for each.
        lattices: the lattice of each, None for continuous ones; by default all whole numbers for "integer".
        decimals: digits after the point that samples of a continuous column are rounded to, as its data are;
            None for all digits.
    """

    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]
    lattices: tuple[Lattice | None, ...] = ()
    decimals: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.kinds):
            raise ConfigError(f"{len(self.columns)} columns but {len(self.kinds)} kinds in the schema")
        if len(set(self.columns)) != len(self.columns):
            raise ConfigError("a column name occurs twice in the schema")
        if not self.lattices:
            whole = tuple(Lattice() if kind == "integer" else None for kind in self.kinds)
            object.__setattr__(self, "lattices", whole)
        if len(self.lattices) != len(self.columns):
            raise ConfigError(f"{len(self.columns)} columns but {len(self.lattices)} lattices in the schema")
        if not self.decimals:
            object.__setattr__(self, "decimals", (None,) * len(self.columns))
        if len(self.decimals) != len(self.columns):
            raise ConfigError(f"{len(self.columns)} columns but {len(self.decimals)} decimals in the schema")
        for name, kind, lattice in zip(self.columns, self.kinds, self.lattices, strict=True):
            if kind not in ("continuous", "integer", "lattice"):
                raise ConfigError(
                    f"column '{name}' has kind '{kind}'; use 'continuous', 'integer' or 'lattice'"
                )
            if kind != _kind(lattice):
                raise ConfigError(f"column '{name}' of kind '{kind}' has another kind of lattice")

    @property
    def dim(self) -> int:
        """Number of columns, D."""
        return len(self.columns)

    @property
    def integer_columns(self) -> tuple[str, ...]:
        """Names of the columns of whole numbers."""
        pairs = zip(self.columns, self.kinds, strict=True)
        return tuple(name for name, kind in pairs if kind == "integer")

    @property
    def lattice_columns(self) -> tuple[str, ...]:
        """Names of the columns that are dequantised."""
        pairs = zip(self.columns, self.lattices, strict=True)
        return tuple(name for name, lattice in pairs if lattice is not None)

    @property
    def steps(self) -> np.ndarray:
        """The step of every column's lattice, 0 for continuous ones, shape (D,)."""
        return np.array([0.0 if lattice is None else lattice.step for lattice in self.lattices])

    @property
    def offsets(self) -> np.ndarray:
        """A value of every column's lattice, 0 for continuous ones, shape (D,)."""
        return np.array([0.0 if lattice is None else lattice.offset for lattice in self.lattices])

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest dequantised value of each column, infinite where it is open, shape (D,) each."""
        pairs = [(-math.inf, math.inf) if each is None else each.edges() for each in self.lattices]
        return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])

    @property
    def dequantize_option(self) -> dict[str, float | str]:
        """What `infer` is told in order to find these steps again, whatever the rows: a mapping by name."""
        pairs = zip(self.columns, self.lattices, strict=True)
        return {name: "none" if lattice is None else lattice.step for name, lattice in pairs}

    @property
    def _dequantised(self) -> np.ndarray:
        return np.flatnonzero(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain lists, for config files."""
        lattices = [None if lattice is None else lattice.to_dict() for lattice in self.lattices]
        return {
            "columns": list(self.columns),
            "kinds": list(self.kinds),
            "lattices": lattices,
            "decimals": list(self.decimals),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """The schema that `to_dict` wrote; ConfigError if it is not one.

        Without "lattices" (the first format of model files) integer columns have step 1 and no bounds.
        """
        try:
            columns, kinds = data["columns"], data["kinds"]
        except (KeyError, TypeError) as error:
            raise ConfigError("a schema needs 'columns' and 'kinds'") from error
        lattices, decimals = data.get("lattices", []), data.get("decimals", [])
        if any(isinstance(part, str) for part in (columns, kinds, lattices, decimals)):
            raise ConfigError("a schema's 'columns', 'kinds', 'lattices' and 'decimals' are lists")
        if not all(each is None or isinstance(each, int) for each in decimals):
            raise ConfigError("a schema's 'decimals' are whole numbers or null")
        known = tuple(None if each is None else Lattice.from_dict(each) for each in lattices)
        return cls(tuple(str(c) for c in columns), tuple(kinds), known, tuple(decimals))

    @classmethod
    def of(
        cls,
        columns: Sequence[str],
        lattices: Sequence[Lattice | None],
        decimals: Sequence[int | None] = (),
    ) -> Schema:
        """The schema of columns with these lattices."""
        kinds = tuple(_kind(lattice) for lattice in lattices)
        return cls(tuple(columns), kinds, tuple(lattices), tuple(decimals))

    @classmethod
    def infer(cls, values: np.ndarray, columns: Sequence[str], dequantize: Dequantize = "auto") -> Schema:
        """Decide which columns lie on a lattice, and on which.

        Arguments:
            values: array (N, D).
            columns: D names.
            dequantize: "auto" looks for the lattice of every column (`find_lattice`); "none" takes all for
                continuous; a list names the columns on a lattice, the others being continuous. A mapping
                says it column by column: "none", "auto", a step, or
                ``{"step": ..., "low": ..., "high": ...}`` where low and high bound the values that samples
                may have (None for no bound); columns that it does not name are "auto".

        Raises:
            ConfigError: an unknown mode or column name, or a step that is none.
            DataError: a named column holds a value off its lattice (column and row are named).
        """
        values = matrix(values, len(columns))
        said: dict[str, Any]
        if isinstance(dequantize, str):
            if dequantize not in ("auto", "none"):
                raise ConfigError(
                    f"dequantize='{dequantize}' is not known; use 'auto', 'none', column names, or a mapping "
                    "of names to steps"
                )
            said = dict.fromkeys(columns, dequantize)
        elif isinstance(dequantize, Mapping):
            said = {**dict.fromkeys(columns, "auto"), **dequantize}
        else:
            said = {**dict.fromkeys(columns, "none"), **dict.fromkeys(dequantize, "lattice")}
        for name in said:
            if name not in columns:
                hint = nearest(str(name), columns) or f"; the columns are {listing(columns)}"
                raise ConfigError(f"dequantize names an unknown column '{name}'{hint}")
        found = [lattice_as_said(values[:, i], name, said[name]) for i, name in enumerate(columns)]
        # Decimals that hardly repeat are measurements, continuous, but samples of them have no more digits.
        digits = [
            short_decimals(values[:, i])
            if found[i] is None and said[name] == "auto" and np.isfinite(values[:, i]).all()
            else None
            for i, name in enumerate(columns)
        ]
        return cls.of(columns, found, digits)

    def validate(
        self, values: np.ndarray, columns: Sequence[str] | None = None, holes: bool = False
    ) -> np.ndarray:
        """Check rows to be scored and bring them into the model's column order.

        Arguments:
            values: array (N, D).
            columns: their names; None where they have none (then only the count is checked).
            holes: whether cells may be missing (NaN).

        Returns:
            float64 array (N, D) in the order of `self.columns`.

        Raises:
            DataError: other columns (missing and unexpected ones are named), another count, or NaN or
                infinite values.

        Warns:
            UserWarning: values between those of a lattice; each is taken for the nearest, whose probability
                it then has.
        """
        values = matrix(values, None if columns is None else len(columns))
        if columns is None:
            if values.shape[1] != self.dim:
                raise DataError(
                    f"the model has {self.dim} columns ({listing(self.columns)}), "
                    f"the data {values.shape[1]}; give the same columns"
                )
        elif tuple(columns) != self.columns:
            missing = [c for c in self.columns if c not in columns]
            extra = [c for c in columns if c not in self.columns]
            if missing or extra or len(columns) != self.dim:
                parts = []
                if missing:
                    parts.append(f"missing {listing(missing)}")
                if extra:
                    parts.append(f"unexpected {listing(extra)}")
                if not parts:
                    parts.append("a column is given twice")
                raise DataError(f"the columns differ from the model's: {'; '.join(parts)}")
            values = values[:, [list(columns).index(c) for c in self.columns]]
        check_finite(values, self.columns, "the data", holes=holes)
        return self._on_lattice(values)

    def _on_lattice(self, values: np.ndarray) -> np.ndarray:
        nearest_values = np.array(values)
        for i in self._dequantised:
            lattice = self.lattices[i]
            assert lattice is not None
            off = np.flatnonzero(lattice.misses(values[:, i]))
            nearest_values[:, i] = lattice.value(lattice.number(values[:, i]))
            if len(off):
                name, row = self.columns[i], off[0]
                warnings.warn(
                    f"column '{name}' has steps of {lattice.step:g} in the model; {len(off)} of "
                    f"{len(values)} rows lie between them (the first holds {values[row, i]:g}), scored as "
                    f"the nearest. If they are right, fit with dequantize={{'{name}': STEP}}, a finer one, "
                    "or 'none'",
                    UserWarning,
                    stacklevel=5,
                )
        return nearest_values

    def quantize(self, samples: np.ndarray) -> np.ndarray:
        """Bring the columns on lattices of samples (..., D) to the nearest value in range, and round others
        to the digits of their data; returns a copy.

        The bins are those of `modeflow.transforms.Cells`. What lies beyond the range of a column gets the
        outermost value (whose score, taken over its own bin, is then a lower bound).
        """
        rounded = np.array(samples, dtype=np.float64)
        for i in self._dequantised:
            lattice = self.lattices[i]
            assert lattice is not None
            n = lattice.number(rounded[..., i])
            if lattice.low is not None or lattice.high is not None:
                n = np.clip(n, lattice.low, lattice.high)
            rounded[..., i] = lattice.value(n)
        for i, digits in enumerate(self.decimals):
            if digits is not None:
                rounded[..., i] = np.round(rounded[..., i], digits)
        return rounded


def _kind(lattice: Lattice | None) -> Kind:
    if lattice is None:
        return "continuous"
    return "integer" if lattice.whole else "lattice"


def matrix(values: np.ndarray, columns: int | None) -> np.ndarray:
    """The values as float64 of shape (N, D); DataError if they are not, or D differs from `columns`."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise DataError(f"a table needs shape (rows, columns), got {values.shape}")
    if columns is not None and values.shape[1] != columns:
        raise DataError(f"{columns} column names given for {values.shape[1]} columns")
    return values


def listing(names: Sequence[str]) -> str:
    """At most six of the names, quoted, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in list(names)[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
