"""What there is to say of encoded rows of a mixed table: empty ones, values not seen, columns alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.data.columns.base import Column, shown
from modeflow.errors import DataError, nearest
from modeflow.transforms.mixed import MixedColumns

__all__ = ["given_cells", "independent_columns", "refuse_empty", "strange_text"]

#: Columns named in a line.
_NAMED = 5


def refuse_empty(values: np.ndarray, numbers: np.ndarray) -> None:
    """Raise `DataError` for rows without a cell; `numbers` are those of the rows ``(N, D)`` in the data."""
    empty = np.isnan(values).all(1)
    if empty.any():
        more = f" (and {int(empty.sum()) - 1} more)" if empty.sum() > 1 else ""
        raise DataError(
            f"data row {numbers[int(empty.argmax())] + 1} has no cell at all{more}: leave such rows out"
        )


def given_cells(column: Column, values: Sequence[Any]) -> np.ndarray:
    """Values of a column that a condition names, encoded, ``(n,)``.

    Raises:
        DataError: one that the column cannot have, or nothing but missing ones.
    """
    try:
        encoded = column.encode(list(values))
    except DataError as error:
        wrong = next((v for v in values if not _can_have(column, v)), values[0])
        hint = nearest(str(wrong), (v for v in getattr(column, "levels", ()) if isinstance(v, str)))
        raise DataError(
            f"column '{column.name}' is given {shown(wrong)}, which {column.spec} cannot have"
            f"{hint or _nearest_value(column, wrong)}"
        ) from error
    if np.isnan(encoded).all():
        raise DataError(f"column '{column.name}' is given no value: leave it out to have it drawn")
    return encoded


def _nearest_value(column: Column, value: Any) -> str:
    """What to say of the nearest number that a column can have, if there is one."""
    try:
        (near,) = column.decode(column.encode([value], "nearest")).tolist()
    except DataError:
        return ""
    return f": the nearest value is {near:.12g}" if isinstance(near, (int, float)) else ""


def _can_have(column: Column, value: Any) -> bool:
    try:
        column.encode([value])
    except DataError:
        return False
    return True


def independent_columns(
    layer: MixedColumns, train: Tensor, rows: Tensor, weight: np.ndarray | None
) -> np.ndarray:
    """Log-density of features as if the columns had nothing to say of each other, nats, ``(M,)``.

    Normal numbers, angles at random, levels as often as in the training rows, ``(N, F)``.
    """
    total = torch.zeros(len(rows), dtype=torch.float64)
    w = torch.ones(len(train)) if weight is None else torch.from_numpy(np.asarray(weight))
    for j, (levels, circular) in enumerate(zip(layer.levels, layer.circular, strict=True)):
        there, known = rows[:, j] == rows[:, j], train[:, j] == train[:, j]
        x, seen = rows[there, j], train[known, j]
        if levels:
            count = torch.bincount(seen.long(), w[known].double(), levels) + 0.5
            total[there] += (count / count.sum()).log()[x.long()]
        elif circular:
            total[there] -= float(np.log(2 * np.pi))
        else:
            spread = seen.std().clamp_min(1e-6) if len(seen) > 1 else torch.ones(())
            total[there] += torch.distributions.Normal(seen.mean(), spread).log_prob(x)
    return total.numpy()


def strange_text(strange: Mapping[str, np.ndarray]) -> str:
    """Which columns hold values not seen, and how many rows do, by columns the rows of each, ``(N,)``."""
    named = ", ".join(f"'{name}'" for name in list(strange)[:_NAMED])
    more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
    words = ("columns", "have values that they") if len(strange) > 1 else ("column", "has values that it")
    rows = np.any(list(strange.values()), axis=0)
    return (
        f"{words[0]} {named}{more} {words[1]} did not have when the model was fitted: "
        f"{rows.sum()} of {len(rows)} rows"
    )
