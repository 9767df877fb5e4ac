"""`modeflow reproduce`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from modeflow.cli.commands._output import emit, say, say_notes
from modeflow.cli.commands.fit import fit_into
from modeflow.errors import ConfigError

#: In the folder of a run: which experiment it is, and how it compares.
_FILE = "reproduction.json"


def run(args: argparse.Namespace) -> int:
    """List the experiments, or fit one, or go on with it, and set it beside the paper."""
    if args.experiment is None:
        return _list(args)
    from modeflow.domains import DOMAINS
    from modeflow.runs.config import parse_assignment
    from modeflow.runs.experiments import experiment
    from modeflow.runs.folder import write_json

    chosen = experiment(args.experiment)
    folder = Path(args.out or f"runs/{chosen.name}")
    changed = dict(parse_assignment(text) for text in args.assignments)
    own = {"seed": args.seed, "device": args.device}
    changed |= {key: value for key, value in own.items() if value is not None}
    args.resume = (folder / "config.yaml").exists()
    if args.resume:
        _check_same(folder, chosen.name)
        say(args, f"goes on with {folder}")
    else:
        changed = {**chosen.settings(), **changed}

    def begun() -> None:
        write_json(folder / _FILE, {"experiment": chosen.name})

    def compared(result: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        domain = DOMAINS[result["domain"]]
        found = result[domain.measure]["test"]
        told = chosen.compared(found, domain.measure == "bits_per_dim")
        write_json(folder / _FILE, told)
        number = f"{_number(chosen.published)} ({chosen.paper}): {told['verdict']}"
        lines = [f"published     {number}"]
        if told["better_by"] is not None:
            lines[0] += f", by {abs(told['better_by']):.3g} ± {told['standard_error']:.2g}"
        return {"reproduction": told}, lines + [f"differs       {chosen.differs}"] * bool(chosen.differs)

    return fit_into(args, folder, changed, lambda note: say_notes(args, [note]), begun, compared)


def _check_same(folder: Path, name: str) -> None:
    import json

    file = folder / _FILE
    known = json.loads(file.read_text(encoding="utf-8"))["experiment"] if file.exists() else None
    if known != name:
        what = "another run" if known is None else f"the experiment {known}"
        raise ConfigError(f"'{folder}' holds {what}: give another folder with -o")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}".replace("-", "−")


def _list(args: argparse.Namespace) -> int:
    from modeflow.runs.experiments import EXPERIMENTS

    rows = [
        {"name": e.name, "published": e.published, "paper": e.paper, "cost": e.cost, "settings": str(e.path)}
        for e in EXPERIMENTS.values()
    ]
    lines = [f"{e.name:30}{_number(e.published):>8}  {e.cost:32}{e.paper}" for e in EXPERIMENTS.values()]
    head = f"{'experiment':30}{'paper':>8}  {'cost':32}of"
    emit(args, {"experiments": rows}, [head, *lines])
    say(args, "published: nats a row, or bits a dimension of images; `modeflow reproduce NAME` fits one")
    return 0
