"""Rows of a table: named columns of numbers, some on lattices."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import torch
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch import Tensor

from modeflow.data import Dataset, Schema, Split, Table, check_fit_table, resolve
from modeflow.data.columns import Feature
from modeflow.data.columns.base import shown
from modeflow.data.columns.writing import TableWriter
from modeflow.data.schema import listing
from modeflow.data.spread import mean_and_spread
from modeflow.data.table import check_finite, default_columns
from modeflow.domains._frames import as_frame, frame_kind, frame_of, refuse_text
from modeflow.domains._table_rows import independent_gaussians, no_number, numbers_of_cells
from modeflow.domains._table_sources import READING, column_names, reading_of, rows_to_score, split_of
from modeflow.domains._truth import truth_of
from modeflow.domains.base import Parts, RowsToScore, Trivial
from modeflow.domains.rows import RowDomain
from modeflow.errors import ConfigError, DataError
from modeflow.nets.randomness import seeded
from modeflow.transforms import Cells, Columns, Composite
from modeflow.transforms.base import Transform
from modeflow.transforms.columns import lost_digits

__all__ = ["TableDomain", "independent_gaussians"]

#: Training rows among which lost digits are looked for.
_DIGIT_ROWS = 20_000
#: Nats a column that a flow may lose on data that are Gaussian.
_LOST = 0.01

#: Who takes columns of other kinds.
_OTHERS = "fit NVF with latent='auto' or 'tree', which takes words, times and missing cells"


@dataclass(frozen=True)
class TableDomain(RowDomain):
    """Columns with their lattices (`Schema`), and the kind of data frame that was fitted, if it was one."""

    schema: Schema
    frame: str | None = None
    named: bool = False

    name: ClassVar[str] = "table"
    defaults: ClassVar[Mapping[str, Any]] = {
        "columns": None,
        "array": None,
        "header": None,
        "drop_missing": False,
        "skip_text": False,
        "detector": True,
    }
    block_rows: ClassVar[int] = 8192
    stacks: ClassVar[bool] = True

    # -- sources ---------------------------------------------------------------------------------

    @classmethod
    def accepts(cls, source: Any, settings: Mapping[str, Any]) -> bool:
        return True

    @classmethod
    def check(cls, settings: Mapping[str, Any]) -> None:
        for key, allowed in {**READING, "detector": (True, False)}.items():
            if settings[key] not in allowed:
                raise ConfigError(f"{key} must be true or false, received {settings[key]!r}")

    @classmethod
    def load(cls, settings: Mapping[str, Any]) -> Dataset:
        source = settings["data"]
        if source is None:
            raise ConfigError("no data: give DATA, a file or a name listed by `modeflow data`")
        columns = column_names(settings["columns"])
        read = reading_of(source, settings)
        seed = settings["seed"]
        return resolve(
            source, columns=columns, array=settings["array"], n=settings["rows"], seed=seed, **read
        )

    @classmethod
    def split(cls, data: Dataset, settings: Mapping[str, Any]) -> Split:
        return split_of(data, settings)

    @classmethod
    def notes(cls, data: Dataset, parts: Any) -> list[str]:
        return list(dict.fromkeys(note for part in (data.table, *parts) for note in part.notes))

    @classmethod
    def rows(cls, part: Table) -> Any:
        """As a data frame, so that an estimator learns the names of the columns."""
        return frame_of(part)

    @classmethod
    def some(cls, part: Table, count: int) -> Table:
        if len(part) <= count:
            return part
        return part.take(np.sort(np.random.default_rng(0).permutation(len(part))[:count]))

    def read(self, source: str, settings: Mapping[str, Any], **how: Any) -> RowsToScore:
        return rows_to_score(source, settings, self.schema, self.named, **how)

    # -- what a model is fitted to ---------------------------------------------------------------

    @classmethod
    def learn(cls, estimator: Any, X: Any) -> tuple[Self, np.ndarray]:
        values = _matrix(estimator, X, reset=True)
        names = _names(estimator)
        schema = Schema.infer(values, names, estimator.dequantize)
        check_fit_table(values, names, schema=schema)
        return cls(schema, frame_kind(X), hasattr(estimator, "feature_names_in_")), values

    def validate(self, estimator: Any, X: Any) -> np.ndarray:
        return self.schema.validate(_matrix(estimator, X, reset=False))

    def validation(self, X: Any) -> np.ndarray:
        names = getattr(X, "columns", None)
        refuse_text(X, "validation")
        values = check_array(X, dtype=np.float64, ensure_all_finite=False, input_name="validation")
        return self.schema.validate(values, None if names is None else [str(name) for name in names])

    @property
    def names(self) -> tuple[str, ...]:
        return self.schema.columns

    def given_cells(self, column: int, values: Sequence[Any]) -> np.ndarray:
        name, lattice = self.names[column], self.schema.lattices[column]
        try:
            found = np.array([math.nan if v is None or v == "" else float(v) for v in values])
        except (TypeError, ValueError) as error:
            raise DataError(f"column '{name}' is given {shown(no_number(values))}, not a number") from error
        if np.isinf(found).any():
            raise DataError(f"column '{name}' is given an infinite number: give a finite one")
        if np.isnan(found).all():
            raise DataError(f"column '{name}' is given no value: leave it out to have it drawn")
        off = np.zeros(0) if lattice is None else found[lattice.misses(found)]
        if lattice is not None and len(off):
            near = float(lattice.value(lattice.number(off[:1]))[0])
            raise DataError(
                f"column '{name}' is given {off[0]:.12g}, and has steps of {lattice.step:g}: the nearest "
                f"value is {near:.12g}"
            )
        return found

    def known(
        self, X: Any, unseen: str = "error", besides: str | None = None, numbers: np.ndarray | None = None
    ) -> np.ndarray:
        if unseen not in ("error", "missing"):
            raise ConfigError(f"unseen='{unseen}' is not known: use 'error' or 'missing'")
        return self.schema.validate(*_with_holes(X), holes=True)

    def filled(self, values: np.ndarray, X: Any) -> Any:
        given, names = _with_holes(X)
        if names is not None:
            given = given[:, [names.index(name) for name in self.names]]
        found = as_frame(
            np.where(np.isnan(given), self.schema.quantize(values), given), self.schema, self.frame
        )
        if self.frame == "pandas" and frame_kind(X) == "pandas":
            found.index = X.index
        return found

    def completed(self, values: np.ndarray, given: np.ndarray) -> Any:
        # A cell that is given may lie beyond the range that draws keep to.
        return as_frame(
            np.where(np.isnan(given), self.schema.quantize(values), given), self.schema, self.frame
        )

    def cells(self, column: int, values: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(values), len(self.names)))
        rows[:, column] = values
        return self.schema.quantize(rows)[:, column]

    def middle(self, column: int, draws: np.ndarray) -> np.ndarray:
        return np.asarray(draws.mean(0))

    def said(self) -> dict[str, Any]:
        pairs = zip(self.schema.columns, self.schema.lattices, strict=True)
        return {"dequantize": {name: "none" if cells is None else cells.step for name, cells in pairs}}

    def confirm(self, blocks: Iterator[np.ndarray]) -> None:
        (low, high), names = self.schema.edges, self.schema.columns
        for values in blocks:
            for j, lattice in enumerate(self.schema.lattices):
                if lattice is None:
                    continue
                x = values[:, j]
                odd = lattice.misses(x) | (x < low[j]) | (x > high[j])
                if odd.any():
                    raise DataError(
                        f"column '{names[j]}' was taken for steps of {lattice.step:g} within {low[j]:g} "
                        f"and {high[j]:g}, as a sample of the rows has them, and a row holds "
                        f"{x[odd.argmax()]:g}: "
                        f"correct it, or say what the column is (--set 'dequantize={{{names[j]}: none}}')"
                    )

    def check_training(self, values: np.ndarray) -> None:
        constant = values.min(0) == values.max(0)
        if constant.any():  # differs in the held-out rows alone: no scale can be learned
            raise DataError(
                f"column '{self.schema.columns[int(constant.argmax())]}' is constant in the training part; "
                "drop it or pass validation="
            )

    def from_tensor(self, x: Tensor) -> Any:
        return as_frame(self.schema.quantize(x.cpu().numpy()), self.schema, self.frame)

    def preprocessing(self) -> Transform:
        columns = Columns(self.schema.dim)
        return Composite([self._cells(), columns]) if self.schema.lattice_columns else columns

    def fit_preprocessing(self, transform: Any, rows: Tensor, weight: Tensor | None, bare: bool) -> None:
        """Set the maps of the columns; pixels (`bare`) have no bounds, whose scales would differ."""
        low, high = self.schema.edges
        edges = None if bare else (torch.from_numpy(low), torch.from_numpy(high))
        steps, offsets = (torch.from_numpy(each) for each in (self.schema.steps, self.schema.offsets))
        columns = transform
        if self.schema.lattice_columns:
            cells, columns = transform.transforms
            rows, _ = cells(rows)
        columns.fit(rows, weight, steps, edges, None if bare else offsets)

    def _cells(self) -> Cells:
        return Cells(torch.from_numpy(self.schema.steps), torch.from_numpy(self.schema.offsets))

    def warn(self, values: np.ndarray, precision: str, bare: bool) -> None:
        """Name the continuous columns whose values float32, in which models are trained, cannot tell apart;
        refuse whole numbers taken for continuous pixels."""
        if bare and not self.schema.lattice_columns and (values == np.floor(values)).all():
            raise DataError(
                "pixels are whole numbers, and with dequantize='none' they would be scored by a density that "
                "has no bound there: leave dequantize at 'auto', or use ImageDensity"
            )
        rows, transform = self.to_tensor(values[:_DIGIT_ROWS]), self.preprocessing()
        with seeded(0):
            self.fit_preprocessing(transform, rows, None, bare)
        columns = lost_digits(transform.eval(), rows)
        lost = [self.schema.columns[j] for j in columns if self.schema.lattices[j] is None]
        if lost and precision != "64-true":
            warnings.warn(
                f"more than half of the distinct values are lost to float32 in {listing(lost)}: they lie too "
                "close for the range of the column. Train with training={'precision': '64-true'}, or split "
                "the column in parts",
                UserWarning,
                stacklevel=5,
            )

    def trivial(self, train: np.ndarray, rows: np.ndarray, weight: np.ndarray | None) -> Trivial:
        volume: Any = 0.0
        if self.schema.lattice_columns:  # as dequantised as the model's own rows
            with seeded(0):
                cells = self._cells()
                train = cells(self.to_tensor(train))[0].numpy()
                rows, volume = (each.numpy() for each in cells(self.to_tensor(rows)))
        return Trivial(
            independent_gaussians(train, rows, weight) + volume,
            "Gaussians of independent columns",
            1.0,
            _LOST * rows.shape[1],
            "nats per validation row: train for longer (max_epochs), with another flow, or on more rows",
        )

    def to_dict(self) -> dict[str, Any]:
        return {"schema": self.schema.to_dict(), "frame": self.frame, "named": self.named}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(Schema.from_dict(content["schema"]), content["frame"], bool(content["named"]))

    def remember(self, estimator: Any) -> None:
        estimator.n_features_in_ = self.schema.dim
        if self.named:
            estimator.feature_names_in_ = np.array(self.schema.columns, dtype=object)

    # -- results and samples ---------------------------------------------------------------------

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of what a model sees."""
        return tuple(self.schema.columns)

    @property
    def facts(self) -> dict[str, Any]:
        return {"columns": list(self.schema.columns)}

    def features(self) -> tuple[Feature, ...]:
        schema, (low, high) = self.schema, self.schema.edges
        return tuple(
            Feature(name, kind, step=step, offset=offset, low=a, high=b)
            for name, kind, step, offset, a, b in zip(
                schema.columns, schema.kinds, schema.steps, schema.offsets, low, high, strict=True
            )
        )

    def scale(self, values: np.ndarray) -> np.ndarray:
        return mean_and_spread(values, None)[1]

    def measures(self, estimator: Any, data: Dataset, parts: Parts) -> dict[str, Any]:
        known = data.toy is not None and data.toy.has_density
        return {"truth": truth_of(estimator, data.toy, parts.test)} if known else {}

    @staticmethod
    def measure_lines(result: Mapping[str, Any]) -> list[str]:
        truth = result.get("truth")
        if not truth:
            return []
        lines = [
            f"gap to truth  {truth['gap']:+.4f} ± {truth['gap_standard_error']:.4f} nats on the test rows"
        ]
        if "bridge_mass" in truth:
            lines.append(
                f"bridge mass   {100 * truth['bridge_mass']:.3f} % "
                f"(truth {100 * truth['true_bridge_mass']:.3f} %), "
                f"modes found {truth['modes_found']} of {truth['modes']}"
            )
        return lines

    def write(self, out: str, samples: Any, z: np.ndarray | None) -> tuple[str, dict[str, Any]]:
        return self.write_parts(out, iter([(samples, z)]))

    def add_samples(self, writer: TableWriter, samples: Any, z: np.ndarray | None) -> list[str]:
        rows, columns, whole = self._with_state(samples, z)
        writer.add(rows, columns, whole)
        return list(columns)

    def listed(self, samples: Any, z: np.ndarray | None) -> dict[str, Any]:
        rows, columns, whole = self._with_state(samples, z)
        integers = [name in whole for name in columns]
        plain = [
            [int(v) if w else v for v, w in zip(row, integers, strict=True)]  # whole numbers as such
            for row in rows.tolist()
        ]
        return {"columns": list(columns), "rows": plain}

    def as_polars(self, samples: Any, z: np.ndarray | None) -> pl.DataFrame:
        rows, columns, whole = self._with_state(samples, z)
        found = {name: pl.Series(name, column) for name, column in zip(columns, rows.T, strict=True)}
        return pl.DataFrame({n: c.cast(pl.Int64) if n in whole else c for n, c in found.items()})

    def from_cells(self, columns: Mapping[str, Any], holes: bool = False) -> Any:
        self.schema.validate(np.zeros((0, len(columns))), list(columns))
        values = np.column_stack([numbers_of_cells(columns[name], name) for name in self.schema.columns])
        remedy = "the model takes no missing cells"
        check_finite(values, self.schema.columns, "the table", remedy, holes)
        table = Table(values, self.schema.columns)
        return frame_of(table) if self.named else table.values

    def _with_state(
        self, samples: Any, z: np.ndarray | None
    ) -> tuple[np.ndarray, Sequence[str], Sequence[str]]:
        rows = np.asarray(samples, dtype=np.float64)
        columns, whole = self.schema.columns, self.schema.integer_columns
        if z is None:
            return rows, columns, whole
        if z.ndim == 2 and np.issubdtype(z.dtype, np.integer):  # a state of every column
            names = [f"state_{name}" for name in self.feature_names]
            return np.column_stack([rows, z]), (*columns, *names), (*whole, *names)
        if z.ndim == 2:  # a place on a continuous latent
            return np.column_stack([rows, z]), (*columns, *(f"z{j}" for j in range(z.shape[1]))), whole
        name = "state" if "state" not in columns else "modeflow_state"
        return np.column_stack([rows, z]), (*columns, name), (*whole, name)


def _matrix(estimator: Any, X: Any, reset: bool) -> np.ndarray:
    others = f", or {_OTHERS}" if reset else ""
    refuse_text(X, "X", f"encode as numbers or leave out{others}")
    values = validate_data(
        estimator,
        X,
        reset=reset,
        dtype=np.float64,
        ensure_all_finite=False,
        ensure_min_samples=2 if reset else 1,
    )
    check_finite(values, _names(estimator), "X", f"drop these rows or columns{others}")
    return np.asarray(values)


def _with_holes(X: Any) -> tuple[np.ndarray, list[str] | None]:
    """Rows of which cells may be missing, ``(N, D)``, and the names of their columns, if they have some."""
    names = getattr(X, "columns", None)
    refuse_text(X, "X")
    values = check_array(X, dtype=np.float64, ensure_all_finite=False, input_name="X")
    return values, None if names is None else [str(name) for name in names]


def _names(estimator: Any) -> tuple[str, ...]:
    names = getattr(estimator, "feature_names_in_", None)
    return default_columns(estimator.n_features_in_) if names is None else tuple(map(str, names))
