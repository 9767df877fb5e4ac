"""What a tree of states costs: a training step beside its matrix products alone, and rows scored a second.

A step is loss and gradient of 512 rows of 15 columns with 128 states each, leaves alone; its matrix products
are three a message (up, down, pair counts). Of many timings the fastest is given, so that other work on the
machine is not measured. Scored are rows in single precision, without gradients.

Run: python benchmarks/tree.py [--threads 2]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from common import write
from modeflow.models import TreeNVF

FEATURES, STATES, BATCH, SCORED = 15, 128, 512, 8192


def fastest(function: Callable[[], object], repeats: int = 40) -> float:
    """Seconds of the fastest of several calls."""
    for _ in range(3):
        function()
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = torch.randn(SCORED, FEATURES)
    # A tree of some depth: every column depends on one before it.
    for j in range(1, FEATURES):
        rows[:, j] = 0.8 * rows[:, (j - 1) // 2] + 0.6 * rows[:, j]
    model = TreeNVF(FEATURES, STATES, likelihood="leaves")
    model.start(rows, 0)
    batch = rows[:BATCH]
    evidence, tables = torch.rand(FEATURES - 1, BATCH, STATES), torch.rand(FEATURES - 1, STATES, STATES)

    def products() -> None:
        torch.bmm(evidence, tables.mT)
        torch.bmm(evidence, tables)
        torch.bmm(evidence.mT, evidence)

    def step() -> None:
        model.zero_grad()
        model.objective(batch).value.backward()

    @torch.no_grad()
    def score() -> None:
        model.log_prob(rows)

    alone, whole, scored = fastest(products), fastest(step), fastest(score, 8)
    found = {
        "threads": threads,
        "step_ms": round(1e3 * whole, 2),
        "products_ms": round(1e3 * alone, 2),
        "ratio": round(whole / alone, 2),
        "rows_per_second": round(SCORED / scored),
    }
    print(found)
    print(write("tree", {"features": FEATURES, "states": STATES, "batch": BATCH, **found}))


if __name__ == "__main__":
    main()
