"""Rows in, rows out: who fitted a data frame is given samples as one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from modeflow.data import Schema, Table
from modeflow.data.schema import listing
from modeflow.errors import DataError

__all__ = ["as_frame", "frame_kind", "frame_of", "refuse_text"]


def frame_kind(X: Any) -> str | None:
    """The library of a data frame, ``"pandas"`` or ``"polars"``; None for anything else."""
    home = type(X).__module__.partition(".")[0]
    return home if home in ("pandas", "polars") and hasattr(X, "columns") else None


def refuse_text(X: Any, what: str, remedy: str = "encode as numbers or leave out") -> None:
    """Raise `DataError` for a data frame with columns that are no numbers; names all of them."""
    kind = frame_kind(X)
    if kind is None:
        return
    wrong: dict[str, Any] = {}
    for place, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
        column = X.iloc[:, place] if kind == "pandas" else X[name]
        if _is_numeric(kind, dtype, column):
            continue
        first = column.dropna().head(1) if kind == "pandas" else column.drop_nulls().head(1)
        wrong[str(name)] = first.to_list() if kind == "polars" else first.tolist()
    if wrong:
        name, cells = next(iter(wrong.items()))
        example = f" ('{name}' holds {str(cells[0])[:40]!r})" if cells else ""
        raise DataError(
            f"{what}: {'columns' if len(wrong) > 1 else 'column'} {listing(list(wrong))} "
            f"{'are' if len(wrong) > 1 else 'is'} not numbers{example}: {remedy}"
        )


def _is_numeric(kind: str, dtype: Any, column: Any) -> bool:
    if kind == "polars":
        return bool(dtype.is_numeric() or str(dtype) in ("Boolean", "Null"))
    if getattr(dtype, "kind", "O") in "biuf":
        return True
    if getattr(dtype, "kind", "O") in "mM":
        return False
    try:  # numbers may hide in a column of objects
        column.dropna().astype("float64")
    except (TypeError, ValueError):
        return False
    return True


def as_frame(rows: np.ndarray, schema: Schema, kind: str | None) -> Any:
    """Rows ``(N, D)`` as a data frame of that library, integer columns as int64; as they are for None.

    Warns:
        UserWarning: if the library is not there (the model was fitted elsewhere); then an array is returned.
    """
    if kind is None:
        return rows
    whole = set(schema.integer_columns)
    columns = {
        name: column.astype(np.int64) if name in whole and _fits(column) else column.copy()
        for name, column in zip(schema.columns, rows.T, strict=True)
    }
    if kind == "polars":
        import polars as pl

        return pl.DataFrame(columns)
    try:
        import pandas as pd
    except ImportError:
        warnings.warn(
            "the model was fitted to a pandas data frame and pandas is not installed here: samples are an "
            "array; install pandas for a frame",
            UserWarning,
            stacklevel=4,
        )
        return rows
    return pd.DataFrame(columns)


def _fits(column: np.ndarray) -> bool:
    """Whether numbers are whole, and int64 has them."""
    return bool((np.abs(column) < 2.0**63).all() and (column == np.floor(column)).all())


def frame_of(table: Table) -> Any:
    """The table as a data frame, so that an estimator learns its column names."""
    import polars as pl

    return pl.DataFrame({c: table.values[:, i] for i, c in enumerate(table.columns)})
