"""Rows in, rows out: who fitted a data frame is given samples as one."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from modeflow.data import Schema

__all__ = ["as_frame", "frame_kind"]


def frame_kind(X: Any) -> str | None:
    """The library of a data frame, ``"pandas"`` or ``"polars"``; None for anything else."""
    home = type(X).__module__.partition(".")[0]
    return home if home in ("pandas", "polars") and hasattr(X, "columns") else None


def as_frame(rows: np.ndarray, schema: Schema, kind: str | None) -> Any:
    """Rows ``(N, D)`` as a data frame of that library, integer columns as int64; as they are for None.

    Warns:
        UserWarning: if the library is not there (the model was fitted elsewhere); then an array is returned.
    """
    if kind is None:
        return rows
    whole = set(schema.integer_columns)
    columns = {
        name: column.astype(np.int64) if name in whole and (np.abs(column) < 2.0**63).all() else column.copy()
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
