"""`modeflow impute`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

import numpy as np

from modeflow.cli.commands._files import Seen, part_seed, parts_to_score
from modeflow.cli.commands._many import Outcome, over_files
from modeflow.cli.commands._output import say_wrote, warn


def run(args: argparse.Namespace) -> int:
    """Fill missing cells, m times; several tables stand below each other, numbered in a column. A row with a
    cell that cannot be read is left out."""
    return over_files(args, "impute", handle)


def handle(args: argparse.Namespace, fitted: Any) -> Outcome:
    """Fill one source, part by part: of a large one the m tables of a part stand below each other."""
    from modeflow.data.columns.files import check_frame_file
    from modeflow.data.columns.writing import TableWriter, numbered
    from modeflow.estimators import conditionals_of

    if args.out:
        check_frame_file(args.out)
    estimator = conditionals_of(fitted.estimator)
    domain: Any = estimator.domain_
    seed = fitted.config["seed"] if args.seed is None else args.seed
    how, seen, height, kind = "mean" if args.mean else "draw", Seen(), 0, "exact"
    counts: Counter[str] = Counter()
    with TableWriter(args.out or "-") as out:
        for rows in parts_to_score(args, fitted, "fill", holes=True):
            values = domain.known(rows.values, args.unseen, numbers=rows.first + rows.rows)
            filled = estimator.fill(
                values, rows.values, args.m, how=how, random_state=part_seed(args, seed, rows)
            )
            if estimator.conditional_kind_of(values) != "exact":
                kind = "estimate"
            missing = np.isnan(values).sum(0)
            counts.update({k: int(n) for k, n in zip(domain.names, missing, strict=True) if n})
            table = numbered([domain.as_polars(table, None) for table in filled])
            out.add_frame(table)
            seen.add(rows)
            height += table.height
    if text := seen.rows.left_out_text():
        warn(text)
    result = {"run": args.run_folder, "data": args.data, "m": args.m, "seed": seed, "kind": kind}
    result |= {"filled": dict(counts), "rows": height, "out": args.out}
    if not args.out or args.out == "-":
        return Outcome({}, [], seen.total)
    say_wrote(args, f"{height} rows")
    lines = [f"{n:8d} cells of {name} filled" for name, n in counts.items()] or ["no cell was missing"]
    if kind != "exact":
        lines.append(f"drawn from an {kind} of the conditional")
    return Outcome(result, lines, seen.total)
