"""Damaged files of every kind: one line and an exit status, nothing run, nothing overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from modeflow.cli import main

FIT = ["--quiet", "--set", "n_states=1", "--set", "flow=nsf-coupling", "--set", "flow_options.layers=1",
       "--set", "flow_options.hidden_features=8", "--set", "max_epochs=1", "--set", "stacking=false"]  # fmt: skip
TREE = ["--quiet", "--set", "latent_options.states=2", "--set", "latent_options.likelihood=leaves",
        "--set", "max_epochs=1"]  # fmt: skip
KINDS = ("csv", "parquet", "npz", "npy", "safetensors", "yaml", "png")


class _Bomb:
    """What unpickles by making a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _run(*args: str) -> tuple[int | str, str]:
    """The exit status of a command (or the exception that came out of it), and what it said on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            return main([*args]), said.getvalue()
        except SystemExit as error:
            return int(error.code or 0), said.getvalue()
        except BaseException as error:
            return f"{type(error).__name__}: {str(error)[:160]}", said.getvalue()


def _good(folder: Path) -> dict[str, bytes]:
    """One good file of every kind, and the runs that read them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    frame = pl.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    frame.write_csv(folder / "good.csv")
    frame.write_parquet(folder / "good.parquet")
    np.savez(folder / "good.npz", data=x)
    np.save(folder / "good.npy", x)
    assert _run("fit", str(folder / "good.csv"), "-o", str(folder / "run"), *FIT)[0] == 0
    assert _run("fit", str(folder / "good.npy"), "-o", str(folder / "arrays"), *FIT)[0] == 0
    images = folder / "images"
    images.mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(images / f"{i}.png")
    fit = (
        "fit",
        str(images),
        "-o",
        str(folder / "pictures"),
        "--quiet",
        "--model",
        "vae",
        "--set",
        "max_epochs=1",
    )
    assert _run(*fit)[0] == 0
    _run("schema", str(folder / "good.csv"), "-o", str(folder / "good.yaml"))
    found = {
        kind: (folder / f"good.{kind}").read_bytes() for kind in ("csv", "parquet", "npz", "npy", "yaml")
    }
    found["safetensors"] = (folder / "run" / "model.safetensors").read_bytes()
    found["png"] = (images / "0.png").read_bytes()
    return found


def _damaged(kind: str, good: dict[str, bytes], rng: np.random.Generator, mark: Path) -> bytes:
    """The file cut, changed, doubled, of another kind, of noise, or with code in it."""
    content = bytearray(good[kind])
    way = int(rng.integers(9))
    if way == 0:
        return bytes(content[: rng.integers(len(content))])
    if way in (1, 2):
        for at in rng.integers(len(content), size=rng.integers(1, 40)):
            content[at] = rng.integers(256)
        return bytes(content)
    if way == 3:
        at = int(rng.integers(len(content)))
        return bytes(content[:at] + rng.bytes(int(rng.integers(1, 400))) + content[at:])
    if way == 4:
        first, last = sorted(int(i) for i in rng.integers(len(content), size=2))
        return bytes(content[:first] + content[last:])
    if way == 5:
        return good[str(rng.choice([other for other in KINDS if other != kind]))]
    if way == 6:
        return rng.bytes(int(rng.integers(0, 2000)))
    if way == 7:
        return bytes(content[:40] * int(rng.integers(1, 30)))
    return _with_code(kind, rng, mark)


def _with_code(kind: str, rng: np.random.Generator, mark: Path) -> bytes:
    bomb = np.empty(3, dtype=object)
    bomb[:] = [_Bomb(mark)] * 3
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez(buffer, data=bomb)
    elif kind == "npy":
        np.save(buffer, bomb, allow_pickle=True)
    elif kind == "yaml":
        buffer.write(
            f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{mark}]]".encode()
        )
    elif kind == "csv":
        cell = str(
            rng.choice(["=cmd|'/C calc'!A0", "\x00", "１２", "1e99999", "\ud7ff", '"', "nan", "0x12", "a,b"])
        )
        buffer.write(b"a,b\n" + f"1,{cell}\n{cell},2\n".encode() * int(rng.integers(1, 60)))
    else:
        pickle.dump(_Bomb(mark), buffer)
    return buffer.getvalue()


def _ask(kind: str, file: Path, folder: Path, out: Path) -> tuple[str, ...]:
    if kind == "safetensors":
        return ("score", str(file.parent), str(folder / "good.csv"), "-o", str(out))
    if kind == "yaml":
        return ("fit", str(folder / "good.csv"), "--schema", str(file), "-o", str(out), *TREE)
    if kind == "png":
        return ("score", str(folder / "pictures"), str(file.parent), "-o", str(out))
    run = "arrays" if kind in ("npz", "npy") else "run"
    return ("score", str(folder / run), str(file), "-o", str(out))


def _put(kind: str, content: bytes, work: Path, folder: Path) -> Path:
    """A file in a folder of its own, where it is asked for."""
    work.mkdir()
    file = work / {"safetensors": "model.safetensors", "png": "1.png"}.get(kind, f"bad.{kind}")
    file.write_bytes(content)
    if kind == "safetensors":
        (work / "config.yaml").write_bytes((folder / "run" / "config.yaml").read_bytes())
    return file


def _whole_files_are_read(good: dict[str, bytes], folder: Path, scratch: Path) -> None:
    """The commands accept what is not damaged, so that a refusal says something."""
    for kind, content in good.items():
        file = _put(kind, content, scratch / f"whole-{kind}", folder)
        out = scratch / f"out-{kind}{'' if kind == 'yaml' else '.csv'}"
        ended, said = _run(*_ask(kind, file, folder, out))
        if ended != 0:
            raise SystemExit(f"a good {kind} file is refused: {said or ended}")


def _state(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def files(before: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """So many damaged files, evenly of all kinds; yields what was seen so far now and then."""
    found: dict[str, Any] = json_copy(before) or {"files": 0, "by_kind": {}, "faults": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kept"
        folder.mkdir()
        good = _good(folder)
        _whole_files_are_read(good, folder, Path(scratch))
        state, mark = _state(folder), Path(scratch) / "mark"
        for turn in range(count):
            number = found["files"]
            rng = np.random.default_rng(number)
            kind = KINDS[number % len(KINDS)]
            work = Path(scratch) / f"work{turn}"
            content = _damaged(kind, good, rng, mark)
            file = _put(kind, content, work, folder)
            ending = "" if kind == "yaml" else ".csv"
            out = Path(scratch) / f"out{turn}{ending}"
            ended, said = _run(*_ask(kind, file, folder, out))
            faults = []
            if isinstance(ended, str):
                faults.append(ended)
            elif "Traceback" in said or (ended not in (0, 1, 2)):
                faults.append(f"status {ended}: {said[-160:]}")
            elif ended == 2 and said.count("modeflow: error") != 1:
                faults.append(f"status 2 and {said.count('modeflow: error')} lines: {said[-160:]}")
            if mark.exists():
                faults.append("ran code")
                mark.unlink()
            if file.read_bytes() != content or (turn % 50 == 0 and _state(folder) != state):
                faults.append("overwrote a file")
            if ended == 2 and out.exists():
                faults.append("left an output of a refused command")
            row = found["by_kind"].setdefault(kind, {"files": 0, "refused": 0, "read": 0, "faults": 0})
            row["files"] += 1
            row["refused" if ended == 2 else "read"] += 1
            row["faults"] += bool(faults)
            found["faults"] += [{"kind": kind, "number": number, "fault": fault} for fault in faults]
            found["files"] += 1
            if turn % 50 == 49:
                yield json_copy(found)
        if _state(folder) != state:
            found["faults"].append(
                {"kind": "all", "number": -1, "fault": "a file that was read is another now"}
            )
    yield found


def json_copy(content: Any) -> Any:
    """A deep copy of plain values."""
    import json

    return json.loads(json.dumps(content))
