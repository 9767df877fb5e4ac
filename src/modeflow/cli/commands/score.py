"""`modeflow score`."""

from __future__ import annotations

import argparse

import numpy as np

from modeflow.cli.commands._files import reading_of
from modeflow.cli.commands._output import (
    check_output,
    columns_of,
    emit,
    say,
    say_notes,
    say_unscored,
    set_device,
)


def run(args: argparse.Namespace) -> int:
    """Score every row; the header of the file says what the number is. A row with a bad cell scores NaN."""
    from modeflow.data import write_table
    from modeflow.experiments import load_rows, load_run
    from modeflow.experiments.runs import frame
    from modeflow.metrics import summarise

    check_output(args)
    fitted = load_run(args.run_folder)
    if fitted.config.images:
        from modeflow.cli.commands import _images

        return _images.score(args, fitted)
    estimator = fitted.estimator
    set_device(args, estimator)
    estimator.verbose = not (args.quiet or args.json)
    rows = load_rows(
        args.data,
        estimator,
        columns_of(args.columns) or fitted.config["columns"],
        **reading_of(args, fitted.config),
    )
    table = rows.table
    say_notes(args, table.notes)
    log_prob = estimator.score_samples(
        frame(table) if hasattr(estimator, "feature_names_in_") else table.values
    )
    mean = summarise(log_prob, estimator.density_kind_)
    name = f"log_density_{estimator.density_kind_.replace(' ', '_')}_nats"
    if args.out:
        numbers = np.arange(1, rows.total + 1, dtype=np.float64)
        scores = np.column_stack([numbers, rows.spread(log_prob)])
        write_table(args.out, scores, ("row", name), integer_columns=("row",))
        say(args, f"wrote {args.out}: {rows.total} rows, column '{name}'")
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
        "notes": list(table.notes),
        "out": args.out,
    }
    lines = [
        f"mean log-density   {mean}",
        "least likely rows  " + ", ".join(f"{rows.rows[i] + 1} ({log_prob[i]:.2f})" for i in worst),
    ]
    emit(args, result, lines)
    return 0
