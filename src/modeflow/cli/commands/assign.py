"""`modeflow assign`."""

from __future__ import annotations

import argparse

import numpy as np

from modeflow.cli.commands._output import columns_of, emit, say, set_device


def run(args: argparse.Namespace) -> int:
    """The posterior over the states for every row."""
    from modeflow.data import check_writable, write_table
    from modeflow.experiments import load_run, load_table
    from modeflow.experiments.runs import frame

    if args.out:
        check_writable(args.out)
    fitted = load_run(args.run_folder)
    estimator = fitted.estimator
    set_device(args, estimator)
    estimator.verbose = not (args.quiet or args.json)
    table = load_table(args.data, estimator, columns_of(args.columns) or fitted.config["columns"])
    proba = estimator.predict_proba(frame(table) if hasattr(estimator, "feature_names_in_") else table.values)
    state = proba.argmax(1)
    counts = np.bincount(state, minlength=proba.shape[1])
    if args.out:
        rows = np.arange(1, len(proba) + 1)
        columns = ("row", "state", "probability", *(f"p{k}" for k in range(proba.shape[1])))
        values = np.column_stack([rows, state, proba.max(1), proba])
        write_table(args.out, values, columns, integer_columns=("row", "state"))
        say(args, f"wrote {args.out}: {len(proba)} rows, {proba.shape[1]} states")
    result = {
        "run": args.run_folder,
        "data": args.data,
        "rows": len(proba),
        "states": [
            {"state": k, "prior": float(estimator.weights_[k]), "rows": int(counts[k])}
            for k in range(len(counts))
        ],
        "mean_probability": float(proba.max(1).mean()),
        "out": args.out,
    }
    lines = ["state   prior    rows   share"]
    lines += [
        f"{k:5d}  {estimator.weights_[k]:6.3f}  {counts[k]:6d}  {counts[k] / len(proba):6.3f}"
        for k in range(len(counts))
    ]
    lines.append(f"mean probability of the state assigned: {proba.max(1).mean():.3f}")
    emit(args, result, lines)
    return 0
