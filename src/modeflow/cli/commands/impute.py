"""`modeflow impute`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_unscored, say_wrote


def run(args: argparse.Namespace) -> int:
    """Fill missing cells, m times; several tables stand below each other, numbered in a column."""
    import polars as pl

    from modeflow.data.columns.files import write_frame
    from modeflow.estimators import conditionals_of

    check_output(args)
    fitted = open_run(args)
    estimator = conditionals_of(fitted.estimator)
    domain: Any = estimator.domain_
    rows = rows_of(args, fitted)
    seed = fitted.config["seed"] if args.seed is None else args.seed
    filled = estimator.impute(rows.values, args.m, how="mean" if args.mean else "draw", random_state=seed)
    holes = np.isnan(domain.validate(estimator, rows.values)).sum(0)
    counts = {name: int(n) for name, n in zip(domain.schema.names, holes, strict=True) if n}
    table = (
        filled[0]
        if len(filled) == 1
        else pl.concat(
            [frame.with_columns(pl.lit(i).alias("imputation")) for i, frame in enumerate(filled, 1)]
        )
    )
    write_frame(args.out or "-", table)
    say_unscored(rows)
    if args.out and args.out != "-":
        say_wrote(args, f"{table.height} rows")
        lines = [f"{n:8d} cells of {name} filled" for name, n in counts.items()] or ["no cell was missing"]
        kind = estimator.conditional_kind_
        if kind != "exact":
            lines.append(f"drawn from an {kind} of the conditional")
        result = {"run": args.run_folder, "data": args.data, "m": args.m, "seed": seed, "kind": kind}
        emit(args, {**result, "filled": counts, "rows": table.height, "out": args.out}, lines)
    return 0
