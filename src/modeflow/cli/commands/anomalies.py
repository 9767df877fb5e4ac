"""`modeflow anomalies`."""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_unscored, say_wrote
from modeflow.errors import ConfigError

#: Rows told without -o.
_TOLD = 10


def run(args: argparse.Namespace) -> int:
    """Rank every row among the test rows of the run; say of the odd ones which columns make them so."""
    from modeflow.data.columns.files import check_frame_file, write_frame
    from modeflow.estimators.reasons import reasons_text, telling_columns
    from modeflow.metrics import rank_p_values

    if not 0 < args.alpha < 1:
        raise ConfigError(f"--alpha must lie between 0 and 1, received {args.alpha:g}")
    if args.top is not None and args.top < 1:
        raise ConfigError(f"--top must be 1 or more, received {args.top}")
    check_output(args)
    if args.out:
        check_frame_file(args.out)
    fitted = open_run(args)
    estimator = fitted.estimator
    if not hasattr(estimator, "surprises"):
        raise ConfigError(f"anomalies are rows of tables, and the run is one of {estimator.domain_.word}s")
    held = fitted.held_scores()
    rows = rows_of(args, fitted)
    scores, _, kind = estimator.scores(rows.values)
    # Of a row without a cell nothing is said.
    p = np.where(np.isin(rows.rows, rows.empty), np.nan, rank_p_values(scores, held))
    order = np.lexsort((scores, p))
    odd = order[p[order] <= args.alpha]
    told = odd if args.top is None else order[~np.isnan(p[order])][: args.top]
    names = tuple(estimator.domain_.facts["columns"])
    excess = _excess(estimator, rows.values, told) if len(told) else np.zeros((0, len(names)))
    why = [reasons_text(row, names) for row in excess]
    if args.out:
        listed = told if args.top is not None else np.arange(len(scores))
        frame = _frame(rows, scores, p, listed, told, excess, names, why, args.top is None, kind)
        write_frame(args.out, frame)
        words = (
            f"{frame.height} rows" if args.top is None else f"the {frame.height} oddest of {rows.total} rows"
        )
        say_wrote(args, words)
    say_unscored(rows)
    result = {
        "run": args.run_folder,
        "data": args.data,
        "rows": rows.total,
        "rows_held_out": len(held),
        "alpha": args.alpha,
        "odd": len(odd),
        "density": kind,
        "oddest_rows": [
            {
                "row": int(rows.rows[i]) + 1,
                "log_density": float(scores[i]),
                "p_value": float(p[i]),
                "why": {name: float(v) for name, v in telling_columns(row, names)},
            }
            for i, row in zip(told[: args.top or _TOLD], excess, strict=False)
        ],
        "rows_without_score": [{"row": row + 1, "reason": why} for row, why in rows.bad.items()],
        "rows_without_cells": [int(row) + 1 for row in rows.empty],
        "interrupted": fitted.interrupted,
        "out": args.out,
    }
    emit(args, result, _lines(rows, p, odd, told, why, len(held), args))
    return 0


def _excess(estimator: Any, values: Any, some: np.ndarray) -> np.ndarray:
    """What every cell of some rows is more surprising than expected, nats, ``(n, D)``."""
    from sklearn.utils import _safe_indexing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what there is to say of the rows was said of all
        return np.asarray(estimator.surprises(_safe_indexing(values, some)) - estimator.expected_surprises())


def _frame(
    rows: Any,
    scores: np.ndarray,
    p: np.ndarray,
    listed: np.ndarray,
    told: np.ndarray,
    excess: np.ndarray,
    names: tuple[str, ...],
    why: list[str],
    every: bool,
    kind: str,
) -> Any:
    """What is written: a line for every row of the source, or for those listed."""
    import polars as pl

    place = {int(i): n for n, i in enumerate(told)}
    at = [place.get(int(i)) for i in listed]
    blank = np.full(len(names), np.nan)
    cells = np.array([blank if n is None else excess[n] for n in at]).reshape(len(at), len(names))
    score = "log_density" if kind == "exact" else f"log_density_{kind.replace(' ', '_')}"
    columns: dict[str, Any] = {
        "row": rows.rows[listed] + 1,
        score: scores[listed],
        "p_value": p[listed],
        "why": [None if n is None else why[n] for n in at],
    } | {f"nats_{name}": cells[:, j] for j, name in enumerate(names)}
    frame = pl.DataFrame(columns).with_columns(pl.selectors.float().fill_nan(None))
    if every and rows.bad:  # a line for the rows that have no score, in their places
        full = pl.DataFrame({"row": np.arange(1, rows.total + 1)})
        frame = full.join(frame, on="row", how="left", maintain_order="left")
    return frame


def _lines(
    rows: Any,
    p: np.ndarray,
    odd: np.ndarray,
    told: np.ndarray,
    why: list[str],
    held: int,
    args: argparse.Namespace,
) -> list[str]:
    scored = int((~np.isnan(p)).sum())
    lines = [
        f"{len(odd)} of {scored} rows have a p-value of at most {args.alpha:g} among {held} test rows "
        f"({args.alpha * scored:.1f} would if all were usual)"
    ]
    least = 1 / (held + 1)
    if least > args.alpha:
        lines.append(f"no p-value is below {least:.2g}: hold out more rows (modeflow fit --test)")
    shown = told[: args.top or _TOLD]
    if len(shown):
        lines.append("     row  p-value  why (nats more surprising than expected, given the other columns)")
        lines += [f"{rows.rows[i] + 1:8d}  {p[i]:7.4f}  {why[n]}" for n, i in enumerate(shown)]
    if len(told) > len(shown):
        lines.append(f"and {len(told) - len(shown)} more: -o FILE writes all")
    return lines
