"""What workers cost: `modeflow score` over many files in one process, in two, and in two of Ray.

    PYTHONPATH=... python benchmarks/engines.py            # into results/engines.json; needs modeflow[ray]
    python benchmarks/engines.py --files 12 --rows 50000

Processor seconds are those of the command and of all that it began, its daemons included (to half a second a
process). Every output is compared with that of one process, number by number.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from common import write
from reliability_processes import adopt, below
from streaming import SETTINGS, rows

WAYS = {
    "one process": ["--jobs", "1"],
    "two processes": ["--jobs", "2"],
    "two workers of Ray": ["--jobs", "2", "--engine", "ray"],
}


def _ticks() -> dict[int, int]:
    """Of every process that this one, or one of those, began: how much of the processor it has used."""
    found = {}
    for pid in below(os.getpid()):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            found[pid] = int(words[11]) + int(words[12])
    return found


def measured(*args: str) -> dict[str, float]:
    """A command: its seconds, and the processor's of it and all that it began, looked at twice a second.

    What a process used is not known to who began it where that does not wait for it, as Ray does not.
    """
    used: dict[int, int] = {}
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "modeflow", *args], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        used |= _ticks()
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"modeflow {' '.join(args)} ended with {process.returncode}")
    cpu = sum(used.values()) / os.sysconf("SC_CLK_TCK")
    return {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(cpu, 1)}


def difference(folder: Path, other: Path) -> float:
    """The largest difference of a score from that of one process, as a share of it, or of a nat."""
    found = 0.0
    for file in sorted(folder.iterdir()):
        a, b = (pl.read_parquet(each / file.name)[:, 1].to_numpy() for each in (folder, other))
        found = max(found, float((np.abs(a - b) / np.maximum(np.abs(a), 1.0)).max()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--rows", type=int, default=50_000)
    args = parser.parse_args()
    adopt()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        for i in range(args.files):
            rows(args.rows, i).write_parquet(folder / "data" / f"{i:03}.parquet")
        run, few = str(folder / "run"), str(folder / "few.parquet")
        rows(20_000, 99).write_parquet(few)
        measured("fit", few, "-o", run, "--quiet", *(part for each in SETTINGS for part in ("--set", each)))
        one = folder / "one process"
        for name, how in WAYS.items():
            if "ray" in how and importlib.util.find_spec("ray") is None:
                continue
            out = folder / name
            found[name] = measured("score", run, f"{folder}/data/*.parquet", "-o", str(out), "--quiet", *how)
            found[name]["difference"] = difference(one, out)
            print(name, json.dumps(found[name]), flush=True)
    load = round(os.getloadavg()[1], 1)
    write("engines", {"files": args.files, "rows": args.rows, "threads": 1, "load": load, "ways": found})


if __name__ == "__main__":
    main()
