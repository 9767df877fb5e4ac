"""Mixed tables from files and by name: whether DATA is one, its schema, and its parts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from modeflow.data._source import is_text_file
from modeflow.data.columns import TableSchema, read_mixed
from modeflow.data.mixed_sets import MIXED_SETS, dropped_columns, dropped_note
from modeflow.domains._mixed_rows import refuse_empty
from modeflow.domains._table_sources import column_names
from modeflow.errors import ConfigError, DataError

__all__ = [
    "MixedData",
    "MixedParts",
    "inferred",
    "is_mixed",
    "is_mixed_source",
    "load_mixed",
    "specs_of",
    "split_mixed",
]

#: Rows that a split leaves in each part.
_LEAST = 1


@dataclass(frozen=True)
class MixedData:
    """A table from a file: its cells, what was guessed of it, and what its columns are."""

    name: str
    frame: pl.DataFrame
    notes: tuple[str, ...]
    schema: TableSchema
    #: So many of the last rows are the published test part.
    test_rows: int = 0


@dataclass(frozen=True)
class MixedParts:
    """Training, validation and test rows."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.train.height, self.validation.height, self.test.height


def is_mixed_source(source: str | os.PathLike[str], settings: Mapping[str, Any]) -> bool:
    """Whether DATA is a file or a name with words, times or missing cells, in the columns that are chosen."""
    path = Path(source).expanduser()
    if path.is_file():
        if not (is_text_file(path) or path.suffix.lower() == ".parquet"):
            return False
    elif os.fspath(source) not in MIXED_SETS:
        return False
    try:
        return is_mixed(_as_found(_read(source, settings)[0]))
    except DataError:
        return False  # said by who reads it


def is_mixed(X: Any) -> bool:
    """Whether a table has more than numbers: levels, times, or missing cells."""
    if isinstance(X, np.ndarray):
        return X.dtype.kind == "f" and X.ndim == 2 and bool(np.isnan(X).any())
    if not hasattr(X, "columns") or not hasattr(X, "shape"):
        return False
    if isinstance(X, pl.DataFrame):
        numeric = all(t.is_numeric() or t == pl.Boolean for t in X.dtypes)
        return not numeric or any(_holes(column) for column in X)
    dtypes = list(getattr(X, "dtypes", []))
    kinds = [getattr(dtype, "kind", "O") for dtype in dtypes]
    if any(kind in "OMmUS" for kind in kinds) or any(str(d) in ("category", "string") for d in dtypes):
        return True
    return bool(np.asarray(X.isna()).any()) if hasattr(X, "isna") else True


def load_mixed(settings: Mapping[str, Any]) -> MixedData:
    """The table that the settings of a run name, see `Domain.load`."""
    source = settings["data"]
    if source is None:
        raise ConfigError("no data: give DATA, a file or a name listed by `modeflow data`")
    frame, notes = _read(source, settings)
    specs, dropped = specs_of(settings, frame.columns)
    notes += dropped
    numbers = np.arange(frame.height)
    known = None if Path(source).is_file() else MIXED_SETS.get(os.fspath(source))
    test_rows = 0 if known is None else known.test_rows
    if settings["rows"] is not None:
        first = frame.height - test_rows
        order = np.random.default_rng(settings["seed"]).permutation(first)
        taken = np.sort(np.append(order[: int(settings["rows"])], np.arange(first, frame.height)))
        frame, numbers = frame[taken], taken
    # Of all rows: a level that is rare is not to be unheard of because chance put it into another part.
    schema = inferred(frame, specs, settings)
    refuse_empty(schema.encode(frame), numbers)
    return MixedData(str(source), frame, (*notes, *schema.notes), schema, test_rows)


def specs_of(settings: Mapping[str, Any], columns: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What the settings of a run say of columns, by name, and what is noted of that.

    Raises:
        ConfigError: no such schema, or none.
    """
    source, specs = settings["data"], dict[str, Any]()
    if settings["schema"] is not None:
        path = Path(settings["schema"]).expanduser()
        if not path.is_file():
            raise ConfigError(f"there is no schema at '{path}': `modeflow schema DATA -o {path}` makes one")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"'{path}' is no schema: it is not text in UTF-8 ({error.reason})") from error
        specs = TableSchema.specs_of_yaml(text)
    if isinstance(settings["columns"], Mapping):
        specs |= settings["columns"]
    if column_names(settings["columns"]) is not None:
        return specs, []
    names = [name for name in dropped_columns(source, list(columns)) if name not in specs]
    specs |= dict.fromkeys(names, "drop")
    return specs, [dropped_note(source, names)] if names else []


def inferred(frame: pl.DataFrame, specs: Mapping[str, Any], settings: Mapping[str, Any]) -> TableSchema:
    """What the columns of the table of a run are.

    Raises:
        DataError: columns that contradict what is said, or that name rows.
    """
    schema = TableSchema.infer(frame, specs, str(settings["data"]))
    schema.check(_schema_remedy(settings["data"], settings["schema"]))
    return schema


def split_mixed(data: MixedData, settings: Mapping[str, Any]) -> MixedParts:
    """Its parts: by file, as published, or at random by the seed."""
    rest, parts = data.frame, {}
    if data.test_rows:
        rest, parts["test"] = rest[: -data.test_rows], rest[-data.test_rows :]
    for name in ("test", "validation"):
        if isinstance(settings[name], str):
            file = settings[name]
            header = settings["header"] if is_text_file(file) else None
            parts[name] = read_mixed(file, rest.columns, header=header, known=rest.columns)[0]
    order = np.random.default_rng(settings["seed"]).permutation(rest.height)
    taken = 0
    for name in ("test", "validation"):
        if name in parts:
            continue
        if not 0 < settings[name] < 1:
            raise ConfigError(f"{name}={settings[name]} must be a fraction between 0 and 1, or a file")
        count = max(_LEAST, round(settings[name] * rest.height))
        parts[name] = rest[np.sort(order[taken : taken + count])]
        taken += count
    rest = rest[np.sort(order[taken:])]
    if rest.height < _LEAST:
        raise DataError(f"{data.frame.height} rows are too few to split: none is left for training")
    return MixedParts(rest, parts["validation"], parts["test"])


def _read(source: Any, settings: Mapping[str, Any]) -> tuple[pl.DataFrame, list[str]]:
    """The table that the settings of a run name, and what was guessed of its file."""
    header = settings.get("header") if is_text_file(source) else None
    columns = column_names(settings.get("columns"))
    return read_mixed(source, columns, header=header, array=settings.get("array"))


def _schema_remedy(source: str, schema: str | None) -> str:
    """What to do on the command line about columns that name rows."""
    if schema is not None:
        return f"say 'drop', or what else they are, in '{schema}'"
    return (
        f"`modeflow schema {source} -o schema.yaml`, say 'drop' or what else they are there, and fit with "
        "--schema schema.yaml"
    )


def _holes(column: pl.Series) -> bool:
    return bool(column.null_count()) or (column.dtype.is_float() and bool(column.is_nan().any()))


def _as_found(frame: pl.DataFrame) -> pl.DataFrame:
    """Cells of text as numbers, where all of a column are."""
    out = []
    for column in frame:
        if column.dtype == pl.String:
            numbers = column.str.strip_chars().cast(pl.Float64, strict=False)
            known = column.len() - column.null_count()
            # A word among numbers is a slip, which is said as one.
            if known and numbers.len() - numbers.null_count() >= known / 2:
                column = numbers.fill_null(0.0) if numbers.null_count() > column.null_count() else numbers
        out.append(column)
    return pl.DataFrame(out)
