"""What surrounds a process: a full disk, a folder that cannot be written to, clocks, two fits at once."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reliability_processes import FIT, KEPT, child, ended, main, table


def _limited(args: list[str], size: int) -> int:
    """The status of a command in which no file may grow beyond so many bytes, as on a full disk."""

    def work() -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return main(args)

    return ended(child(work))


def _backwards(args: list[str]) -> int:
    """The status of a command whose clock goes back an hour in every call."""

    def work() -> int:
        now = [time.time()]

        def earlier() -> float:
            now[0] -= 3600.0
            return now[0]

        time.time = earlier  # type: ignore[assignment]
        return main(args)

    return ended(child(work))


def surroundings(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """A full disk, a folder that cannot be written to, a clock going back, two fits into one folder."""
    del before, count
    cases: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table(folder / "one.csv", 9)
        run = folder / "run"
        fit = ["fit", str(folder / "one.csv"), *FIT, "-o"]
        assert ended(child(lambda: main([*fit, str(run)]))) == 0
        whole = [(run / name).read_bytes() for name in KEPT]

        full, sizes = folder / "full", (0, 2_000, 20_000)
        statuses = []
        for size in sizes:
            statuses.append(_limited([*fit, str(full)], size))
            if (full / "config.yaml").exists():
                again = ended(child(lambda: main(["fit", "-o", str(full), "--resume", "--quiet"])))
            else:
                again = ended(child(lambda: main([*fit, str(full)])))
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
            status = ended(child(lambda: main([*fit, str(locked / "run")])))
            cases["read-only folder"] = {"status": status, "right": status == 2}
        else:
            status = ended(child(lambda: main([*fit, "/proc/run"])))
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
            both = [child(lambda: main([*fit, str(twice)])) for _ in range(2)]
            statuses = sorted(ended(pid) for pid in both)
            same = [(twice / name).read_bytes() for name in KEPT] == whole
            pairs.append({"statuses": statuses, "same": same})
            shutil.rmtree(twice)
        right = all(pair == {"statuses": [0, 2], "same": True} for pair in pairs)
        cases["two fits into one folder"] = {"pairs": pairs, "right": right}
        yield {"cases": cases}
