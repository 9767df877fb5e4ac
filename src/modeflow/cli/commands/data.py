"""`modeflow data`."""

from __future__ import annotations

import argparse

from modeflow.cli.commands._output import emit, say
from modeflow.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """List the data sets, or download a benchmark."""
    from modeflow.data import (
        BENCHMARKS,
        IMAGE_SETS,
        data_roots,
        download_benchmark,
        download_images,
        list_datasets,
    )
    from modeflow.errors import nearest

    if args.action == "download":
        free = [k for k, v in IMAGE_SETS.items() if any(url for url, _ in v.files.values())]
        names = [*BENCHMARKS, *(f"images/{k}" for k in free)]
        if args.name is None:
            raise ConfigError(f"name the set to download: {', '.join(names)}")
        if args.name not in names:
            raise ConfigError(
                f"'{args.name}' cannot be downloaded{nearest(args.name, names)} ({', '.join(names)})"
            )
        say(args, f"downloading {args.name} and checking its checksum")
        fetch = download_images if args.name.startswith("images/") else download_benchmark
        paths = [str(p) for p in fetch(args.name, progress=not (args.quiet or args.json))]
        emit(args, {"name": args.name, "files": paths}, [f"{args.name} is in {', '.join(paths)}"])
        return 0
    infos = list_datasets()
    lines: list[str] = []
    kind = None
    for info in infos:
        if info.kind != kind:
            kind = info.kind
            lines += ["", f"{kind}"] if lines else [f"{kind}"]
        rows = "any" if info.rows is None else str(info.rows)
        columns = "?" if info.columns is None else str(info.columns)
        here = "here" if info.available else "not here"
        exact = ", exact density known" if info.exact_density else ""
        note = f"  {info.note}" if info.note else ""
        lines.append(f"  {info.name:24}{rows:>9} x {columns:<4} {here}{exact}{note}")
    lines += ["", "looked in: " + ", ".join(str(r) for r in data_roots())]
    lines.append("toys take parameters: modeflow fit ring:k=16,sigma=0.05 --rows 5000 -o run")
    emit(args, {"data": [i.to_dict() for i in infos], "roots": [str(r) for r in data_roots()]}, lines)
    return 0
