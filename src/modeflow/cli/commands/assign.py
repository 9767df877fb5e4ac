"""`modeflow assign`."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from modeflow.cli.commands._files import open_run, rows_of
from modeflow.cli.commands._output import check_output, emit, say_unscored, say_wrote


def run(args: argparse.Namespace) -> int:
    """The posterior over the states for every row; of a continuous latent, its mean and scale."""
    from modeflow.data import write_table

    check_output(args)
    fitted = open_run(args)
    if fitted.config.images:
        from modeflow.cli.commands import _images

        return _images.assign(args, fitted)
    estimator = fitted.estimator
    loaded, rows = rows_of(args, fitted)
    if estimator.latent_features_:
        return _continuous(args, estimator, rows, loaded)
    proba = estimator.predict_proba(rows)
    state = proba.argmax(1)
    counts = np.bincount(state, minlength=proba.shape[1])
    if args.out:
        number = np.arange(1, loaded.total + 1)
        columns = ("row", "state", "probability", *(f"p{k}" for k in range(proba.shape[1])))
        values = np.column_stack([number, loaded.spread(np.column_stack([state, proba.max(1), proba]))])
        write_table(args.out, values, columns, integer_columns=("row", "state"))
        say_wrote(args, f"{loaded.total} rows, {proba.shape[1]} states")
    say_unscored(loaded, "state")
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


def _continuous(args: argparse.Namespace, estimator: Any, rows: Any, loaded: Any) -> int:
    """Where every row lies on a continuous latent."""
    from modeflow.data import write_table

    mean, scale = estimator.encode(rows)
    n, dimensions = mean.shape
    if args.out:
        columns = ("row", *(f"z{j}" for j in range(dimensions)), *(f"z{j}_sd" for j in range(dimensions)))
        number = np.arange(1, loaded.total + 1)
        values = np.column_stack([number, loaded.spread(np.column_stack([mean, scale]))])
        write_table(args.out, values, columns, integer_columns=("row",))
        say_wrote(args, f"{loaded.total} rows, {dimensions} dimensions of z")
    say_unscored(loaded, "z")
    latent = [
        {
            "dimension": j,
            "mean": float(mean[:, j].mean()),
            "spread": float(mean[:, j].std()),
            "sd": float(scale[:, j].mean()),
        }
        for j in range(dimensions)
    ]
    lines = ["dimension    mean  spread   scale of q(z|x)"]
    lines += [f"{d['dimension']:9d}  {d['mean']:6.3f}  {d['spread']:6.3f}  {d['sd']:6.3f}" for d in latent]
    emit(
        args, {"run": args.run_folder, "data": args.data, "rows": n, "latent": latent, "out": args.out}, lines
    )
    return 0
