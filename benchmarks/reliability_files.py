"""Damaged files of every kind: one line and an exit status, nothing run, nothing overwritten."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from reliability_damage import KINDS, damaged

FIT = ["--quiet", "--set", "n_states=1", "--set", "flow=nsf-coupling", "--set", "flow_options.layers=1",
       "--set", "flow_options.hidden_features=8", "--set", "max_epochs=1", "--set", "stacking=false"]  # fmt: skip
TREE = ["--quiet", "--set", "latent_options.states=2", "--set", "latent_options.likelihood=leaves",
        "--set", "max_epochs=1"]  # fmt: skip
PICTURES = ["--quiet", "--model", "vae", "--set", "max_epochs=1"]
#: Seconds that a command may take, and bytes that it may ask for.
_PATIENCE, _MEMORY = 180, 8 << 30


# -- the process that has imported everything, and does what it is told --------------------------------


def _serve() -> None:
    """Commands from stdin, one a line; what became of each to stdout."""
    from modeflow.cli import main

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # polars writes of its panics there
    for line in sys.stdin:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            try:
                ended: int | str = main(json.loads(line))
            except SystemExit as error:
                ended = int(error.code or 0)
            except BaseException as error:  # what is looked for
                ended = f"{type(error).__name__}: {str(error)[:160]}"
        print(json.dumps([ended, said.getvalue()]), file=answers, flush=True)


class _Commands:
    """Commands in a process that stays; one that dies, or does not end, is told and another one begun."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def run(self, *args: str) -> tuple[int | str, str]:
        """The exit status of a command (or what happened in the place of one), and what it said on stderr."""
        if self.process is None:
            program = [sys.executable, str(Path(__file__)), "serve"]
            self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(args), file=self.process.stdin, flush=True)
        if not select.select([self.process.stdout], [], [], _PATIENCE)[0]:
            self.end()
            return f"no end after {_PATIENCE} s", ""
        answer = self.process.stdout.readline()
        if not answer:
            died = self.process.wait()
            self.end()
            return f"the process died ({died})", ""
        ended, said = json.loads(answer)
        return ended, said

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


# -- good files, and how each is asked for ------------------------------------------------------------


def _good(folder: Path, commands: _Commands) -> dict[str, bytes]:
    """One good file of every kind, and the runs that read them."""
    import h5py

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    frame.write_csv(folder / "good.csv")
    (folder / "good.csv.gz").write_bytes(gzip.compress((folder / "good.csv").read_bytes(), mtime=0))
    frame.write_parquet(folder / "good.parquet")
    np.savez(folder / "good.npz", data=x)
    np.save(folder / "good.npy", x)
    with h5py.File(folder / "good.h5", "w") as file:
        file["data"] = x
    for name, source in (("run", "good.csv"), ("arrays", "good.npy")):
        assert commands.run("fit", str(folder / source), "-o", str(folder / name), *FIT)[0] == 0
    for ending in ("png", "jpg"):
        images = folder / ending
        images.mkdir()
        for i in range(24):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / f"{i}.{ending}")
    fit = commands.run("fit", str(folder / "png"), "-o", str(folder / "pictures"), *PICTURES)
    assert fit[0] == 0, fit
    commands.run("schema", str(folder / "good.csv"), "-o", str(folder / "good.yaml"))
    found = {k: (folder / f"good.{k}").read_bytes() for k in KINDS if (folder / f"good.{k}").exists()}
    found["safetensors"] = (folder / "run" / "model.safetensors").read_bytes()
    found["config"] = (folder / "run" / "config.yaml").read_bytes()
    return found | {ending: (folder / ending / f"0.{ending}").read_bytes() for ending in ("png", "jpg")}


def _ask(kind: str, file: Path, folder: Path, out: Path, turn: int = 0) -> tuple[str, ...]:
    """The command that reads a file: `score`; of tables and pictures by turns also `fit` and `schema`."""
    score = ("score", "--quiet", "-o", f"{out}.csv")
    if kind in ("safetensors", "config"):
        return (*score, str(file.parent), str(folder / "good.csv"))
    if kind == "yaml":
        return ("fit", str(folder / "good.csv"), "--schema", str(file), "-o", str(out), *TREE)
    if kind in ("png", "jpg"):
        if turn % 4 == 3:
            return ("fit", str(file.parent), "-o", str(out), *PICTURES)
        return (*score, str(folder / "pictures"), str(file.parent))
    if turn % 4 == 2:
        return ("fit", str(file), "-o", str(out), *FIT)
    if turn % 4 == 3:
        return ("schema", str(file), "-o", f"{out}.yaml")
    run = "arrays" if kind in ("npz", "npy", "h5") else "run"
    return (*score, str(folder / run), str(file))


def _put(kind: str, content: bytes, work: Path, folder: Path) -> Path:
    """A file in a folder of its own, where it is asked for."""
    work.mkdir()
    names = {"safetensors": "model.safetensors", "config": "config.yaml", "png": "1.png", "jpg": "1.jpg"}
    if kind in ("safetensors", "config"):
        for name in ("model.safetensors", "config.yaml", "result.json"):
            shutil.copy(folder / "run" / name, work / name)
    file = work / names.get(kind, f"bad.{kind}")
    file.write_bytes(content)
    return file


def _state(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _faults(ended: int | str, said: str, asked: tuple[str, ...], out: Path) -> list[str]:
    """What is wrong with the end of a command."""
    if isinstance(ended, str):
        return [ended]
    lines = said.count("modeflow: error")
    if ended == 2 and _made(out):
        return ["left an output of a refused command"]
    if "Traceback" in said or ended not in (0, 1, 2):
        return [f"status {ended}: {said[-160:]}"]
    if ended == 2 and (lines != 1 or said.rstrip().count("\n", said.rstrip().rfind("modeflow: error")) != 0):
        return [f"status 2 and not one line of an error: {said[-160:]}"]
    return []


def files(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Damaged files up to so many in all, evenly of all kinds; yields what was seen so far now and then."""
    found: dict[str, Any] = json_copy(before) or {"files": 0, "by_kind": {}, "faults": []}
    commands = _Commands()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kept"
        folder.mkdir()
        good = _good(folder, commands)
        for kind, content in good.items():  # so that a refusal says something
            for turn in range(4):
                work, out = Path(scratch) / f"whole-{kind}{turn}", Path(scratch) / f"whole-out-{kind}{turn}"
                asked = _ask(kind, _put(kind, content, work, folder), folder, out, turn)
                ended, said = commands.run(*asked)
                if ended != 0 and not (kind in ("png", "jpg") and asked[0] == "fit"):
                    raise SystemExit(f"{asked[0]}: a good {kind} file is refused: {said or ended}")
        state, mark = _state(folder), Path(scratch) / "mark"
        while (number := found["files"]) < count:
            rng = np.random.default_rng(number)
            kind = KINDS[number % len(KINDS)]
            work, out = Path(scratch) / "work", Path(scratch) / "out"
            content = damaged(kind, good, rng, mark)
            file = _put(kind, content, work, folder)
            asked = _ask(kind, file, folder, out, number // len(KINDS))
            ended, said = commands.run(*asked)
            faults = _faults(ended, said, asked, out)
            if mark.exists():
                faults.append("ran code")
                mark.unlink()
            if file.read_bytes() != content or (number % 50 == 0 and _state(folder) != state):
                faults.append("overwrote a file")
            row = found["by_kind"].setdefault(kind, {"files": 0, "refused": 0, "read": 0, "faults": 0})
            row["files"] += 1
            row["refused" if ended == 2 else "read"] += 1
            row["faults"] += bool(faults)
            found["faults"] += [
                {"kind": kind, "number": number, "command": asked[0], "fault": f} for f in faults
            ]
            found["files"] += 1
            shutil.rmtree(work)
            for made in _made(out):
                shutil.rmtree(made) if made.is_dir() else made.unlink()
            if number % 20 == 19:
                yield json_copy(found)
        if _state(folder) != state:
            found["faults"].append(
                {"kind": "all", "number": -1, "fault": "a file that was read is another now"}
            )
    commands.end()
    yield found


def _made(out: Path) -> list[Path]:
    """The output of a command, and pieces of one."""
    return [*out.parent.glob(f"{out.name}*"), *out.parent.glob(f".{out.name}*")]


def json_copy(content: Any) -> Any:
    """A deep copy of plain values."""
    return json.loads(json.dumps(content))


if __name__ == "__main__":
    _serve()
