"""Commands in processes of their own: forked, or begun anew; what they leave behind, and what belongs to them."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.mixture
import torch

# Slow to import, and forked with this process. What is of modeflow is imported in the forked ones: it needs
# polars, whose threads no forked process has.
_READY = (sklearn.mixture, torch)

FIT = ["--quiet", "--set", "n_states=2", "--set", "flow=nsf-coupling", "--set", "flow_options.layers=1",
       "--set", "flow_options.hidden_features=8", "--set", "max_epochs=6", "--set", "stacking=false"]  # fmt: skip
#: What a repeated command makes again, to the byte.
KEPT = ("model.safetensors", "test_scores.npy")
_SUBREAPER = 36  # prctl's: what a child leaves behind becomes a child of this process, and can be found


def table(file: Path, seed: int, n: int = 300, holes: float = 0.0) -> None:
    """Two islands of two numbers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) + 6 * rng.integers(2, size=(n, 1))
    x[rng.random(n) < holes, 1] = np.nan
    text = "\n".join(",".join("" if np.isnan(v) else f"{v:.6f}" for v in row) for row in x)
    file.write_text(f"a,b\n{text}\n", encoding="utf-8")


def child(work: Callable[[], int]) -> int:
    """A process that does it. This one has no threads: nothing that starts some was called in it."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        status = work()
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """The status of a process; below zero that of a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(args: list[str]) -> int:
    """A command, in a forked process, with a checkpoint every 20 ms in the place of every minute."""
    from modeflow.cli import main as command
    from modeflow.estimators import settings

    base = settings.TrainConfig

    def often(**options: Any) -> Any:
        return base(**{**options, "checkpoint_every_seconds": 0.02})

    settings.TrainConfig = often  # type: ignore[misc, assignment]
    return command(args)


def begun(args: list[str], apart: bool, env: dict[str, str]) -> int:
    """A command in a session of its own: forked, or, where it starts others (`apart`), begun anew."""
    if not apart:

        def work() -> int:
            os.setsid()
            return main(args)

        return child(work)
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    program = [sys.executable, "-m", "modeflow", *args]
    return os.posix_spawn(sys.executable, program, {**os.environ, **env}, file_actions=quiet, setsid=True)


# -- what belongs to a process -------------------------------------------------------------------------


def adopt() -> None:
    """Have whatever a process leaves behind become a child of this one."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _parents() -> dict[int, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if words[0] != "Z":
                found[int(path.parent.name)] = int(words[1])
    return found


def below(pid: int) -> list[int]:
    """Processes that a process began, and those that they began."""
    parents, found = _parents(), [pid]
    for each in found:
        found += [p for p, parent in parents.items() if parent == each]
    return found[1:]


def words_of(pid: int) -> str:
    """The command line of a process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def left(patience: float, kept: set[int]) -> list[str]:
    """What processes that were killed left behind, and did not end by itself in time; it is ended now."""
    limit = time.monotonic() + patience
    while True:
        with suppress(ChildProcessError):  # those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        there = [pid for pid in below(os.getpid()) if pid not in kept]
        if not there or time.monotonic() > limit:
            break
        time.sleep(0.05)
    found = [words_of(pid)[:80] for pid in there]
    for pid in there:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    return found
