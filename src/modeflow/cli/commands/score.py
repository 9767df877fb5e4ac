"""`modeflow score`."""

from __future__ import annotations

import argparse

import numpy as np

from modeflow.cli.commands._output import columns_of, emit, say, set_device


def run(args: argparse.Namespace) -> int:
    """Score every row; the header of the file says what the number is."""
    from modeflow.data import check_writable, write_table
    from modeflow.experiments import load_run, load_table
    from modeflow.experiments.runs import frame
    from modeflow.metrics import summarise

    if args.out:
        check_writable(args.out)
    fitted = load_run(args.run_folder)
    if fitted.config.images:
        from modeflow.cli.commands import _images

        return _images.score(args, fitted)
    estimator = fitted.estimator
    set_device(args, estimator)
    estimator.verbose = not (args.quiet or args.json)
    table = load_table(args.data, estimator, columns_of(args.columns) or fitted.config["columns"])
    log_prob = estimator.score_samples(
        frame(table) if hasattr(estimator, "feature_names_in_") else table.values
    )
    mean = summarise(log_prob, estimator.density_kind_)
    name = f"log_density_{estimator.density_kind_.replace(' ', '_')}_nats"
    if args.out:
        rows = np.arange(1, len(log_prob) + 1, dtype=np.float64)
        write_table(args.out, np.column_stack([rows, log_prob]), ("row", name), integer_columns=("row",))
        say(args, f"wrote {args.out}: {len(log_prob)} rows, column '{name}'")
    worst = np.argsort(log_prob)[:5]
    result = {
        "run": args.run_folder,
        "data": args.data,
        "log_likelihood": mean.to_dict(),
        "units": "nats per row, in the units of the data",
        "least_likely_rows": [{"row": int(i) + 1, "log_density": float(log_prob[i])} for i in worst],
        "out": args.out,
    }
    lines = [
        f"mean log-density   {mean}",
        "least likely rows  " + ", ".join(f"{i + 1} ({log_prob[i]:.2f})" for i in worst),
    ]
    emit(args, result, lines)
    return 0
