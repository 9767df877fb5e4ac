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
    report = gather(
        fitted,
        baselines=not args.no_baselines,
        quiet=args.quiet or args.json,
        announce=lambda line: say(args, line),
    )
    write_report(report, target)
    emit(args, {"report": str(target), **report.summary()}, [*report.lines(), f"wrote {target}"])
    return 0
