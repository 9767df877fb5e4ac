"""What made the outputs in a folder: those of another command, model or options are not taken for its own."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from modeflow.errors import ConfigError

__all__ = ["made_since"]

#: The record, beside the outputs. A folder that is read as DATA passes it over.
_RECORD = ".modeflow.json"
#: What says how a command is run, not what it makes.
_HOW = (
    *("run", "data", "out", "run_folder", "command", "version"),
    *("jobs", "engine", "overwrite", "json", "quiet", "device"),
)


def made_since(args: argparse.Namespace, command: str, targets: list[str]) -> int:
    """The time, ns, before which no output in the folder of ``-o`` is one of this command.

    That is when the record was made. Outputs without one are of an earlier version: there the time of the
    model counts. Where nothing but the model of the run is another, or with ``--overwrite``, the record is
    made anew, and all outputs are to be. 0 without ``-o``, where none is there.

    Arguments:
        targets: the outputs.

    Raises:
        ConfigError: outputs of another command, run or options lie there.
    """
    from modeflow.data.download import file_md5

    if args.out is None:
        return 0
    run, record = Path(args.run_folder).expanduser(), Path(args.out).expanduser() / _RECORD
    files = sorted(run.glob("*.safetensors"))
    own = {
        "command": command,
        "run": str(run.resolve()),
        "options": {k: v for k, v in sorted(vars(args).items()) if k not in _HOW and not callable(v)},
        "model": [file_md5(file) for file in files],
    }
    own = json.loads(json.dumps(own, default=str))  # as it will be read
    if not args.overwrite and any(os.path.exists(target) for target in targets):
        before = _read(record)
        if before is None:  # of an earlier version
            return _write(record, own, max(os.stat(file).st_mtime_ns for file in files))
        _refuse_others(args.out, own, before)
        if before["model"] == own["model"]:
            return os.stat(record).st_mtime_ns
    return _write(record, own)


def _refuse_others(out: str, own: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise `ConfigError` where outputs are of something else than a model of the same run."""
    mine, theirs = own["options"], before["options"]
    others = [name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]
    if before["command"] != own["command"]:
        what = f"of 'modeflow {before['command']}'"
    elif before["model"] != own["model"] and before["run"] != own["run"]:
        what = f"of {before['run']}"
    elif others:
        what = "made with " + ", ".join(f"{name.replace('_', ' ')} {theirs.get(name)}" for name in others)
    else:
        return
    raise ConfigError(f"'{out}' holds outputs {what}: name another folder, or replace them with --overwrite")


def _read(record: Path) -> dict[str, Any] | None:
    """A record; None where there is none that can be read."""
    try:
        found = json.loads(record.read_text("utf-8"))
        kinds = {"command": str, "run": str, "options": dict, "model": list}
        return found if all(isinstance(found[name], kind) for name, kind in kinds.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(record: Path, own: dict[str, Any], time: int | None = None) -> int:
    """Write a record, as of a time or now, by the clock of the folder; that time."""
    from modeflow.data.table import atomic_write

    record.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(record, lambda file: file.write_text(json.dumps(own, indent=1) + "\n", "utf-8"))
    if time is not None:
        os.utime(record, ns=(time, time))
    return os.stat(record).st_mtime_ns
