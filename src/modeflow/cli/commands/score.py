"""`modeflow score`."""

from __future__ import annotations

import argparse

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_unscored, say_wrote


def run(args: argparse.Namespace) -> int:
    """Score every row; the header of the file says what the number is. A row with a bad cell scores NaN."""
    from modeflow.data import write_table

    check_output(args)
    fitted = open_run(args)
    estimator, domain = fitted.estimator, fitted.estimator.domain_
    rows, word = rows_of(args, fitted), domain.word
    log_prob, cost, kind = estimator.scores(rows.values)
    mean = domain.summarise(log_prob, kind, cost)
    columns = domain.scores(log_prob, cost, kind)
    if args.out:
        numbers = np.arange(1, rows.total + 1, dtype=np.float64)
        values = np.column_stack([numbers, *(rows.spread(column) for column in columns.values())])
        write_table(args.out, values, (word, *columns), integer_columns=(word,))
        say_wrote(args, f"{rows.total} {word}s, column '{next(iter(columns))}'")
    say_unscored(rows)
    order = np.argsort(log_prob)
    told, worst = domain.told(log_prob), order[~np.isin(rows.rows[order], rows.empty)][:5]
    result = {
        "run": args.run_folder,
        "data": args.data,
        domain.measure: mean.to_dict(),
        "units": domain.units,
        f"least_likely_{word}s": [{word: int(rows.rows[i]) + 1, domain.shown: float(told[i])} for i in worst],
        f"{word}s_without_score": [{word: row + 1, "reason": why} for row, why in rows.bad.items()],
        f"{word}s_without_cells": [int(row) + 1 for row in rows.empty],
        "notes": list(rows.notes),
        "interrupted": fitted.interrupted,
        "out": args.out,
    }
    least = ", ".join(f"{rows.rows[i] + 1} ({told[i]:.2f})" for i in worst)
    shown = domain.shown.replace("_", "-")
    emit(args, result, [f"mean {shown:13} {mean}", f"least likely {word + 's':6}{least}"])
    return 0
