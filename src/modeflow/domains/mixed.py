"""Rows of a table as people have them: numbers, levels, times, and cells that are missing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from torch import Tensor

from modeflow.data._source import STDIN, is_text_file
from modeflow.data.columns import IMPOSSIBLE, Feature, TableSchema, read_mixed
from modeflow.data.columns.base import shown
from modeflow.data.columns.files import check_frame_file, plain_rows
from modeflow.data.columns.frames import frame_kind
from modeflow.data.columns.writing import TableWriter
from modeflow.domains._mixed_rows import given_cells, independent_columns, refuse_empty, strange_text
from modeflow.domains._mixed_sources import (
    MixedData,
    MixedParts,
    is_mixed,
    is_mixed_source,
    load_mixed,
    split_mixed,
)
from modeflow.domains._table_sources import column_names, refused
from modeflow.domains.base import RowsToScore, Trivial
from modeflow.domains.rows import RowDomain
from modeflow.errors import ConfigError, DataError
from modeflow.nets.randomness import seeded
from modeflow.transforms.mixed import MixedColumns

__all__ = ["MixedData", "MixedDomain", "MixedParts", "independent_columns", "refuse_empty"]


@dataclass(frozen=True)
class MixedDomain(RowDomain):
    """Columns of all kinds (`TableSchema`)."""

    schema: TableSchema

    name: ClassVar[str] = "mixed"
    defaults: ClassVar[Mapping[str, Any]] = {"columns": None, "array": None, "header": None, "schema": None}
    block_rows: ClassVar[int] = 4096
    #: There is no space between levels: one state is then the number to beat.
    distances: ClassVar[bool] = False

    # -- sources ---------------------------------------------------------------------------------

    @classmethod
    def accepts(cls, source: Any, settings: Mapping[str, Any]) -> bool:
        """Whether DATA is a file with words, times or missing cells in it, in the columns that are chosen."""
        if source is None or source == STDIN:
            return False
        return is_mixed_source(source, settings)

    @staticmethod
    def wants(X: Any) -> bool:
        """Whether a table has more than numbers: levels, times, or missing cells."""
        return is_mixed(X)

    @classmethod
    def load(cls, settings: Mapping[str, Any]) -> MixedData:
        return load_mixed(settings)

    @classmethod
    def split(cls, data: MixedData, settings: Mapping[str, Any]) -> MixedParts:
        return split_mixed(data, settings)

    @classmethod
    def prepare(cls, estimator: Any, data: MixedData) -> None:
        # Whole: a part of the rows may look like another kind.
        estimator.set_params(**cls(data.schema).said())

    @classmethod
    def some(cls, part: pl.DataFrame, count: int) -> pl.DataFrame:
        if part.height <= count:
            return part
        return part[np.sort(np.random.default_rng(0).permutation(part.height)[:count])]

    def read(self, source: str, settings: Mapping[str, Any], **how: Any) -> RowsToScore:
        header, columns = how.get("header"), how.get("columns") or settings["columns"]
        if header is None and is_text_file(source):
            header = settings["header"]
        names = [column.name for column in self.schema.columns]
        frame, notes = read_mixed(source, column_names(columns), header=header, known=names)
        self.schema.encode(frame[:0] if frame.height else frame, "score")  # other columns are said at once
        empty = np.zeros(frame.height, dtype=bool)

        def check(part: np.ndarray) -> None:
            empty[part] = np.isnan(self.schema.encode(frame[part], "score")).all(1)

        bad = refused(check, np.arange(frame.height))
        rows = np.delete(np.arange(frame.height), list(bad))
        if not len(rows):
            row, why = min(bad.items())
            raise DataError(f"'{source}': none of {frame.height} rows can be scored; row {row + 1}: {why}")
        bad = dict(sorted(bad.items()))
        return RowsToScore(frame[rows], rows, frame.height, bad, tuple(notes), np.flatnonzero(empty))

    # -- what a model is fitted to ---------------------------------------------------------------

    @classmethod
    def learn(cls, estimator: Any, X: Any) -> tuple[Self, np.ndarray]:
        said = estimator.columns
        schema = TableSchema.infer(X, said if isinstance(said, Mapping) else None)
        values = schema.encode(X)
        refuse_empty(values, np.arange(len(values)))
        for note in schema.notes:
            if estimator.verbose:
                warnings.warn(note, UserWarning, stacklevel=6)
        domain = cls(schema)
        domain.remember(estimator)
        return domain, values

    def validate(self, estimator: Any, X: Any) -> np.ndarray:
        return self._encoded(X)

    def validation(self, X: Any) -> np.ndarray:
        """Rows with a value that its column does not have would end every training before it began."""
        values = self._encoded(X)
        possible = (values != IMPOSSIBLE).all(1)
        if not possible.any():
            raise DataError(f"none of {len(values)} validation rows has values of its columns alone")
        return values[possible]

    def _encoded(self, X: Any) -> np.ndarray:
        values, strange = self._with_strange(X)
        if strange:
            warnings.warn(
                f"{strange_text(strange)} have no probability (minus infinity)", UserWarning, stacklevel=6
            )
        for name, rows in strange.items():
            if name not in self.schema.names:
                values[rows] = IMPOSSIBLE
        empty = np.isnan(values).all(1)
        if empty.any():
            warnings.warn(
                f"{empty.sum()} of {len(values)} rows have no cell at all, first data row "
                f"{empty.argmax() + 1}: their log-density is 0, that of nothing, and does not say that they "
                "are usual",
                UserWarning,
                stacklevel=6,
            )
        return values

    def _with_strange(self, X: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Rows encoded, and by column the rows with a value that it cannot have; of constant columns it is
        said there alone."""
        values, found = self.schema.encode_apart(X)
        for name, column in zip(self.schema.names, values.T, strict=True):
            if (rows := column == IMPOSSIBLE).any():
                found[name] = rows
        return values, {c.name: found[c.name] for c in self.schema.columns if c.name in found}

    def known(
        self, X: Any, unseen: str = "error", besides: str | None = None, numbers: np.ndarray | None = None
    ) -> np.ndarray:
        if unseen not in ("error", "missing"):
            raise ConfigError(f"unseen='{unseen}' is not known: use 'error' or 'missing'")
        values, strange = self._with_strange(X)
        strange.pop(besides or "", None)
        if not strange:
            return values
        if unseen == "error":
            name, rows = next(iter(strange.items()))
            row = int(rows.argmax())
            raise DataError(
                f"column '{name}', data row {(row if numbers is None else int(numbers[row])) + 1} holds "
                f"{shown(self.schema.cell(X, name, row))}, a value that it did not have when the model was "
                "fitted, and nothing follows from it: correct it, leave the cell empty, or have such cells "
                "taken as missing (unseen='missing', --unseen missing)"
            )
        warnings.warn(
            f"{strange_text(strange)} have cells that are taken as missing", UserWarning, stacklevel=3
        )
        return np.where(values == IMPOSSIBLE, np.nan, values)

    @property
    def names(self) -> tuple[str, ...]:
        return self.schema.names

    def aside(self, name: str) -> str | None:
        return next((c.spec for c in self.schema.columns if c.name == name), None)

    def given_cells(self, column: int, values: Sequence[Any]) -> np.ndarray:
        return given_cells(self.schema.modelled[column], values)

    def filled(self, values: np.ndarray, X: Any) -> Any:
        return self.schema.filled(values, X)

    def cells(self, column: int, values: np.ndarray) -> np.ndarray:
        return self.schema.modelled[column].decode(values)

    def middle(self, column: int, draws: np.ndarray) -> np.ndarray:
        return self.schema.modelled[column].middle(draws)

    def said(self) -> dict[str, Any]:
        return {"columns": {column.name: column.said() for column in self.schema.columns}}

    def check_training(self, values: np.ndarray) -> None:
        for name, feature, column in zip(self.schema.names, self.schema.features(), values.T, strict=True):
            rest = column[~np.isnan(column) & ~np.isin(column, feature.atoms)]
            if not feature.levels and (not len(rest) or rest.min() == rest.max()):
                raise DataError(
                    f"column '{name}' is constant in the training part: drop it, say 'categorical', or pass "
                    "validation="
                )

    def from_tensor(self, x: Tensor) -> Any:
        return self.schema.decode(x.cpu().numpy())

    def preprocessing(self) -> MixedColumns:
        return MixedColumns([feature.cell for feature in self.schema.features()])

    def fit_preprocessing(self, transform: Any, rows: Tensor, weight: Tensor | None, bare: bool) -> None:
        transform.fit(rows, weight)

    def trivial(self, train: np.ndarray, rows: np.ndarray, weight: np.ndarray | None) -> Trivial:
        layer = self.preprocessing()
        with seeded(0):
            layer.fit(self.to_tensor(train), None)
            seen, _ = layer(self.to_tensor(train))
            u, volume = layer(self.to_tensor(rows))
        found = independent_columns(layer, seen, u, weight) + volume.numpy()
        return Trivial(
            found,
            "independent columns",
            1.0,
            0.01 * rows.shape[1],
            "nats per validation row: train for longer (max_epochs), or on more rows",
        )

    def to_dict(self) -> dict[str, Any]:
        return self.schema.to_dict()

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        return cls(TableSchema.from_dict(content))

    def remember(self, estimator: Any) -> None:
        estimator.n_features_in_ = len(self.schema.columns)
        if self.schema.frame != "numpy":
            estimator.feature_names_in_ = np.array([c.name for c in self.schema.columns], dtype=object)

    # -- results and samples ---------------------------------------------------------------------

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of what a model sees: the columns, and a flag for every one with atoms."""
        flags = (f"{f.name}_atom" for f in self.schema.features() if f.atoms)
        return (*self.schema.names, *flags)

    @property
    def facts(self) -> dict[str, Any]:
        kinds = {column.name: column.spec for column in self.schema.columns}
        return {"columns": list(self.schema.names), "kinds": kinds}

    def features(self) -> tuple[Feature, ...]:
        return self.schema.features()

    def scale(self, values: np.ndarray) -> np.ndarray:
        spread = np.nanstd(np.where(np.isfinite(values), values, np.nan), axis=0)
        return np.where(spread > 0, spread, 1.0)

    def write(self, out: str, samples: Any, z: np.ndarray | None) -> tuple[str, dict[str, Any]]:
        check_frame_file(out)
        return self.write_parts(out, iter([(samples, z)]))

    def add_samples(self, writer: TableWriter, samples: Any, z: np.ndarray | None) -> list[str]:
        frame = self._with_states(samples, z)
        writer.add_frame(frame)
        return list(frame.columns)

    def listed(self, samples: Any, z: np.ndarray | None) -> dict[str, Any]:
        frame = self._with_states(samples, z)
        return {"columns": frame.columns, "rows": plain_rows(frame)}

    def as_polars(self, samples: Any, z: np.ndarray | None) -> pl.DataFrame:
        return self._with_states(samples, z)

    def from_cells(self, columns: Mapping[str, Any], holes: bool = False) -> dict[str, Any]:
        return dict(columns)

    def _with_states(self, samples: Any, z: np.ndarray | None) -> pl.DataFrame:
        frame = samples
        if frame_kind(frame) != "polars":
            frame = self.schema.decode(self.schema.encode(samples, "score"), frame="polars")
        if z is None or not z.size:
            return frame
        if z.ndim == 1:
            return frame.with_columns(pl.Series("state", z))
        names = [f"state_{name}" for name in self.feature_names]
        return frame.with_columns([pl.Series(n, column) for n, column in zip(names, z.T, strict=True)])
