"""Data frames out: pandas, polars, pyarrow, numpy arrays, and dictionaries of columns.

pandas and pyarrow are imported only where a frame of theirs is to be made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from modeflow.data.columns.dtypes import portable
from modeflow.data.columns.frames import frame_kind
from modeflow.data.columns.spans import period_of, spans_of

__all__ = ["Decoded", "build_frame", "put_back"]


class Decoded:
    """A decoded column on its way into a frame: values, type, and the levels of a category."""

    def __init__(
        self, values: np.ndarray, dtype: str, levels: tuple[Any, ...] = (), ordered: bool = False
    ) -> None:
        self.dtype, self.levels, self.ordered = dtype, levels, ordered
        seconds = portable(dtype) == "duration" and values.dtype.kind in "iuf"
        self.values = spans_of(values.astype(np.float64), dtype) if seconds else values

    def list(self) -> list[Any]:
        """Python values, None where missing."""
        kind = self.values.dtype.kind
        if kind in "mM":
            values = self.values.astype(f"{kind}8[us]") if kind == "m" else self.values
            return [None if np.isnat(v) else v.item() for v in values]
        if kind == "f":
            whole = portable(self.dtype).startswith(("int", "uint"))
            return [None if v != v else int(v) if whole else v for v in self.values.tolist()]
        return list(self.values.tolist())


def build_frame(columns: Mapping[str, Decoded], kind: str, native: bool = True) -> Any:
    """A frame of decoded columns.

    Arguments:
        columns: by name, in order. kind: one of `FRAMES`. native: whether the types are names of this kind.

    Warns:
        UserWarning: the library is not installed here; then the frame is one of polars.
    """
    plain = {n: c if native else Decoded(c.values, "", c.levels, c.ordered) for n, c in columns.items()}
    try:
        if kind == "pandas":
            import pandas as pd

            return pd.DataFrame({n: _to_pandas(c) for n, c in plain.items()})
        if kind == "arrow":
            import pyarrow as pa

            arrays = [_to_arrow(c) for c in plain.values()]
            return pa.table(arrays, names=list(plain))
    except ImportError:
        warnings.warn(
            f"the table was one of {kind}, which is not installed here: this one is of polars", UserWarning,
            stacklevel=3,
        )  # fmt: skip
        return build_frame(columns, "polars", native=False)
    if kind == "numpy":
        return _to_matrix(list(plain.values()))
    if kind == "dict":
        return {n: c.values for n, c in plain.items()}
    return pl.DataFrame([_to_polars(n, c) for n, c in plain.items()])


def put_back(frame: Any, source: Any, order: Sequence[str], left_out: Sequence[str]) -> Any:
    """A table with what it lacks of the rows that it was made from: columns, and the index of pandas.

    Arguments:
        frame: the table. source: the rows, as many and in the same order; where they are another kind of
            frame, nothing is put back.
        order: names of all columns. left_out: names of those that the table lacks, of which the source may
            lack some.
    """
    kind = frame_kind(frame)
    if frame_kind(source) != kind:
        return frame
    if kind == "numpy":
        if source.dtype.names or source.shape[1] != len(order):
            return frame
        whole = np.array(source, dtype=np.result_type(source, frame))
        whole[:, [i for i, name in enumerate(order) if name not in left_out]] = frame
        return whole
    if kind == "pandas":
        frame = frame.set_axis(source.index, axis=0)
        for place, name in enumerate(map(str, source.columns)):
            if name in left_out:
                frame[name] = source.iloc[:, place]
        return frame[[name for name in order if name in frame.columns]]
    if kind == "arrow":
        for name in left_out:
            if name in source.column_names:
                frame = frame.append_column(source.schema.field(name), source.column(name))
        return frame.select([name for name in order if name in frame.column_names])
    if kind == "dict":
        whole = {str(name): values for name, values in source.items() if str(name) in left_out} | frame
        return {name: whole[name] for name in order if name in whole}
    frame = frame.with_columns(source[name] for name in left_out if name in source.columns)
    return frame.select([name for name in order if name in frame.columns])


def _to_pandas(column: Decoded) -> Any:
    import pandas as pd

    values, dtype = column.values, column.dtype
    if dtype.startswith("category"):
        return pd.Series(
            pd.Categorical(column.list(), categories=list(column.levels), ordered=column.ordered)
        )
    if zone := re.fullmatch(r"datetime64\[(\w+), (.+)\]", dtype):
        times = pd.Series(values.astype("datetime64[us]")).dt.tz_localize("UTC").dt.tz_convert(zone[2])
        return times.astype(dtype)
    if values.dtype.kind == "M":
        if portable(dtype) == "date":
            return pd.Series(column.list(), dtype=object)
        return pd.Series(values.astype("datetime64[us]")).astype(
            dtype if dtype[:8] == "datetime" else "datetime64[us]"
        )
    if portable(dtype) == "period":
        return period_of(values, dtype)
    if values.dtype.kind == "f" and re.fullmatch(r"u?int\d+", dtype):
        # A type of numpy has no place for missing ones.
        return pd.Series(column.list(), dtype=dtype.replace("i", "I", 1).replace("u", "U", 1))
    if values.dtype.kind == "f" and dtype == "object":
        return pd.Series(column.list(), dtype=object)
    if values.dtype.kind == "O" and dtype == "bool":
        return pd.Series(column.list(), dtype="boolean")
    if values.dtype.kind in "fO" and re.match(r"[A-Z]", dtype):
        return pd.Series(column.list(), dtype=dtype)
    if values.dtype.kind == "O":
        series = pd.Series(column.list(), dtype=object)
        return series.astype(dtype) if dtype not in ("", "object") else series
    return pd.Series(values).astype(dtype) if dtype not in ("", "date") else pd.Series(values)


def _to_polars(name: str, column: Decoded) -> pl.Series:
    values, dtype = column.values, column.dtype
    if values.dtype.kind == "M":
        series = pl.Series(name, values.astype("datetime64[us]"))
    elif values.dtype.kind == "m":
        series = pl.Series(name, values.astype("timedelta64[ms]") if values.dtype == "m8[s]" else values)
    elif values.dtype.kind == "f":
        series = pl.Series(name, values).fill_nan(None)
    else:
        series = pl.Series(name, column.list() if values.dtype.kind == "O" else values, strict=False)
    kind = _polars_type(dtype, column.levels)
    if isinstance(kind, pl.Datetime) and kind.time_zone:
        return series.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone).cast(kind)
    if kind is None:
        return series.cast(pl.Date) if values.dtype == np.dtype("datetime64[D]") else series
    return series.cast(kind)


def _polars_type(dtype: str, levels: tuple[Any, ...]) -> Any:
    """The type of polars of this name; None for one of another kind."""
    if found := re.fullmatch(r"Datetime\(time_unit='(\w+)', time_zone=(None|'.*')\)", dtype):
        zone = None if found[2] == "None" else found[2].strip("'")
        return pl.Datetime(found[1], zone)  # type: ignore[arg-type]
    if found := re.fullmatch(r"Duration\(time_unit='(\w+)'\)", dtype):
        return pl.Duration(found[1])  # type: ignore[arg-type]
    if dtype.startswith("Enum"):
        return pl.Enum([str(v) for v in levels])
    if found := re.fullmatch(r"Decimal\(precision=(\d+), scale=(\d+)\)", dtype):
        return pl.Decimal(int(found[1]), int(found[2]))
    if dtype in ("int64", "float64"):  # read from text
        return pl.Int64 if dtype == "int64" else pl.Float64
    simple = {
        str(t): t
        for t in (
            pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32,
            pl.Float64, pl.Boolean, pl.String, pl.Date, pl.Categorical, pl.Null,
        )
    }  # fmt: skip
    return simple.get(dtype)


def _to_arrow(column: Decoded) -> Any:
    import pyarrow as pa

    kind = _arrow_type(column.dtype)
    if kind is not None and pa.types.is_dictionary(kind):
        place = {level: i for i, level in enumerate(column.levels)}
        codes = [None if v is None else place[v] for v in column.list()]
        levels = pa.array(column.levels, type=kind.value_type)
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, type=kind.index_type), levels, ordered=kind.ordered
        )
    series = _to_polars("", Decoded(column.values, ""))
    array = series.to_arrow()
    return array if kind is None else array.cast(kind)


def _arrow_type(dtype: str) -> Any:
    """The type of arrow of this name; None for one of another kind."""
    import pyarrow as pa

    if found := re.fullmatch(r"timestamp\[(\w+)(?:, tz=(.+))?\]", dtype):
        return pa.timestamp(found[1], found[2])
    if found := re.fullmatch(r"dictionary<values=(\w+), indices=(\w+), ordered=([01])>", dtype):
        values, indices = (pa.type_for_alias(found[i]) for i in (1, 2))
        return pa.dictionary(indices, values, found[3] == "1")
    if found := re.fullmatch(r"decimal128\((\d+), (\d+)\)", dtype):
        return pa.decimal128(int(found[1]), int(found[2]))
    try:
        return pa.type_for_alias(dtype.replace("date32[day]", "date32"))
    except ValueError:
        return None


def _to_matrix(columns: Sequence[Decoded]) -> np.ndarray:
    kinds = {c.values.dtype.kind for c in columns}
    types = {c.dtype for c in columns}
    if kinds == {"m"}:
        return np.column_stack([c.values for c in columns])
    if kinds <= set("iufb"):
        matrix = np.column_stack([c.values for c in columns])
        only = next(iter(types)) if len(types) == 1 else ""
        if portable(only).startswith(("int", "uint")) and matrix.dtype.kind == "f":
            return matrix  # integers of numpy have no place for missing ones
        return matrix.astype(only) if portable(only)[:3] in ("int", "uin", "flo", "boo") else matrix
    matrix = np.empty((len(columns[0].values), len(columns)), dtype=object)
    for i, column in enumerate(columns):
        matrix[:, i] = column.list()
    return matrix
