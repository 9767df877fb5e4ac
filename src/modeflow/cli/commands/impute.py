"""`modeflow impute`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_wrote, warn


def run(args: argparse.Namespace) -> int:
    """Fill missing cells, m times; several tables stand below each other, numbered in a column. A row with a
    cell that cannot be read is left out."""
    import polars as pl

    from modeflow.data.columns.files import write_frame
    from modeflow.estimators import conditionals_of

    check_output(args)
    fitted = open_run(args)
    estimator = conditionals_of(fitted.estimator)
    domain: Any = estimator.domain_
    rows = rows_of(args, fitted)
    seed = fitted.config["seed"] if args.seed is None else args.seed
    values = domain.known(rows.values, args.unseen, numbers=rows.rows)
    how = "mean" if args.mean else "draw"
    filled = estimator.fill(values, rows.values, args.m, how=how, random_state=seed)
    counts = {name: int(n) for name, n in zip(domain.schema.names, np.isnan(values).sum(0), strict=True) if n}
    table = (
        filled[0]
        if len(filled) == 1
        else pl.concat(
            [frame.with_columns(pl.lit(i).alias("imputation")) for i, frame in enumerate(filled, 1)]
        )
    )
    write_frame(args.out or "-", table)
    if text := rows.left_out_text():
        warn(text)
    if args.out and args.out != "-":
        say_wrote(args, f"{table.height} rows")
        lines = [f"{n:8d} cells of {name} filled" for name, n in counts.items()] or ["no cell was missing"]
        kind = estimator.conditional_kind_
        if kind != "exact":
            lines.append(f"drawn from an {kind} of the conditional")
        result = {"run": args.run_folder, "data": args.data, "m": args.m, "seed": seed, "kind": kind}
        emit(args, {**result, "filled": counts, "rows": table.height, "out": args.out}, lines)
    return 0
