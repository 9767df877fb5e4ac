"""`modeflow sample`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence, Set

import numpy as np

from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._output import check_output, emit, say_wrote
from modeflow.errors import ConfigError

#: Rows drawn unless told otherwise.
_ROWS = 1000


def run(args: argparse.Namespace) -> int:
    """Draw rows; write them, or print them as CSV."""
    from modeflow.data import write_table

    if args.n is not None and args.n < 1:
        raise ConfigError(f"-n must be 1 or more, received {args.n}")
    check_output(args)
    fitted = open_run(args)
    if fitted.config.images:
        from modeflow.cli.commands import _images

        return _images.sample(args, fitted)
    args.n = _ROWS if args.n is None else args.n
    estimator = fitted.estimator
    seed = fitted.config["seed"] if args.seed is None else args.seed
    temperatures = {"temperature": args.temperature, "prior_temperature": args.prior_temperature}
    drawn, states = estimator.sample(args.n, state=args.state, random_state=seed, **temperatures)
    rows = np.asarray(drawn, dtype=np.float64)
    columns = estimator.schema_.columns
    integers = estimator.schema_.integer_columns
    if args.with_state:
        name = "state" if "state" not in columns else "modeflow_state"
        rows, columns = np.column_stack([rows, states]), (*columns, name)
        integers = (*integers, name)
    counts = np.bincount(states, minlength=estimator.n_states_).tolist()
    result = {"run": args.run_folder, "n": args.n, "seed": seed, "columns": list(columns), "states": counts}
    result |= temperatures
    if args.out and args.out != "-":
        write_table(args.out, rows, columns, integer_columns=integers)
        say_wrote(args, f"{args.n} rows, {len(columns)} columns")
        emit(args, {**result, "out": args.out}, [])
    elif args.json:
        emit(args, {**result, "rows": _plain(rows, columns, set(integers))}, [])
    else:
        write_table("-", rows, columns, integer_columns=integers)
    return 0


def _plain(rows: np.ndarray, columns: Sequence[str], integers: Set[str]) -> list[list[float | int]]:
    """Rows for JSON, whole numbers as such."""
    whole = [name in integers for name in columns]
    return [[int(v) if w else v for v, w in zip(row, whole, strict=True)] for row in rows.tolist()]
