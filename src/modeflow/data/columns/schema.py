"""The kinds of all columns of a table: found, said, stored, and used both ways between frames and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modeflow.data.columns.aside import Constant, Drop, Identifier, refusal
from modeflow.data.columns.base import IMPOSSIBLE, KINDS, Column, Feature, Unseen
from modeflow.data.columns.building import Decoded, build_frame, put_back
from modeflow.data.columns.cells import Cells
from modeflow.data.columns.frames import FRAMES, frame_kind, read_frame
from modeflow.data.columns.guess import guess
from modeflow.data.columns.learn import learn, taken
from modeflow.data.columns.levels import Levels
from modeflow.data.columns.numeric import Numeric
from modeflow.data.columns.remarks import Remark, about, gathered
from modeflow.data.columns.specs import AUTO, parse_spec
from modeflow.data.columns.yaml_text import read_yaml, write_yaml
from modeflow.data.schema import listing
from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["TableSchema"]


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, in its order.

    Arguments:
        columns: all of them; those that are modelled, D, are the columns of an encoded table.
        frame: the kind of frame it was: "pandas", "polars", "arrow", "numpy" or "dict".
        notes: what was guessed, one sentence each.

    Raises:
        ConfigError: a name that occurs twice, or an unknown kind of frame.
    """

    columns: tuple[Column, ...]
    frame: str = "polars"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ConfigError(
                f"the schema names column '{next(n for n in names if names.count(n) > 1)}' twice"
            )
        if self.frame not in FRAMES:
            raise ConfigError(
                f"frame '{self.frame}' is not known{nearest(self.frame, FRAMES)} ({', '.join(FRAMES)})"
            )

    # -- parts -----------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        names = [column.name for column in self.columns]
        raise ConfigError(f"the schema has no column '{name}'{nearest(name, names)} ({listing(names)})")

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that a model sees."""
        return tuple(column for column in self.columns if column.modelled)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modelled columns."""
        return tuple(column.name for column in self.modelled)

    @property
    def dim(self) -> int:
        """Number of modelled columns, D."""
        return len(self.modelled)

    def features(self) -> tuple[Feature, ...]:
        """What the modelled columns are to a model, in the order of an encoded table."""
        return tuple(column.feature() for column in self.modelled)

    def describe(self) -> list[str]:
        """A line for every column."""
        return [column.describe() for column in self.columns]

    # -- from data -------------------------------------------------------------------------------

    @classmethod
    def infer(
        cls, frame: Any, columns: Mapping[str, Any] | None = None, source: str | None = None
    ) -> TableSchema:
        """Find out what the columns of a table are.

        Arguments:
            frame: a data frame (pandas, polars, pyarrow), an array (rows, columns), or a dict of columns.
            columns: what is known of some, by name: a kind (``"drop"``, ``"categorical"``,
                ``"circular(360)"``) or a mapping of its options, see `parse_spec`, of which the rest is found
                out; or a `Column`, which is taken as it stands. The other columns are found out.
            source: the file that the frame was read from, if it was, which notes and errors name.

        Raises:
            ConfigError: an unknown name, kind or option.
            DataError: no table, or cells that contradict what was said.
        """
        found, notes = read_frame(frame, source)
        kind, table = frame_kind(frame), "the table" if source is None else f"'{source}'"
        if not found:
            raise DataError(f"{table} has no columns")
        if not len(next(iter(found.values()))):
            raise DataError(f"{table} has no rows")
        said = dict(columns or {})
        for name in said:
            if name not in found:
                hint = nearest(str(name), found) or f"; the columns are {listing(list(found))}"
                raise ConfigError(f"columns: {table} has no column '{name}'{hint}")
        blanks = any(c.text is not None and not c.spells_numbers and c.missing.any() for c in found.values())
        known: list[Column] = []
        marks: dict[str, tuple[str, int]] = {}
        told: list[tuple[str, Remark]] = []
        for name, cells in found.items():
            given = _whole(said.get(name, AUTO), name)
            word, options = (given.kind, {}) if isinstance(given, Column) else parse_spec(given, name)
            if isinstance(given, Column):
                column = taken(given, cells, name)
                column = replace(column, about=about(cells, column))
            elif word == AUTO:
                guessed = guess(cells, name, blanks)
                column = guessed.column
                if options:
                    column = learn(column.kind, cells, name, options)
                    column = replace(column, about=about(cells, column))
                else:
                    told += [(name, remark) for remark in guessed.remarks]
                    if guessed.marks:
                        marks[name] = guessed.marks
            else:
                column = learn(word, cells, name, options)
                column = replace(column, about=about(cells, column))
            known.append(column)
        # Of a schema that says everything the notes were made when it was found.
        all_said = all(isinstance(_whole(said.get(name, AUTO), name), Column) for name in found)
        notes = [*([] if all_said else notes), *gathered(told)]
        if marks:
            notes = [*notes, _about_marks(marks, blanks)]
        return cls(tuple(known), kind, tuple(notes))

    # -- rows ------------------------------------------------------------------------------------

    def check(self, remedy: str = "") -> None:
        """Refuse a schema that no model can be fitted with.

        Arguments:
            remedy: what to do with columns that name rows, where it is not to be said in Python.

        Raises:
            DataError: columns that name rows (all are named), or none to model.
        """
        names = [column for column in self.columns if isinstance(column, Identifier)]
        if names:
            raise DataError(refusal(list(names), remedy))
        if not self.dim:
            raise DataError("the schema leaves no column to model: all are constant or dropped")

    def encode(self, frame: Any, unseen: Unseen = "error") -> np.ndarray:
        """The modelled columns of a table as float64 ``(N, D)``, see `Column.encode`.

        Arguments:
            frame: of any kind, its columns in any order; an array without names in that of the schema.
                Constant and dropped columns may be left out.
            unseen: what is done with values that a column cannot have: "error", "missing" (NaN),
                "impossible" (`IMPOSSIBLE`; where a constant column has another value, the whole row), or
                "nearest" (numbers; words are then an error).

        Raises:
            DataError: columns that are missing or unexpected (all are named), cells that a column cannot
                have, or columns that name rows.
        """
        encoded, strange = self.encode_apart(frame, unseen)
        for rows in strange.values():
            encoded[rows] = IMPOSSIBLE
        return encoded

    def encode_apart(self, frame: Any, unseen: Unseen = "score") -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """`encode`, with what constant columns say of the rows apart.

        Returns:
            the modelled columns ``(N, D)``, and by constant columns with another value the rows that have it,
            ``(N,)``.
        """
        self.check()
        found = self._matched(read_frame(frame)[0])
        encoded = np.empty((len(next(iter(found.values()))), self.dim))
        for i, column in enumerate(self.modelled):
            encoded[:, i] = column.encode(found[column.name], unseen)
        strange = {}
        for column in self.columns:
            if isinstance(column, Constant) and column.name in found:
                rows = column.encode(found[column.name], unseen) == IMPOSSIBLE
                if rows.any():
                    strange[column.name] = rows
        return encoded, strange

    def _matched(self, found: dict[str, Cells]) -> dict[str, Cells]:
        """The cells by the names of the schema."""
        names = [column.name for column in self.columns]
        if all(name == f"x{i}" for i, name in enumerate(found)) and not set(found) & set(names):
            # An array has no names of its own.
            for order in (names, [c.name for c in self.columns if not isinstance(c, Drop)], list(self.names)):
                if len(order) == len(found):
                    return dict(zip(order, found.values(), strict=True))
            raise DataError(f"the schema has {len(names)} columns ({listing(names)}), the data {len(found)}")
        missing = [name for name in self.names if name not in found]
        extra = [name for name in found if name not in names]
        if missing or extra:
            parts = [f"missing {listing(missing)}"] if missing else []
            parts += [f"unexpected {listing(extra)}{nearest(extra[0], missing)}"] if extra else []
            # A cell that is missing is one thing, a column that is quite another: it may be another table.
            lacks = (
                "; give a column that nothing is known of with empty cells" if missing and not extra else ""
            )
            raise DataError(f"the columns differ from the schema's: {'; '.join(parts)}{lacks}")
        return found

    def decode(self, encoded: np.ndarray, frame: str | None = None) -> Any:
        """Numbers ``(N, D)`` as a table of the kind that was encoded: constant columns put back, in the order
        and of the types of before, without dropped ones; every cell is one that its column can have.

        Arguments:
            encoded: of the modelled columns; missing where NaN.
            frame: another kind of frame.

        Raises:
            DataError: another shape. ConfigError: an unknown kind of frame.
        """
        encoded = np.asarray(encoded, dtype=np.float64)
        if encoded.ndim != 2 or encoded.shape[1] != self.dim:
            raise DataError(
                f"encoded rows have shape {encoded.shape}; the schema has {self.dim} columns "
                f"({listing(self.names)})"
            )
        kind = self.frame if frame is None else frame
        if kind not in FRAMES:
            raise ConfigError(
                f"frame '{kind}' is not known{nearest(str(kind), FRAMES)} ({', '.join(FRAMES)})"
            )
        place = {name: i for i, name in enumerate(self.names)}
        columns: dict[str, Decoded] = {}
        for column in self.columns:
            if isinstance(column, (Drop, Identifier)):
                continue
            cells = column.decode(encoded[:, place.get(column.name, 0)] if place else encoded.sum(1))
            levels = column.levels if isinstance(column, Levels) else ()
            columns[column.name] = Decoded(cells, column.dtype, levels, getattr(column, "ordered", False))
        return build_frame(columns, kind, native=kind == self.frame)

    def filled(self, encoded: np.ndarray, frame: Any) -> Any:
        """`decode` of rows whose missing cells were filled, with the dropped columns of the table they are of
        and its index in pandas, where that is a frame of the kind of this schema.

        Arguments:
            encoded: the rows ``(N, D)``. frame: the table, its rows in the same order.
        """
        left_out = [c.name for c in self.columns if isinstance(c, (Drop, Identifier))]
        return put_back(self.decode(encoded), frame, [c.name for c in self.columns], left_out)

    def cell(self, frame: Any, name: str, row: int) -> Any:
        """A cell of a table as its user knows it, for messages."""
        return self._matched(read_frame(frame)[0])[name].said(row)

    # -- files -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the kind of frame, and the columns in order."""
        return {"frame": self.frame, "columns": [column.to_dict() for column in self.columns]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TableSchema:
        """The schema that `to_dict` wrote.

        Raises:
            ConfigError: if it is none.
        """
        columns = content.get("columns") if isinstance(content, Mapping) else None
        if not isinstance(columns, Sequence) or isinstance(columns, str):
            raise ConfigError("a schema needs 'columns', a list of mappings")
        return cls(tuple(Column.from_dict(c) for c in columns), content.get("frame", "polars"))

    def to_yaml(self, title: str = "") -> str:
        """The schema as text that a person can read and edit: a line a column, below what was seen in it."""
        return write_yaml(self.columns, self.frame, title)

    @classmethod
    def from_yaml(cls, text: str) -> TableSchema:
        """The schema that `to_yaml` wrote, edited or not.

        Raises:
            ConfigError: no such file, an unknown kind or option, or a column whose options need data: then
                ``TableSchema.infer(frame, columns=specs_of_yaml(text))``.
        """
        frame, said = read_yaml(text)
        columns = []
        for name, spec in said.items():
            kind, options = parse_spec(spec, name)
            if kind == AUTO or options.pop("as_levels", None) is not None:
                raise ConfigError(f"column '{name}': '{kind}' needs data: infer the schema with this file")
            columns.append(Column.from_dict({"name": name, "kind": kind, **options}))
        return cls(tuple(columns), frame)

    @staticmethod
    def specs_of_yaml(text: str) -> dict[str, Any]:
        """What a file says of each column, for `infer`.

        A mapping is taken as it stands, as `to_yaml` leaves out what is the default; what it needs and lacks
        (the levels of ``{kind: categorical}``), and all of text such as ``circular(360)``, is found in the
        data.

        Raises:
            ConfigError: no such file, or an unknown kind or option.
        """
        said = read_yaml(text)[1]
        for name, spec in said.items():
            if isinstance(spec, Mapping) and isinstance(spec.get("kind"), str) and "as_levels" not in spec:
                kind, options = parse_spec(spec, name)
                if kind in KINDS and KINDS[kind].is_complete(options):
                    said[name] = KINDS[kind].of(name, options)
        return said

    @property
    def atoms(self) -> dict[str, tuple[float, ...]]:
        """The atoms of the columns that have some."""
        return {c.name: c.atoms for c in self.columns if isinstance(c, Numeric) and c.atoms}


def _whole(given: Any, name: str) -> Any:
    """A mapping that says every option of its kind (`Column.said`), from which nothing is to be found out, as
    the column."""
    kind = KINDS.get(str(given.get("kind"))) if isinstance(given, Mapping) else None
    if kind is None:
        return given
    options = {key: value for key, value in given.items() if key != "kind"}
    return kind.of(name, options) if options.keys() == kind.option_names() else given


def _about_marks(marks: Mapping[str, tuple[str, int]], blanks: bool) -> str:
    listed = ", ".join(f"'{name}' ({mark}: {rows} rows)" for name, (mark, rows) in list(marks.items())[:4])
    more = f" and {len(marks) - 4} more columns" if len(marks) > 4 else ""
    if blanks:
        return (
            f"marks for no value are kept as levels in {listed}{more}, since the table leaves missing cells "
            "blank: take them off the levels if they are missing"
        )
    return f"marks for no value are read as missing in {listed}{more}: say their levels if they are words"
