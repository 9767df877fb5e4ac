"""`modeflow score`."""

from __future__ import annotations

import argparse

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_unscored, say_wrote


def run(args: argparse.Namespace) -> int:
    """Score every row; the header of the file says what the number is. A row with a bad cell scores NaN."""
    from modeflow.data import write_table
    from modeflow.metrics import summarise

    check_output(args)
    fitted = open_run(args)
    if fitted.config.images:
        from modeflow.cli.commands import _images

        return _images.score(args, fitted)
    estimator = fitted.estimator
    rows, values = rows_of(args, fitted)
    log_prob = estimator.score_samples(values)
    mean = summarise(log_prob, estimator.density_kind_)
    name = f"log_density_{estimator.density_kind_.replace(' ', '_')}_nats"
    if args.out:
        numbers = np.arange(1, rows.total + 1, dtype=np.float64)
        scores = np.column_stack([numbers, rows.spread(log_prob)])
        write_table(args.out, scores, ("row", name), integer_columns=("row",))
        say_wrote(args, f"{rows.total} rows, column '{name}'")
    say_unscored(rows)
    worst = np.argsort(log_prob)[:5]
    result = {
        "run": args.run_folder,
        "data": args.data,
        "log_likelihood": mean.to_dict(),
        "units": "nats per row, in the units of the data",
        "least_likely_rows": [
            {"row": int(rows.rows[i]) + 1, "log_density": float(log_prob[i])} for i in worst
        ],
        "rows_without_score": [{"row": row + 1, "reason": why} for row, why in rows.bad.items()],
        "notes": list(rows.table.notes),
        "interrupted": fitted.interrupted,
        "out": args.out,
    }
    lines = [
        f"mean log-density   {mean}",
        "least likely rows  " + ", ".join(f"{rows.rows[i] + 1} ({log_prob[i]:.2f})" for i in worst),
    ]
    emit(args, result, lines)
    return 0
