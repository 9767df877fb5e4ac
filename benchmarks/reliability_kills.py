"""Processes killed at random moments: the command, its group, or one of its workers; then the command again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reliability_processes import FIT, KEPT, adopt, begun, below, child, ended, left, main, table, words_of

_FILES = 12
#: How workers are called by those who begin them.
_WORKERS = ("spawn_main", "ray::_do")


@dataclass
class _Job:
    """A command that is killed, and how it is repeated until it ends.

    Attributes:
        share: of the kills. first: the command. folder: what it makes. made: files, the same to the byte.
        again: how it goes on. ways: who is killed. apart: whether it begins other processes.
        whole: whether a file that is there is there whole, at any moment.
    """

    share: int
    first: list[str]
    folder: Path
    made: list[Path]
    again: list[str] | None = None
    ways: tuple[str, ...] = ("group",)
    apart: bool = False
    whole: bool = True
    env: dict[str, str] = field(default_factory=dict)

    def begin(self) -> int:
        """The command, or the one that goes on with it, where there is something to go on with."""
        resumed = self.again is not None and (self.folder / "config.yaml").exists()
        return begun(self.again if resumed and self.again else self.first, self.apart, self.env)

    def content(self) -> list[bytes | None]:
        return [path.read_bytes() if path.exists() else None for path in self.made]

    def changes(self) -> tuple[Any, ...]:
        """What is in the folder: another value after every write."""
        found = []
        for root, _, names in os.walk(self.folder):
            for name in names:
                with suppress(OSError):
                    told = os.stat(os.path.join(root, name))
                    found.append((name, told.st_size, told.st_mtime_ns))
        return tuple(sorted(found))


def _jobs(folder: Path) -> dict[str, _Job]:
    data, holes = folder / "data", folder / "holes"
    for place, share, n in ((data, 0.0, 2000), (holes, 0.2, 200)):
        place.mkdir()
        for i in range(_FILES):
            table(place / f"p{i}.csv", i, n, share)
    small = folder / "small"
    small.mkdir()
    for i in range(6):
        table(small / f"p{i}.csv", i)
    table(folder / "one.csv", 9)
    table(folder / "holed.csv", 10, 300, 0.2)
    run, filler = folder / "run", folder / "filler"
    tree = [
        "--quiet",
        "--set",
        "latent_options.states=2",
        "--set",
        "latent_options.likelihood=leaves",
        "--set",
        "max_epochs=2",
    ]
    for program in (
        ["fit", str(folder / "one.csv"), "-o", str(run), *FIT],
        ["fit", str(folder / "holed.csv"), "-o", str(filler), *tree],
    ):
        if ended(child(lambda program=program: main(program))):
            raise SystemExit(f"without a kill failed: {' '.join(program)}")
    parts = [f"p{i}.csv" for i in range(_FILES)]

    def fits(share: int, source: str, name: str) -> _Job:
        out = folder / name
        again = ["fit", "-o", str(out), "--resume", "--quiet"]
        return _Job(
            share,
            ["fit", source, "-o", str(out), *FIT],
            out,
            [out / each for each in KEPT],
            again,
            whole=False,
        )

    def over(share: int, name: str, command: list[str], *more: str, **how: Any) -> _Job:
        out = folder / name
        return _Job(
            share, [*command, "--quiet", "-o", str(out), *more], out, [out / part for part in parts], **how
        )

    score = ["score", str(run), f"{data}/*.csv"]
    two, ways = ("--jobs", "2"), ("worker", "group", "command")
    (folder / "drawn").mkdir()
    drawn = folder / "drawn" / "samples.csv"
    address = {"RAY_ADDRESS": f"127.0.0.1:{_PORT}", **_OPEN}
    return {
        "fit": fits(50, str(folder / "one.csv"), "fit"),
        "fit, streamed": fits(30, f"{small}/*.csv", "streamed"),
        "score, many files": over(25, "scores", score),
        "score --jobs 2": over(33, "two", score, *two, ways=ways, apart=True),
        "impute, many files": over(10, "filled", ["impute", str(filler), f"{holes}/*.csv"]),
        "anomalies, many files": over(10, "odd", ["anomalies", str(filler), f"{holes}/*.csv"]),
        "sample, in parts": _Job(12, ["sample", str(run), "-n", "300000", "--quiet", "-o", str(drawn)], folder / "drawn", [drawn]),
        "score --engine ray, a cluster": over(18, "cluster", score, *two, "--engine", "ray", ways=ways, apart=True, env=address),
        "score --engine ray, its own": over(12, "ray", score, *two, "--engine", "ray", ways=ways, apart=True),
    }  # fmt: skip


_PORT = 26379
#: A cluster of this machine asks for no token, whatever lies in the home folder.
_OPEN = {"RAY_AUTH_MODE": "disabled"}


def _cluster(folder: Path) -> subprocess.Popen[bytes]:
    """Ray on this machine, for commands that are given its address."""
    program = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "2",
               "--port", str(_PORT), "--include-dashboard", "false", "--disable-usage-stats"]  # fmt: skip
    env = {**os.environ, **_OPEN, "RAY_TMPDIR": str(folder)}
    found = subprocess.Popen(
        program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, start_new_session=True
    )
    time.sleep(20)
    return found


def _clean(job: _Job) -> tuple[list[bytes | None], float, int]:
    """What the command makes without a kill, how long it takes, and how often its folder changes."""
    began, pid, seen, count = time.perf_counter(), job.begin(), job.changes(), 0
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        now = job.changes()
        count, seen = count + (now != seen), now
        time.sleep(0.005)
    if status := os.waitstatus_to_exitcode(done[1]):
        raise SystemExit(f"{' '.join(job.first)}: status {status} without a kill")
    return job.content(), time.perf_counter() - began, count


def _kill(job: _Job, way: str, seconds: float, changes: int, rng: np.random.Generator) -> tuple[str, bool]:
    """Kill at a random moment of a run, or some time after a random change of its folder.

    Returns:
        what is wrong, if anything; and whether something was killed.
    """
    pid = job.begin()
    limit, seen, count = time.perf_counter() + 10 * seconds, job.changes(), 0
    wanted = 0 if rng.random() < 0.25 else int(rng.integers(1, max(int(0.8 * changes), 1) + 1))
    if way == "worker":
        wanted = max(1, wanted - 1)
    if not wanted:
        limit = time.perf_counter() + float(rng.uniform(0.05, 0.7)) * seconds
    status = None
    while time.perf_counter() < limit and not (wanted and count >= wanted):
        if (done := os.waitpid(pid, os.WNOHANG))[0]:
            status = done[1]
            break
        now = job.changes()
        count, seen = count + (now != seen), now
        time.sleep(0.005)
    if status is not None:
        code = os.waitstatus_to_exitcode(status)
        return (f"status {code} without a kill" if code else ""), False
    if way == "worker":
        workers = [p for p in below(os.getpid()) if any(word in words_of(p) for word in _WORKERS)]
        if workers:
            os.kill(workers[int(rng.integers(len(workers)))], signal.SIGKILL)
        code = ended(pid)  # the command goes on, and ends as if nothing had happened
        return (f"status {code} after a worker was killed" if code else ""), bool(workers)
    with suppress(ProcessLookupError):
        (os.killpg if way == "group" else os.kill)(pid, signal.SIGKILL)
    return "", ended(pid) == -signal.SIGKILL


def kills(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Kills up to so many in all, of fits, scores and engine runs; yields what was seen so far."""
    found: dict[str, Any] = {"kills": 0, "by_job": {}, "faults": [], **before}
    adopt()
    with tempfile.TemporaryDirectory() as scratch:
        jobs = _jobs(Path(scratch))
        total = sum(job.share for job in jobs.values())
        for name, job in jobs.items():
            row = found["by_job"].setdefault(name, {"kills": 0, "runs": 0, "faults": 0, "ways": {}})
            goal = -(-job.share * count // total)
            if row["kills"] >= goal:
                continue
            cluster = _cluster(Path(scratch)) if job.env else None
            kept = {cluster.pid, *below(cluster.pid)} if cluster else set()
            content, seconds, changes = _clean(job)
            row["seconds"] = round(seconds, 1)
            while row["kills"] < goal:
                rng = np.random.default_rng([row["runs"], job.share])
                shutil.rmtree(job.folder, ignore_errors=True)
                if job.made[0].parent.name == "drawn":
                    job.folder.mkdir()
                wrong = []
                for _ in range(int(rng.integers(1, 4))):  # one to three kills, and then to its end
                    way = job.ways[(row["kills"] + row["runs"]) % len(job.ways)]
                    said, hit = _kill(job, way, seconds, changes, rng)
                    wrong += [said] if said else []
                    if hit:
                        found["kills"], row["kills"] = found["kills"] + 1, row["kills"] + 1
                        row["ways"][way] = row["ways"].get(way, 0) + 1
                    there = job.content()
                    if job.whole and any(
                        a is not None and a != b for a, b in zip(there, content, strict=True)
                    ):
                        wrong.append("a half output")
                    if way == "worker" and hit and there != content:
                        wrong.append("another result after a worker was killed")
                    if not hit or way == "worker" or row["kills"] >= goal:
                        break
                finished = job.again is not None and None not in job.content()
                if not finished and (status := ended(job.begin())):
                    wrong.append(f"repeated, it ended with {status}")
                elif job.content() != content:
                    wrong.append("another result than without the kill")
                if cluster is None and (there := left(20.0, kept)):
                    wrong.append(f"processes left: {there}")
                row["runs"] += 1
                row["faults"] += bool(wrong)
                found["faults"] += [
                    {"job": name, "kill": found["kills"], "way": way, "fault": each} for each in wrong
                ]
                yield found
            if cluster is not None:
                cluster.kill()
                left(5.0, set())
    yield found


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "kills":
        part = kills
    else:
        from reliability_surroundings import surroundings as part
    for so_far in part(json.loads(sys.argv[3]), int(sys.argv[2])):
        print(json.dumps(so_far), flush=True)
