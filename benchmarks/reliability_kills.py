"""Processes killed at random moments, and what surrounds a process: a full disk, clocks, two fits at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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


def _write(file: Path, seed: int, n: int = 300) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) + 6 * rng.integers(2, size=(n, 1))
    np.savetxt(file, x, delimiter=",", header="a,b", comments="")


def _child(work: Callable[[], int], quiet: bool = True) -> int:
    """A process that does it. This one has no threads: nothing that starts some was called in it."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        if quiet:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
        status = work()
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        os._exit(status)


def _ended(pid: int) -> int:
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


class _Job:
    """A command that is killed, and how it is repeated until it ends."""

    def __init__(self, first: list[str], again: list[str], made: list[Path], clean: list[Path]) -> None:
        self.first, self.again, self.made, self.clean = first, again, made, clean

    def content(self) -> list[bytes]:
        return [path.read_bytes() for path in self.made]

    def fresh(self) -> None:
        for path in self.clean:
            shutil.rmtree(path, ignore_errors=True)


def _jobs(folder: Path) -> dict[str, _Job]:
    data = folder / "data"
    data.mkdir()
    for i in range(6):
        _write(data / f"p{i}.csv", i)
    _write(folder / "one.csv", 9)
    run = folder / "run"
    if _ended(_child(lambda: main(["fit", str(folder / "one.csv"), "-o", str(run), *FIT]))):
        raise SystemExit("the fit to score with failed")
    out, engine, fit, streamed = (folder / name for name in ("scores", "engine", "fit", "streamed"))
    score = ["score", str(run), f"{data}/*.csv", "--quiet", "-o"]
    parts = [f"p{i}.csv" for i in range(6)]
    return {
        "fit": _Job(
            ["fit", str(folder / "one.csv"), "-o", str(fit), *FIT],
            ["fit", "-o", str(fit), "--resume", "--quiet"], [fit / name for name in KEPT], [fit],
        ),
        "fit, streamed": _Job(
            ["fit", f"{data}/*.csv", "-o", str(streamed), *FIT],
            ["fit", "-o", str(streamed), "--resume", "--quiet"], [streamed / name for name in KEPT], [streamed],
        ),
        "score, many files": _Job([*score, str(out)], [*score, str(out)], [out / name for name in parts], [out]),
        "score, two processes": _Job(
            [*score, str(engine), "--jobs", "2"], [*score, str(engine), "--jobs", "2"],
            [engine / name for name in parts], [engine],
        ),
    }  # fmt: skip


def _kill_once(job: _Job, moment: float) -> str:
    """Kill a command (its group) at a moment, repeat it to its end: "", or what is wrong."""
    started = (job.clean[0] / "config.yaml").exists() or "--resume" not in job.again

    def work() -> int:
        os.setsid()
        return main(job.first if not started else job.again)

    pid = _child(work)
    time.sleep(moment)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)
    ended = _ended(pid)
    if ended == 0:
        return "over"
    halves = [
        p for p in job.clean[0].rglob("*") if p.is_file() and p.stat().st_size == 0 and p.suffix == ".csv"
    ]
    return f"an empty output: {halves[0].name}" if halves else ""


def kills(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """So many kills, evenly of fits, scores and engine runs; yields what was seen so far."""
    found: dict[str, Any] = {"kills": 0, "by_job": {}, "faults": [], **before}
    with tempfile.TemporaryDirectory() as scratch:
        wanted: dict[str, tuple[list[bytes], float]] = {}
        jobs = _jobs(Path(scratch))
        for name, job in jobs.items():
            began = time.perf_counter()
            if status := _ended(_child(lambda job=job: main(job.first))):
                raise SystemExit(f"{name}: status {status} without a kill")
            wanted[name] = job.content(), time.perf_counter() - began
            job.fresh()
        rng = np.random.default_rng(found["kills"])
        goal = found["kills"] + count
        while found["kills"] < goal:
            for name, job in jobs.items():
                content, seconds = wanted[name]
                row = found["by_job"].setdefault(name, {"kills": 0, "runs": 0, "faults": 0})
                # One to three kills in a run, which then goes on to its end.
                for _ in range(int(rng.integers(1, 4))):
                    wrong = _kill_once(job, float(rng.uniform(0.02, 1.0)) * seconds)
                    if wrong == "over":
                        break
                    found["kills"] += 1
                    row["kills"] += 1
                    if wrong:
                        found["faults"].append({"job": name, "kill": found["kills"], "fault": wrong})
                again = job.again
                if "--resume" in again and not (job.clean[0] / "config.yaml").exists():
                    again = job.first  # killed before there was anything to go on with
                finished = all(path.exists() for path in job.made)
                status = 0 if finished and "--resume" in again else _ended(_child(lambda a=again: main(a)))
                wrong = "" if status == 0 else f"repeated, it ended with {status}"
                if not wrong and job.content() != content:
                    wrong = "another result than without the kill"
                row["runs"] += 1
                if wrong:
                    row["faults"] += 1
                    found["faults"].append({"job": name, "kill": found["kills"], "fault": wrong})
                job.fresh()
                yield found


def _limited(args: list[str], size: int) -> int:
    """The status of a command in which no file may grow beyond so many bytes, as on a full disk."""

    def work() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return main(args)

    return _ended(_child(work))


def _backwards(args: list[str]) -> int:
    """The status of a command whose clock goes back an hour in every call."""

    def work() -> int:
        now = [time.time()]

        def earlier() -> float:
            now[0] -= 3600.0
            return now[0]

        time.time = earlier  # type: ignore[assignment]
        return main(args)

    return _ended(_child(work))


def surroundings(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """A full disk, a folder that cannot be written to, a clock going back, two fits into one folder."""
    del before, count
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder / "one.csv", 9)
        run = folder / "run"
        fit = ["fit", str(folder / "one.csv"), *FIT, "-o"]
        assert _ended(_child(lambda: main([*fit, str(run)]))) == 0
        whole = [(run / name).read_bytes() for name in KEPT]

        full, sizes = folder / "full", (0, 2_000, 20_000)
        statuses = []
        for size in sizes:
            statuses.append(_limited([*fit, str(full)], size))
            if (full / "config.yaml").exists():
                again = _ended(_child(lambda: main(["fit", "-o", str(full), "--resume", "--quiet"])))
            else:
                again = _ended(_child(lambda: main([*fit, str(full)])))
            same = again == 0 and [(full / name).read_bytes() for name in KEPT] == whole
            statuses[-1] = statuses[-1] if same else f"{statuses[-1]}, then {again}, another result"
            shutil.rmtree(full, ignore_errors=True)
        cases["disk full, fit"] = {
            "limits": sizes,
            "statuses": statuses,
            "right": all(s in (0, 2) for s in statuses),
        }

        out = folder / "scores.csv"
        status = _limited(["score", str(run), str(folder / "one.csv"), "-o", str(out), "--quiet"], 1_000)
        cases["disk full, score"] = {
            "status": status,
            "output": out.exists(),
            "right": status == 2 and not out.exists(),
        }
        yield {"cases": cases}

        if os.geteuid() != 0:
            locked = folder / "locked"
            locked.mkdir(mode=0o500)
            status = _ended(_child(lambda: main([*fit, str(locked / "run")])))
            cases["read-only folder"] = {"status": status, "right": status == 2}
        else:
            status = _ended(_child(lambda: main([*fit, "/proc/run"])))
            cases["folder that refuses writing (/proc; root may write to read-only ones)"] = {
                "status": status, "right": status == 2,
            }  # fmt: skip

        back = folder / "back"
        status = _backwards([*fit, str(back)])
        same = status == 0 and [(back / name).read_bytes() for name in KEPT] == whole
        cases["clock going back"] = {"status": status, "same": same, "right": same}
        yield {"cases": cases}

        twice, pairs = folder / "twice", []
        for _ in range(2):
            both = [_child(lambda: main([*fit, str(twice)])) for _ in range(2)]
            statuses = sorted(_ended(pid) for pid in both)
            same = [(twice / name).read_bytes() for name in KEPT] == whole
            pairs.append({"statuses": statuses, "same": same})
            shutil.rmtree(twice)
        right = all(pair == {"statuses": [0, 2], "same": True} for pair in pairs)
        cases["two fits into one folder"] = {"pairs": pairs, "right": right}
        yield {"cases": cases}


if __name__ == "__main__":
    torch.set_num_threads(1)
    part = {"kills": kills, "surroundings": surroundings}[sys.argv[1]]
    for so_far in part(json.loads(sys.argv[3]), int(sys.argv[2])):
        print(json.dumps(so_far), flush=True)
