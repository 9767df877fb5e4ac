"""Modules import one way: no circle in any room, and no import inside a function but to start quickly.

What may import which room is checked by import-linter; here every import counts, those for types alone too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import modeflow

ROOT = Path(modeflow.__file__).parent
#: Imported where they are used: heavy parts that most processes need not load, and why.
LATE = {
    ("modeflow.training.trainer", "modeflow.training.processes"): "torch.multiprocessing, for devices > 1",
    ("modeflow.bench.timing", "modeflow.bench.contestants"): "torch, after threads are set",
    ("modeflow.bench.timing", "modeflow.native"): "torch, after threads are set",
    ("modeflow.bench.timing", "modeflow.training.flat"): "torch, after threads are set",
    ("modeflow.bench.contestants", "modeflow.flows"): "torch, after threads are set",
}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports() -> tuple[dict[str, set[str]], set[tuple[str, str]]]:
    """Of every module those it imports as it is loaded (or for its types), and the pairs imported later."""
    files = {_name(file): file for file in ROOT.rglob("*.py")}
    early: dict[str, set[str]] = {name: set() for name in files}
    late: set[tuple[str, str]] = set()
    for name, file in files.items():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        inside = {id(part) for function in functions for part in ast.walk(function)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("modeflow"):
                continue
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                target = whole if whole in files else str(node.module)
                if id(node) in inside:
                    late.add((name, target))
                elif target != name:
                    early[name].add(target)
    return early, late


def test_no_circles():
    early, _ = _imports()
    done: set[str] = set()
    while ready := {m for m, needs in early.items() if m not in done and not (needs & early.keys()) - done}:
        done |= ready
    assert sorted(set(early) - done) == [], "these import one another, or what does"


@pytest.mark.parametrize("known", [True, False])
def test_imports_inside_functions_are_few_and_have_a_reason(known):
    _, late = _imports()
    # A command imports what it needs when it is run, so that --help is quick.
    late = {(m, t) for m, t in late if not m.startswith("modeflow.cli")}
    if known:
        assert set(LATE) - late == set(), "no longer there: take them off the list"
    else:
        assert late - set(LATE) == set(), "import at the head of the module, or say why not"
