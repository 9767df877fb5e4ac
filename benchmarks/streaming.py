"""Peak memory and rows a second of tables larger than memory: fit and score on folders of parquet files.

    python benchmarks/streaming.py --rows 100000 1000000
    python benchmarks/streaming.py --mixed --rows 100000 1000000

Every measurement is a process of its own (`modeflow fit`, `modeflow score`), whose peak resident memory the
system tells. Rows a second of a fit are those of its second epoch, validation included. Beside the fit on
a folder stands the one on the same rows in one file, which are held in memory. Sizes that are not measured
again keep the results that they have.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from common import RESULTS, write

COLUMNS, PIECE = 10, 100_000
MIXED = ["max_epochs=2", "latent_options.states=8", "latent_options.likelihood=leaves", "batch_size=1024"]
SETTINGS = ["max_epochs=2", "n_states=3", "flow=nsf-coupling", "flow_options.layers=2",
            "flow_options.hidden_features=16", "batch_size=1024", "stacking=false"]  # fmt: skip


def rows(n: int, seed: int) -> pl.DataFrame:
    """Three islands, bent in half of the columns."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, COLUMNS)) + 3 * rng.integers(0, 3, n)[:, None] * (np.arange(COLUMNS) % 2)
    x[:, 1] += x[:, 0] ** 2
    return pl.DataFrame({f"c{i}": x[:, i] for i in range(COLUMNS)})


def mixed(n: int, seed: int) -> pl.DataFrame:
    """Eight columns of two kinds of customers: numbers, levels, dates, a tenth of four missing."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    amount = np.exp(rng.normal(3 + kind, 0.5))
    age = (30 + 20 * kind + rng.normal(0, 8, n)).round()
    cities = np.array([f"city {i:02}" for i in range(40)])
    days = np.datetime64("2020-01-01") + (rng.beta(2, 2 + kind) * 1800).astype("m8[D]")
    table = pl.DataFrame(
        {
            "amount": amount,
            "balance": rng.normal(kind * 100 - amount, 20),
            "age": age.astype(np.int64),
            "visits": rng.poisson(4 + 6 * kind),
            "city": cities[np.minimum(rng.geometric(0.1 + 0.1 * kind) - 1, 39)],
            "plan": np.array(["free", "basic", "full"])[np.minimum(rng.integers(0, 3, n), 2 - kind)],
            "active": rng.random(n) < 0.3 + 0.5 * kind,
            "since": days.astype("M8[D]"),
        }
    )
    holes = ((name, pl.Series(rng.random(n) < 0.1)) for name in ("balance", "age", "city", "since"))
    return table.with_columns(
        pl.when(hole).then(None).otherwise(pl.col(name)).alias(name) for name, hole in holes
    )


def measured(*args: str) -> dict[str, float]:
    """A command in a process of its own: its seconds and its peak memory, MB."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "modeflow", *args], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"modeflow {' '.join(args)} ended with {status}")
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024, 1),
    }


def fitted(data: str, run: Path, said: list[str]) -> dict[str, float]:
    """A fit, with the rows a second of its second epoch."""
    settings = [part for each in said for part in ("--set", each)]
    found = measured("fit", data, "-o", str(run), "--quiet", *settings)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = json.loads((run / "result.json").read_text())["rows"]["train"]
    return {**found, "rows_per_second": round(trained / (epochs[-1]["seconds"] - epochs[-2]["seconds"]), 1)}


def _before(name: str, said: list[str]) -> dict[str, Any]:
    """Sizes that were measured before, with the same settings."""
    file = RESULTS / f"{name}.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return dict(content["sizes"]) if content.get("settings") == said else {}


def main() -> None:
    """Measure every size, smallest first; results are written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--in-memory", type=int, default=1_000_000, help="most rows held in memory")
    parser.add_argument("--mixed", action="store_true", help="a table of numbers, levels, dates and holes")
    args = parser.parse_args()
    name, said, make = ("streaming_mixed", MIXED, mixed) if args.mixed else ("streaming", SETTINGS, rows)
    found: dict[str, dict[str, dict[str, float]]] = _before(name, said)
    with tempfile.TemporaryDirectory() as scratch:
        for n in args.rows:
            folder = Path(scratch) / str(n)
            folder.mkdir()
            for i in range(n // PIECE):
                make(PIECE, i).write_parquet(folder / f"{i:05}.parquet")
            pattern, run = f"{folder}/*.parquet", Path(scratch) / f"run-{n}"
            row = found[str(n)] = {"fit, streamed": fitted(pattern, run, said)}
            single = folder.with_suffix(".parquet")
            pl.scan_parquet(pattern).sink_parquet(single)
            row["score, one file"] = measured(
                "score", str(run), str(single), "-o", f"{scratch}/s.parquet", "--quiet"
            )
            row["score, many files"] = measured(
                "score", str(run), pattern, "-o", f"{scratch}/s-{n}", "--quiet"
            )
            if n <= args.in_memory:
                row["fit, in memory"] = fitted(
                    str(single), Path(scratch) / f"whole-{n}", [*said, "stream=false"]
                )
            columns = make(1, 0).width
            sizes = {size: found[size] for size in sorted(found, key=int)}
            write(name, {"threads": 1, "columns": columns, "settings": said, "sizes": sizes})
            print(n, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
