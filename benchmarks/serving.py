"""A server under load: `modeflow serve` on diamonds, four clients at full speed for a minute.

    python benchmarks/serving.py                # into results/serving.json
    python benchmarks/serving.py --seconds 5

Of every request the status is counted, and the resident memory of the server is read every second: after the
first ten it should not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from common import fit_diamonds, write

CLIENTS, ROWS, HELD = 4, 6000, 10
FIT = ["latent_options.states=8", "latent_options.likelihood=leaves", "max_epochs=3"]


def asked(rows: list[dict[str, Any]]) -> list[tuple[str, Any, int]]:
    """Requests, each with the status it should have."""
    holed = [{**row, "price": None} for row in rows[:10]]
    return [
        ("/score", {"rows": rows}, 200),
        ("/sample", {"n": 50, "given": {"cut": "Ideal", "price": 1000}}, 200),
        ("/impute", {"rows": holed}, 200),
        ("/assign", {"rows": rows[:20]}, 200),
        ("/reasons", {"rows": rows[:2]}, 200),
        ("/score", {"rows": [{**rows[0], "carat": "heavy"}]}, 422),
        ("/score", {"rows": [{"carat": 1}]}, 422),
        ("/sample", {"n": -1}, 422),
    ]


def resident(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def load(port: int, requests: list[tuple[str, Any, int]], seconds: float, pid: int) -> dict[str, Any]:
    """All clients at once; what was answered, how soon, and the memory."""
    seen: list[Counter[tuple[str, int]]] = [Counter() for _ in range(CLIENTS)]
    waits: list[list[float]] = [[] for _ in range(CLIENTS)]
    wrong: list[str] = []
    began = time.monotonic()

    def client(k: int) -> None:
        connection, i = HTTPConnection("127.0.0.1", port, timeout=300), k
        while time.monotonic() < began + seconds:
            path, body, status = requests[i % len(requests)]
            before, i = time.monotonic(), i + 1
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            waits[k].append(time.monotonic() - before)
            seen[k][path, answer.status] += 1
            if answer.status != status:
                wrong.append(f"{path} {answer.status} {content[:200]!r}")
        connection.close()

    threads = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append(round(resident(pid), 1))
        time.sleep(1.0)
    total = sum(seen, Counter())
    every = np.concatenate(waits) * 1e3
    middle, tail = np.quantile(every, [0.5, 0.99])
    return {
        "seconds": round(time.monotonic() - began, 1), "requests": total.total(), "wrong": wrong[:20],
        "by_path": {f"{path} {status}": n for (path, status), n in sorted(total.items())},
        "milliseconds": {"median": round(float(middle), 1), "99": round(float(tail), 1)},
        "megabytes": {
            "after_10_s": memory[min(HELD, len(memory) - 1)], "end": memory[-1], "most": max(memory),
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = fit_diamonds(Path(folder), ROWS, FIT)
        rows = pl.read_csv(Path(folder) / "diamonds.csv")[:50].rows(named=True)
        program = [sys.executable, "-m", "modeflow", "serve", str(run), "--port", "0", "--json"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
                requests = asked(rows)
                load(port, requests, 1.0, process.pid)  # what is found out at the first question
                before = os.getloadavg()[0]
                found = load(port, requests, args.seconds, process.pid)
            finally:
                process.send_signal(signal.SIGINT)
    found["clients"], found["load"] = CLIENTS, [round(before, 1), round(os.getloadavg()[0], 1)]
    print(json.dumps(found, indent=1))
    write("serving", found)


if __name__ == "__main__":
    main()
