"""What each step of optimisation bought, and what is left above the matrix products alone.

Training steps of the couplings of `modeflow bench`, interleaved in one process on two threads; medians.

Run on an idle machine: python benchmarks/steps.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from common import write
from modeflow.accelerate import runs
from modeflow.bench.contestants import CASES, LAYERS, Case
from modeflow.flows import NSF
from modeflow.native import use_native
from modeflow.training.flat import FlatParameters

STAGES = ("PyTorch", "flat buffers", "native spline", "native stack")
WIDTHS = dict(runs.MAX_WIDTH)


def build(case: Case) -> Any:
    torch.manual_seed(0)
    return NSF(case.features, layers=LAYERS, hidden_features=case.hidden, bins=case.bins)


def stage(case: Case, name: str) -> Callable[[], dict[str, float]]:
    """One training step; milliseconds of its parts."""
    number = STAGES.index(name)
    model = build(case).train()
    x = torch.randn(case.batch, case.features)
    flat = FlatParameters(list(model.parameters())) if number >= 1 else None
    if flat is not None:
        flat.attach()
    trained: Any = flat.vectors if flat is not None else list(model.parameters())
    optimizer = torch.optim.Adam(trained, lr=1e-4, fused=flat is not None)

    def step() -> dict[str, float]:
        # Runs are cut at the first call, with the widths of the stage.
        runs.MAX_WIDTH = WIDTHS if number == 3 else dict.fromkeys(WIDTHS, 0)
        with use_native(number >= 2):
            times = [time.perf_counter()]
            if flat is not None:
                flat.zero_grad()
            else:
                optimizer.zero_grad()
            loss = -model.log_prob(x).mean()
            times.append(time.perf_counter())
            loss.backward()
            times.append(time.perf_counter())
            if flat is not None:
                flat.clip(5.0)
            else:
                torch.nn.utils.clip_grad_norm_(trained, 5.0)
            optimizer.step()
            times.append(time.perf_counter())
        forward, backward, rest = (1e3 * (b - a) for a, b in pairwise(times))
        return {"forward": forward, "backward": backward, "optimiser": rest, "all": forward + backward + rest}

    return step


def products(case: Case) -> Callable[[], dict[str, float]]:
    """The matrix products of a step, and nothing else: what a tuned library takes for them."""
    kept = case.features // 2
    outputs = (case.features - kept) * (3 * case.bins - 1)
    shapes = [(kept, case.hidden), *[(case.hidden, case.hidden)] * 4, (case.hidden, outputs)]
    shapes.append((case.features, case.features))
    tensors = []
    for inputs, out in LAYERS * shapes:
        x, w, g = torch.randn(case.batch, inputs), torch.randn(out, inputs), torch.randn(case.batch, out)
        tensors.append((x, w, g, torch.empty_like(g), torch.empty_like(x), torch.empty_like(w)))

    def step() -> dict[str, float]:
        began = time.perf_counter()
        for x, w, _g, y, _gx, _gw in tensors:
            torch.mm(x, w.t(), out=y)
        middle = time.perf_counter()
        for x, w, g, _y, gx, gw in tensors:
            torch.mm(g, w, out=gx)
            torch.mm(g.t(), x, out=gw)
        end = time.perf_counter()
        forward, backward = 1e3 * (middle - began), 1e3 * (end - middle)
        return {"forward": forward, "backward": backward, "optimiser": 0.0, "all": forward + backward}

    return step


def main() -> None:
    torch.set_num_threads(2)
    table = []
    for name in ("coupling, small", "coupling, large"):
        case = CASES[name]
        calls = {stage_name: stage(case, stage_name) for stage_name in STAGES}
        calls["matrix products alone"] = products(case)
        found: dict[str, list[dict[str, float]]] = {key: [] for key in calls}
        for _ in range(40 if "small" in name else 15):
            for key, call in calls.items():
                found[key].append(call())
        for key, values in found.items():
            parts = {part: float(np.median([v[part] for v in values[3:]])) for part in values[0]}
            table.append({"case": name, "stage": key, "milliseconds": parts})
            print(name, key, parts, flush=True)
    print(f"wrote {write('steps', {'threads': 2, 'table': table})}")


if __name__ == "__main__":
    main()
