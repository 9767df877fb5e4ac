"""From plain arrays to the rows of a report's tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modeflow.data.spread import mean_and_spread
from modeflow.errors import ShapeError
from modeflow.report.contents import ColumnRow, StateRow, WorstRow
from modeflow.report.selection import as_states, as_table

__all__ = ["describe_columns", "find_worst", "tabulate_states"]


def describe_columns(values: object, names: Sequence[str]) -> list[ColumnRow]:
    """Return one row a column of `values` (rows, columns); what is not finite counts as missing."""
    table = as_table("values", values, len(names))
    rows = []
    for name, column in zip(names, table.T, strict=True):
        x = column[np.isfinite(column)]
        missing = len(column) - len(x)
        if len(x) == 0:
            rows.append(ColumnRow(str(name), "empty", missing=missing))
            continue
        kind = "integer" if np.all(x == np.round(x)) else "continuous"
        mean, spread = mean_and_spread(x)
        numbers = (float(mean), float(spread), float(x.min()), float(x.max()))
        rows.append(ColumnRow(str(name), kind, *numbers, missing))
    return rows


def tabulate_states(
    values: object,
    posterior: object,
    prior: Sequence[float] | np.ndarray | None = None,
    *,
    n_states: int | None = None,
    test_states: object = None,
    test_log_density: object = None,
    pruned: Sequence[int] = (),
) -> list[StateRow]:
    """Return one row a state.

    Arguments:
        values: training rows (N, D), or None where they have no columns.
        posterior: q(z|x) of each of them (N, K), or their most probable states (N,).
        prior: prior weights (K,).
        n_states: K; needed only where neither `posterior` nor `prior` tells it.
        test_states, test_log_density: state and log-density of each test row, for the means by state.
        pruned: states that the model has removed.
    """
    q = np.asarray(posterior)
    table = np.empty((len(q), 0)) if values is None else as_table("values", values)
    if q.ndim == 2:
        if len(q) != len(table):
            raise ShapeError(f"posterior has shape {q.shape}; expected ({len(table)}, states)")
        states = q.argmax(axis=1)
    else:
        assigned = as_states("posterior", q, len(table))
        assert assigned is not None
        states = assigned
    known = q.shape[1] if q.ndim == 2 else (len(prior) if prior is not None else n_states)
    k = known if known is not None else int(states.max(initial=-1)) + 1
    usage = q.mean(axis=0) if q.ndim == 2 else np.bincount(states, minlength=k) / max(1, len(states))
    scores = None if test_log_density is None else np.asarray(test_log_density, dtype=float)
    tested = None if scores is None else as_states("test_states", test_states, len(scores))
    rows = []
    for z in range(k):
        mine = table[states == z]
        score = None
        if scores is not None and tested is not None and (tested == z).any():
            score = float(scores[tested == z].mean())
        rows.append(
            StateRow(
                z,
                None if prior is None else float(prior[z]),
                float(usage[z]),
                len(mine),
                mine.mean(axis=0).tolist() if len(mine) else None,
                z in pruned,
                score,
            )
        )
    return rows


def find_worst(
    values: object,
    log_density: object,
    states: object = None,
    count: int = 12,
    numbers: Sequence[int] | np.ndarray | None = None,
) -> list[WorstRow]:
    """Return the `count` rows of lowest log-density, the lowest first.

    Arguments:
        values, log_density, states: one entry a row.
        count: how many.
        numbers: the row's number in the user's data, from 0; its position here if None.
    """
    table = as_table("values", values)
    scores = np.asarray(log_density, dtype=float)
    if scores.shape != (len(table),):
        raise ShapeError(f"log_density has shape {scores.shape}; expected ({len(table)},)")
    state = as_states("states", states, len(table))
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")[:count]
    return [
        WorstRow(
            int(i if numbers is None else numbers[i]) + 1,
            float(scores[i]),
            None if state is None else int(state[i]),
            table[i].tolist(),
        )
        for i in order
    ]
