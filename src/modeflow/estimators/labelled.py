"""Tables with a column of labels beside the others: labels checked, put in, and taken out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from sklearn.base import BaseEstimator
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from modeflow.data.columns.frames import frame_kind
from modeflow.errors import DataError

__all__ = ["AnyColumns", "apart", "checked_labels", "is_frame", "joined", "label_name"]

#: Name of the column of labels that have none.
_NAME = "class"


def is_frame(X: Any) -> bool:
    """Whether it is a data frame of pandas or polars."""
    return hasattr(X, "columns") and not isinstance(X, np.ndarray) and frame_kind(X) in ("pandas", "polars")


class AnyColumns(BaseEstimator):
    """What estimators share that take columns of all kinds, with missing cells; not for direct use."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def _checked(self, X: Any, reset: bool, least: int = 1) -> Any:
        """X with as many columns, of the same names in the same order; an array where it is no frame.

        Arguments:
            X: rows. reset: whether the columns are learned from them. least: rows of an array.
        """
        if is_frame(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        return validate_data(
            self, X, reset=reset, dtype=None, ensure_all_finite=False, ensure_min_samples=least
        )


def checked_labels(y: Any) -> np.ndarray:
    """Labels as an array ``(N,)`` of booleans, numbers or text.

    Raises:
        DataError: a label that is missing, or labels of different types.
        ValueError: no labels of classes (numbers with a fraction, infinite ones, more than one column).
    """
    missing = _missing(y)
    if missing.any():
        more = f" (and {int(missing.sum()) - 1} more)" if missing.sum() > 1 else ""
        raise DataError(
            f"y has no label (NaN) in data row {int(missing.argmax()) + 1}{more}: leave such rows out"
        )
    labels = np.asarray(column_or_1d(y, warn=True))
    if labels.dtype == object:
        kinds = {type(v).__name__ for v in labels}
        if len(kinds) > 1:
            raise DataError(f"y has labels of different types ({', '.join(sorted(kinds))}): use one")
        if kinds <= {"bool", "int", "float"}:
            labels = np.array(labels.tolist())
    check_classification_targets(labels)
    return labels


def _missing(y: Any) -> np.ndarray:
    if isinstance(y, pl.Series):
        nan = (
            y.is_nan().fill_null(False)
            if y.dtype.is_float()
            else pl.Series([False]).new_from_index(0, len(y))
        )
        return np.asarray((y.is_null() | nan).to_numpy()).reshape(-1)
    if hasattr(y, "isna"):
        return np.asarray(y.isna()).reshape(-1)
    values = np.asarray(y)
    if values.dtype.kind == "f":
        return np.isnan(values).reshape(-1)
    if values.dtype == object:
        return np.array(
            [v is None or (isinstance(v, float) and v != v) for v in values.reshape(-1)], dtype=bool
        )
    return np.zeros(values.size, dtype=bool)


def label_name(X: Any, y: Any) -> str:
    """What the column of labels is called beside the columns of X.

    Its own name in a frame; in an array the next number.

    Raises:
        DataError: where X has a column of that name.
    """
    if not is_frame(X):
        return f"x{X.shape[1]}"
    names = [str(name) for name in X.columns]
    own = getattr(y, "name", None)
    if own not in (None, ""):
        if str(own) in names:
            raise DataError(
                f"column '{own}' of X has the name of y: leave it out of X, or rename y if they differ"
            )
        return str(own)
    name = _NAME
    while name in names:
        name += "_"
    return name


def joined(X: Any, codes: np.ndarray, name: str) -> Any:
    """The table with a last column of labels by their numbers, of the same kind."""
    if not is_frame(X):
        numbers = X.dtype.kind in "biuf"
        column = codes.astype(X.dtype) if X.dtype.kind == "f" else codes
        return np.column_stack([X if numbers else X.astype(object), column])
    if isinstance(X, pl.DataFrame):
        return X.with_columns(pl.Series(name, codes))
    return X.assign(**{name: codes})


def apart(table: Any, name: str) -> tuple[Any, np.ndarray]:
    """What `joined` made, as it was: the table, and the numbers of the labels, ``(N,)``."""
    if not is_frame(table):
        return table[:, :-1], table[:, -1].astype(np.int64)
    codes = np.asarray(table[name]).astype(np.int64)
    return (table.drop(name) if isinstance(table, pl.DataFrame) else table.drop(columns=name)), codes
