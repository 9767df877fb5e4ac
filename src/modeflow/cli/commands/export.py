"""`modeflow export`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._output import emit


def run(args: argparse.Namespace) -> None:
    """Write the density of a run to a file, and say how nearly it is the same."""
    from modeflow.export import export_density

    found = export_density(open_run(args).estimator, args.to, precision=args.precision)
    holes = "summed out" if found.missing else "give NaN"
    lines = [
        f"wrote {found.path}: rows (N, {len(found.columns)}) float64 -> log_prob (N,), nats",
        f"columns          {', '.join(found.columns)}",
        *(f"codes of {name}: {', '.join(levels)}" for name, levels in found.codes.items()),
        f"missing cells    {holes}",
        f"differs by       {found.difference:.1e} of a score, on {found.rows} rows ({found.checked_by})",
    ]
    emit(args, {"run": args.run_folder, **found.to_dict()}, lines)
