"""`modeflow report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from modeflow.cli.commands._files import open_run
from modeflow.cli.commands._output import emit, say


def run(args: argparse.Namespace) -> int:
    """Write the page about a run."""
    from modeflow.data import check_writable
    from modeflow.report import gather, write_report

    target = Path(args.out) if args.out else Path(args.run_folder) / "report.html"
    fitted = open_run(args)
    check_writable(target)
    if fitted.config.images:
        from modeflow.cli.commands import _images

        return _images.report(args, fitted, target)
    data = gather(
        fitted,
        baselines=not args.no_baselines,
        quiet=args.quiet or args.json,
        announce=lambda line: say(args, line),
    )
    write_report(data, target)
    rows = [
        {"name": r.name, "value": r.value, "standard_error": r.standard_error, "kind": r.kind, "n": r.n}
        for r in data.likelihoods
    ]
    lines = [
        f"{r.name:24} {r.value:10.4f}" + (f" ± {r.standard_error:.4f}" if r.standard_error else "")
        for r in data.likelihoods
    ]
    emit(args, {"report": str(target), "log_likelihood": rows}, [*lines, f"wrote {target}"])
    return 0
