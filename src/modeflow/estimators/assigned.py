"""z of every row as columns of a table: states with their probabilities, codes, places, states by column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["assigned_columns"]

#: Columns by name, and those of whole numbers.
_Columns = tuple[dict[str, np.ndarray], tuple[str, ...]]


def assigned_columns(estimator: Any, X: Any) -> _Columns:
    """z of every row, by the kind of the latent.

    Discrete (or none): ``state``, its ``probability``, and ``p0``, ``p1``, ... of all. Tree: the most
    probable state of every column, ``state_NAME``. Codes: ``code``, or ``code0``, ... Continuous: mean and
    scale of q(z|x), ``z0``, ``z0_sd``, ...

    Arguments:
        estimator: fitted. X: rows, N of them.

    Returns:
        columns ``(N,)`` by name, and the names of those of whole numbers.

    Raises:
        DataError: other columns than those fitted.
    """
    return _KINDS[estimator.latent_.describe().kind](estimator, X)


def _states(estimator: Any, rows: Any) -> _Columns:
    proba = estimator.predict_proba(rows)
    columns = {"state": proba.argmax(1), "probability": proba.max(1)}
    return columns | {f"p{k}": p for k, p in enumerate(proba.T)}, ("state",)


def _codes(estimator: Any, rows: Any) -> _Columns:
    codes = estimator.encode(rows)
    names = ("code",) if codes.shape[1] == 1 else tuple(f"code{j}" for j in range(codes.shape[1]))
    return dict(zip(names, codes.T, strict=True)), names


def _places(estimator: Any, rows: Any) -> _Columns:
    mean, scale = estimator.encode(rows, return_std=True)
    means = {f"z{j}": m for j, m in enumerate(mean.T)}
    return means | {f"z{j}_sd": s for j, s in enumerate(scale.T)}, ()


def _tree(estimator: Any, rows: Any) -> _Columns:
    states = estimator.encode(rows).T
    columns = {f"state_{n}": z for n, z in zip(estimator.domain_.feature_names, states, strict=True)}
    return columns, tuple(columns)


_KINDS: Mapping[str, Callable[[Any, Any], _Columns]] = {
    "none": _states,
    "discrete": _states,
    "tree": _tree,
    "codes": _codes,
    "continuous": _places,
}
