"""`modeflow score`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeflow.cli.commands._files import Seen, parts_to_score
from modeflow.cli.commands._many import Outcome, over_files
from modeflow.cli.commands._output import say_unscored, say_wrote

#: Least likely rows that are told.
_TOLD = 5


def run(args: argparse.Namespace) -> int:
    """Score every row; the header of the file says what the number is. A row with a bad cell scores NaN."""
    return over_files(args, "score", handle)


def handle(args: argparse.Namespace, fitted: Any) -> Outcome:
    """Score one source, part by part."""
    from modeflow.data.columns.writing import TableWriter
    from modeflow.metrics import pooled

    estimator, domain = fitted.estimator, fitted.estimator.domain_
    word, seen, means = domain.word, Seen(), []
    worst: list[tuple[float, int, float]] = []
    columns: dict[str, np.ndarray] = {}
    with TableWriter(args.out) as out:
        for rows in parts_to_score(args, fitted, "score"):
            log_prob, cost, kind = estimator.scores(rows.values)
            if not rows.whole:  # one word for all parts
                kind = estimator.density_kind_
            means.append(domain.summarise(log_prob, kind, cost))
            columns = domain.scores(log_prob, cost, kind)
            numbers = rows.first + np.arange(1, rows.total + 1, dtype=np.float64)
            values = np.column_stack([numbers, *(rows.spread(column) for column in columns.values())])
            out.add(values, (word, *columns), (word,))
            seen.add(rows)
            worst = _least(worst, domain.told(log_prob), log_prob, rows)
    mean = means[0] if len(means) == 1 else pooled(means)
    if args.out:
        say_wrote(args, f"{seen.total} {word}s, column '{next(iter(columns))}'")
    say_unscored(seen.rows)
    result = {
        "run": args.run_folder,
        "data": args.data,
        domain.measure: mean.to_dict(),
        "units": domain.units,
        f"least_likely_{word}s": [{word: row + 1, domain.shown: told} for _, row, told in worst],
        **seen.told(word),
        "notes": list(seen.notes),
        "interrupted": fitted.interrupted,
        "out": args.out,
    }
    least = ", ".join(f"{row + 1} ({told:.2f})" for _, row, told in worst)
    shown = domain.shown.replace("_", "-")
    lines = [f"mean {shown:13} {mean}", f"least likely {word + 's':6}{least}"]
    return Outcome(result, lines, seen.total, mean)


def _least(
    worst: list[tuple[float, int, float]], told: np.ndarray, log_prob: np.ndarray, rows: Any
) -> list[tuple[float, int, float]]:
    """The least likely rows of all parts so far: score, index in the source, and the score as it is told."""
    order = np.argsort(log_prob)
    order = order[~np.isin(rows.rows[order], rows.empty)][:_TOLD]
    found = [(float(log_prob[i]), rows.first + int(rows.rows[i]), float(told[i])) for i in order]
    return sorted([*worst, *found], key=lambda row: (np.isnan(row[0]), row[0]))[:_TOLD]
