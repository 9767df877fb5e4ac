"""`modeflow bench`."""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from modeflow.cli.commands._output import emit, say
from modeflow.errors import ConfigError, nearest


def run(args: argparse.Namespace) -> int:
    """Time our flows beside those of the libraries installed."""
    from modeflow.bench.contestants import CASES, CONTESTANTS, installed
    from modeflow.bench.machine import machine, today
    from modeflow.bench.timing import MEASURES, compare, ratios
    from modeflow.data import check_writable
    from modeflow.data.table import atomic_write
    from modeflow.native import native_kernels

    if args.out:
        check_writable(args.out)
    if args.launches < 1:
        raise ConfigError(f"--launches must be 1 or more, received {args.launches}")
    threads = args.threads or os.cpu_count() or 1
    names = [n for n in installed() if n.startswith("modeflow") or not args.alone]
    cases = [c for c in CASES if args.case is None or c == args.case]
    if not cases:
        raise ConfigError(f"there is no case {args.case!r}{nearest(args.case, CASES)} ({', '.join(CASES)})")
    runs = compare(names, cases, args.launches, threads, lambda text: say(args, text))
    rows = ratios(runs)
    result = {
        "date": today(),
        "machine": machine(),
        "threads": threads,
        "native_kernels": native_kernels(),
        "runs": runs,
        "ratios": rows,
    }
    if args.out:
        text = json.dumps(result, indent=1)
        atomic_write(args.out, lambda file: file.write_text(text, encoding="utf-8"))
    missing = sorted({p for n, (p, _) in CONTESTANTS.items() if n not in installed()})
    emit(args, result, _lines(rows, MEASURES, threads, native_kernels(), missing))
    return 0


def _lines(
    rows: list[dict[str, Any]], measures: dict[str, str], threads: int, kernels: str, missing: list[str]
) -> list[str]:
    lines = [
        f"{threads} threads, native kernels: {kernels}; times as long as modeflow takes (lowest–highest)"
    ]
    for case in dict.fromkeys(r["case"] for r in rows):
        here = [r for r in rows if r["case"] == case]
        lines += ["", case, f"  {'':<18}" + "".join(f"{m:>34}" for m in measures.values())]
        for name in dict.fromkeys(r["contestant"] for r in here):
            cells = []
            for measured in measures:
                r = next(r for r in here if r["contestant"] == name and r["measure"] == measured)
                mark = "" if r["resolved"] or name.startswith("modeflow") else " unresolved"
                cells.append(f"{r['ratio']:.2f} ({r['low']:.2f}–{r['high']:.2f}) {r['ms']:.1f} ms{mark}")
            lines.append(f"  {name:<18}" + "".join(f"{c:>34}" for c in cells))
    if missing:
        lines += ["", f"not installed: {', '.join(missing)}"]
    return lines
