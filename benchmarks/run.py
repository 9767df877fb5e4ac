"""All benchmarks, one after the other: python benchmarks/run.py [name ...]"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

ALL = (
    "jacobian",
    "cost",
    "objectives",
    "blobs",
    "islands",
    "toys",
    "tables",
    "classify",
    "defaults",
    "flows",
    "speed",
    "steps",
    "scaling",
    "tree",
    "page",
)


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"no benchmark is called '{unknown[0]}' ({', '.join(ALL)})")
    here = Path(__file__).parent
    sys.path.insert(0, str(here))
    sys.argv = sys.argv[:1]
    for name in names:
        print(f"== {name}", flush=True)
        try:
            runpy.run_path(str(here / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main()
