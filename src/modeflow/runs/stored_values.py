"""A sample of the rows of many tables, with values that it would lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from modeflow.data.columns.frames import cells_of
from modeflow.data.columns.remarks import stray_row
from modeflow.errors import DataError

__all__ = ["Sample", "agreed", "cast"]

#: Rows by which it is found out what columns are; all of a table that has no more.
ROWS = 131_072
#: Most distinct values of a column that are kept from all rows. More than the levels that a column may have.
VALUES = 2048

#: Column of a sample that says which file a row is of.
_FILE = "\0file"
_TEXT = (pl.String, pl.Categorical, pl.Enum)


class Sample:
    """Rows drawn from all that come by, and of every column its values where they are few, its ends where it
    is one of numbers.

    The rows of a file, between `begin` and `keep`, count as a whole or not at all.

    Arguments:
        seed: of the drawing.
    """

    def __init__(self, seed: int) -> None:
        self.types: dict[str, Any] = {}
        self.total = 0
        self._rng = np.random.default_rng([seed, 2])
        self._limit = 1.0
        self._frames: list[pl.DataFrame] = []
        self._keys: list[np.ndarray] = []
        self._files = self._held = 0
        #: By column its values, each with the first file that has it.
        self._values: dict[str, dict[Any, int]] = {}
        self._rows: dict[int, int] = {}
        self._many: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """A file begins."""
        self._new: list[tuple[pl.DataFrame, np.ndarray]] = []
        self._new_values: dict[str, set[Any]] = {}
        self._new_types, self._new_many, self._new_rows = dict(self.types), set(self._many), 0

    def add(self, frame: pl.DataFrame) -> None:
        """Rows of the file that has begun.

        Raises:
            DataError: a column of another type than in the files before.
        """
        self._new_types = agreed(self._new_types, frame)
        keys = self._rng.random(frame.height)
        taken = keys < self._limit
        of_file = pl.lit(self._files, dtype=pl.Int32).alias(_FILE)
        self._new.append((frame.filter(pl.Series(taken)).with_columns(of_file), keys[taken]))
        self._new_rows += frame.height
        if sum(len(k) for _, k in self._new) > 2 * ROWS:
            self._new = [_smallest([f for f, _ in self._new], [k for _, k in self._new], self._new_types)]
        for column in frame:
            self._note(column)

    def _note(self, column: pl.Series) -> None:
        name = column.name
        known = self._new_values.setdefault(name, set())
        if column.dtype.is_float():
            column = column.filter(column.is_finite())
        if column.dtype.is_numeric():
            ends = (column.min(), column.max())
            known |= {end for end in ends if end is not None}
        if name in self._new_many:
            return
        found = column.drop_nulls().unique()
        if len(found) > VALUES or len(known | (new := set(found.to_list()))) > VALUES:
            self._new_many.add(name)
            return
        known |= new

    def take_back(self) -> None:
        """The file is none that can be read."""
        self.begin()

    def keep(self) -> int:
        """The file has ended; its number, from 0."""
        self.types, self._many = self._new_types, self._new_many
        self.total += self._new_rows
        self._rows[self._files] = self._new_rows
        for name, values in self._new_values.items():
            known = self._values.setdefault(name, {})
            for value in values:
                known.setdefault(value, self._files)
            if len(known) > VALUES:
                self._many.add(name)
            if name in self._many and self.types[name].is_numeric():
                ends = min(known, default=None), max(known, default=None)
                self._values[name] = {end: known[end] for end in ends if end is not None}
        for frame, keys in self._new:
            self._frames.append(frame)
            self._keys.append(keys)
            self._held += len(keys)
        self.begin()
        if self._held > 2 * ROWS:
            self._compact()
        self._files += 1
        return self._files - 1

    def drop(self, file: int) -> None:
        """A file that was kept is left out after all."""
        self.total -= self._rows.pop(file)
        for i, frame in enumerate(self._frames):
            others = frame[_FILE] != file
            self._frames[i], self._keys[i] = frame.filter(others), self._keys[i][others.to_numpy()]
        for name, values in self._values.items():
            self._values[name] = {value: first for value, first in values.items() if first != file}

    def slips(self, but: Sequence[str] = ()) -> dict[int, str]:
        """Files with words in columns of numbers, or with infinite ones, and what is wrong.

        Arguments:
            but: columns of which it is said what they are.
        """
        found: dict[int, str] = {}
        sample, own = self.frame(), self._frames[0]
        for column in sample:
            name, cells = column.name, cells_of(column, column.name)
            if name in but:
                continue
            if column.dtype.is_float() and column.is_infinite().any():
                files = set(own.filter(own[name].is_infinite())[_FILE].to_list())
                found |= dict.fromkeys(files - found.keys(), f"column '{name}' holds infinite numbers")
            if cells.bad is None or stray_row(cells) is None:
                continue
            words = set(column.filter(pl.Series(cells.bad)).to_list())
            files = set(own.filter(own[name].is_in(list(words)))[_FILE].to_list())
            files |= {file for value, file in self._values.get(name, {}).items() if value in words}
            said = f"column '{name}' holds numbers, and text such as {min(words)!r}: correct these cells"
            found |= dict.fromkeys(files - found.keys(), said)
        return found

    def _compact(self) -> None:
        frame, keys = _smallest(self._frames, self._keys, self.types)
        self._frames, self._keys, self._held = [frame], [keys], len(keys)
        if len(keys) >= ROWS:
            self._limit = min(self._limit, float(keys.max()))

    def frame(self, more: Mapping[str, Sequence[Any]] | None = None) -> pl.DataFrame:
        """The sample; of all rows where they are no more than `ROWS`, else with the values that it lacks.

        Arguments:
            more: values by column that it must hold as well.
        """
        self._compact()
        frame = self._frames[0].drop(_FILE)
        if frame.height == self.total:
            return frame
        columns = []
        for column in frame:
            values = set(self._values.get(column.name, ())) | set((more or {}).get(column.name, ()))
            columns.append(_holding(column, values))
        return pl.DataFrame(columns)


def agreed(types: Mapping[str, Any], frame: pl.DataFrame) -> dict[str, Any]:
    """The types of columns, of tables before and of one more.

    Raises:
        DataError: a column of words in one and of numbers in another.
    """
    found = dict(types)
    for column in frame:
        name, new, old = column.name, column.dtype, types.get(column.name, pl.Null())
        if old == pl.Null:
            found[name] = new
        elif new in (old, pl.Null):
            pass
        elif old.is_numeric() and new.is_numeric():
            found[name] = pl.Int64() if old.is_integer() and new.is_integer() else pl.Float64()
        elif isinstance(old, _TEXT) and isinstance(new, _TEXT):
            found[name] = pl.String()
        elif isinstance(old, pl.Datetime) and isinstance(new, pl.Datetime) and old.time_zone == new.time_zone:
            found[name] = pl.Datetime("us", old.time_zone)
        else:
            raise DataError(f"column '{name}' is of type {new}, and {old} in files before: convert it")
    return found


def cast(frame: pl.DataFrame, types: Mapping[str, Any]) -> pl.DataFrame:
    """A table with its columns of these types."""
    other = [c.cast(types[c.name]) for c in frame if c.dtype != types.get(c.name, c.dtype)]
    return frame.with_columns(other) if other else frame


def _smallest(
    frames: list[pl.DataFrame], keys: list[np.ndarray], types: Mapping[str, Any]
) -> tuple[pl.DataFrame, np.ndarray]:
    """The rows with the smallest keys, in their order."""
    order = np.concatenate(keys)
    frame = pl.concat([cast(each, types) for each in frames], rechunk=True)
    if len(order) <= ROWS:
        return frame, order
    kept = np.sort(np.argpartition(order, ROWS - 1)[:ROWS])
    return frame[kept].rechunk(), order[kept]


def _holding(column: pl.Series, values: set[Any]) -> pl.Series:
    """A column with these values too, in the place of some cells whose value it holds elsewhere."""
    there = set(column.unique().to_list())
    lacking = sorted((v for v in values if v not in there), key=lambda v: (str(type(v)), v))
    places = np.flatnonzero(~column.is_first_distinct().to_numpy())
    places = places[np.random.default_rng(0).permutation(len(places))[: len(lacking)]]
    if not len(places):
        return column
    kind = column.dtype
    plain = column.cast(pl.String) if isinstance(kind, _TEXT) else column.clone()
    new = pl.Series(column.name, lacking[: len(places)], dtype=plain.dtype)
    return plain.scatter(places, new).cast(kind)
