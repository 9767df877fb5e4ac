"""What happens at the edges: numbers of any size, damaged files, kills, a full disk, two fits at once.

    python benchmarks/reliability.py                              # all parts, the counts of the published page
    python benchmarks/reliability.py transforms --count 100000    # so many inputs a transform and precision
    python benchmarks/reliability.py files --count 2000
    python benchmarks/reliability.py kills --count 200
    python benchmarks/reliability.py surroundings

Each part adds to what results/reliability.json has, so that one that was cut off goes on: files and kills up to
the count, transforms with other seeds by so many more; `--fresh` begins a part anew. Kills take Ray too where it
is installed (modeflow[ray]). Transforms are those of tests/constructors.py with perturbed parameters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import RESULTS, write
from reliability_files import files
from reliability_transforms import transforms


def _apart(name: str) -> Callable[..., Iterator[dict[str, Any]]]:
    """A part in a process of its own, which forks others: nothing may have started threads in it."""

    def part(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        program = [sys.executable, str(Path(__file__).with_name("reliability_kills.py")), name, str(count)]
        with subprocess.Popen([*program, json.dumps(before)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
        if process.returncode:
            raise SystemExit(process.returncode)

    return part


PARTS: dict[str, tuple[Callable[..., Iterator[dict[str, Any]]], int]] = {
    "transforms": (transforms, 1_000_000),
    "files": (files, 2_000),
    "kills": (_apart("kills"), 200),
    "surroundings": (_apart("surroundings"), 1),
}


def _parts(path: Path) -> dict[str, Any]:
    """What there is so far; another part may be counted at the same time."""
    return dict(json.loads(path.read_text(encoding="utf-8"))["parts"]) if path.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--count", type=int, help="inputs, files or kills; that of the full run by default")
    parser.add_argument("--fresh", action="store_true", help="forget what was counted before")
    args = parser.parse_args()
    path = Path(RESULTS) / "reliability.json"
    for name in args.parts:
        part, full = PARTS[name]
        before = {} if args.fresh else _parts(path).get(name, {})
        for found in part(before, args.count or full):  # said as it goes, so that nothing is lost
            write("reliability", {"parts": {**_parts(path), name: found}})


if __name__ == "__main__":
    main()
