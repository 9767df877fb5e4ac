"""Speed beside other libraries: `modeflow bench` on two threads, three launches, into results/speed.json.

Run: python benchmarks/speed.py
"""

from __future__ import annotations

from common import RESULTS
from modeflow.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["bench", "--launches", "3", "--threads", "2", "-o", str(RESULTS / "speed.json")]))
