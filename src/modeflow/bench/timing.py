"""`modeflow bench`: our speed beside that of every flow library installed, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from modeflow.errors import ModeflowError

__all__ = ["MEASURES", "compare", "measure", "ratios"]

MEASURES = {"step": "training step", "log_prob": "log-density", "sample": "samples"}


def measure(contestant: str, case_name: str, threads: int) -> dict[str, float]:
    """Median milliseconds of each measure, in this process."""
    import torch

    from modeflow.bench.contestants import CASES, CONTESTANTS
    from modeflow.native import use_native

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):  # also for libraries with thread pools of their own
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.manual_seed(0)
    case = CASES[case_name]
    with use_native(contestant != "modeflow, PyTorch"):
        timed = CONTESTANTS[contestant][1](case)
        x = timed.array(torch.randn(case.batch, case.features))
        wide = timed.array(torch.randn(case.rows, case.features))
        step = _own_step(timed, x) if timed.step is None else partial(timed.step, x)

        @torch.no_grad()
        def log_prob() -> None:
            timed.log_prob(wide)

        @torch.no_grad()
        def sample() -> None:
            timed.sample(case.samples)

        result = {"step": _time(step, 25)}
        timed.module.eval()
        result["log_prob"] = _time(log_prob, 5)
        result["sample"] = _time(sample, 5)
    return result


def _own_step(timed: Any, x: Any) -> Callable[[], None]:
    """A step of training in PyTorch: loss, gradient, clipping, fused Adam."""
    import torch

    from modeflow.training.flat import FlatParameters

    parameters = list(timed.module.parameters())
    flat = FlatParameters(parameters) if timed.flat else None
    if flat is not None:
        flat.attach()
    trained: Any = flat.vectors if flat is not None else parameters
    optimizer = torch.optim.Adam(trained, lr=1e-4, fused=True)

    def step() -> None:
        if flat is not None:
            flat.zero_grad()
        else:
            optimizer.zero_grad()
        (-timed.log_prob(x).mean()).backward()
        if flat is not None:
            flat.clip(5.0)
        else:
            torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()

    return step


def _time(call: Callable[[], None], repeats: int) -> float:
    """Median milliseconds; at most some ten seconds in all."""
    for _ in range(2):
        began = time.perf_counter()
        call()
        once = time.perf_counter() - began
    times = []
    for _ in range(max(2, min(repeats, int(10 / max(once, 1e-6))))):
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return median(times)


def compare(
    names: Sequence[str],
    cases: Sequence[str],
    launches: int,
    threads: int,
    announce: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Times of every contestant at every size, each launched several times, in turn.

    Returns:
        one mapping a launch: ``case``, ``contestant``, ``launch``, and milliseconds of each measure.
    """
    runs = []
    for launch in range(launches):
        for case in cases:
            # In turn, and each round begins with another: what drifts falls on all alike.
            for name in [*names[launch % len(names) :], *names[: launch % len(names)]]:
                announce(f"launch {launch + 1} of {launches}: {case}, {name}")
                runs.append(
                    {"case": case, "contestant": name, "launch": launch, **_launch(name, case, threads)}
                )
    return runs


def _launch(name: str, case: str, threads: int) -> dict[str, float]:
    code = "import sys, json; from modeflow.bench.timing import measure; "
    code += "print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, name, case, str(threads)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModeflowError(f"bench: {name} failed at '{case}': {reason}")
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def ratios(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times as long as ours each contestant takes, launch by launch.

    Returns:
        one mapping a case, contestant and measure: ``ratio`` (median), ``low`` and ``high`` (over launches),
        ``ms`` (median), and ``resolved``: whether the range lies outside that of our own second entry.
    """
    ours = {(r["case"], r["launch"]): r for r in runs if r["contestant"] == "modeflow"}
    rows: list[dict[str, Any]] = []
    cases = list(dict.fromkeys(r["case"] for r in runs))
    names = list(dict.fromkeys(r["contestant"] for r in runs))
    for case in cases:
        for measured in MEASURES:
            noise: list[float] = [1.0]
            for name in sorted(names, key=lambda n: n != "modeflow again"):
                each = [r for r in runs if r["case"] == case and r["contestant"] == name]
                found = [r[measured] / ours[case, r["launch"]][measured] for r in each]
                if name == "modeflow again":
                    noise = found
                row = {
                    "case": case,
                    "measure": measured,
                    "contestant": name,
                    "ratio": median(found),
                    "low": min(found),
                    "high": max(found),
                    "ms": median([r[measured] for r in each]),
                    "resolved": min(found) > max(*noise, 1.0) or max(found) < min(*noise, 1.0),
                }
                rows.append(row)
    return rows
