"""Damaged files of every kind: cut, changed, of another kind, with code in them, or whole and odd."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import yaml
from PIL import Image

KINDS = ("csv", "csv.gz", "parquet", "npz", "npy", "h5", "safetensors", "config", "yaml", "png", "jpg")


class _Bomb:
    """What unpickles by making a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def damaged(kind: str, good: dict[str, bytes], rng: np.random.Generator, mark: Path) -> bytes:
    """The file cut, changed, doubled, of another kind, of noise, with code in it, or whole with odd content.

    Arguments:
        kind: one of `KINDS`. good: a whole file of every kind. mark: what code in the file would make.
    """
    content = bytearray(good[kind])
    way = int(rng.integers(12))
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
    if way == 8:
        return _with_code(kind, rng, mark)
    return _odd(kind, good, rng)


def _with_code(kind: str, rng: np.random.Generator, mark: Path) -> bytes:
    bomb = np.empty(3, dtype=object)
    bomb[:] = [_Bomb(mark)] * 3
    buffer = io.BytesIO()
    if kind == "npz":
        np.savez(buffer, data=bomb)
    elif kind == "npy":
        np.save(buffer, bomb, allow_pickle=True)
    elif kind in ("yaml", "config"):
        path = f"!!python/object/apply:pathlib.Path [{mark}]"
        buffer.write(f"data: !!python/object/apply:pathlib.Path.touch [{path}]\n".encode())
    elif kind in ("csv", "csv.gz"):
        cells = ["=cmd|'/C calc'!A0", "\x00", "１２", "1e99999", "\ud7ff", '"', "nan", "0x12", "a,b"]
        cell = str(rng.choice(cells))
        text = b"a,b\n" + f"1,{cell}\n{cell},2\n".encode() * int(rng.integers(1, 60))
        buffer.write(text if kind == "csv" else gzip.compress(text))
    else:
        pickle.dump(_Bomb(mark), buffer)
    return buffer.getvalue()


# -- whole files whose content nobody expects ----------------------------------------------------------


def _odd(kind: str, good: dict[str, bytes], rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    if kind in ("csv", "csv.gz"):
        text = _text(rng)
        return text if kind == "csv" else gzip.compress(text)
    if kind == "parquet":
        _frame(rng).write_parquet(buffer)
    elif kind == "npy":
        return _header(good[kind], rng) if rng.random() < 0.5 else _saved(_array(rng))
    elif kind == "npz":
        np.savez(buffer, **{str(name): _array(rng) for name in _names(rng)})
    elif kind == "h5":
        with h5py.File(buffer, "w") as file:
            for name in _names(rng):
                array = _array(rng)
                file[str(name)] = array if array.dtype.kind in "fiub" else np.zeros(0)
    elif kind == "safetensors":
        return _weights(good[kind], rng)
    elif kind in ("yaml", "config"):
        return yaml.safe_dump(_changed(yaml.safe_load(good[kind]), rng)).encode()
    else:
        _picture(rng).save(buffer, "png" if kind == "png" else "jpeg")
    return buffer.getvalue()


def _text(rng: np.random.Generator) -> bytes:
    n = int(rng.integers(0, 30))
    good = [f"{a:.4f},{b:.4f}" for a, b in rng.normal(size=(n, 2))]
    odd = [
        "",
        ",",
        "1",
        "1,2,3",
        "1;2",
        '"1,2',
        "x,y",
        "1e400,2",
        "-inf,inf",
        "0x1p3,1",
        "1,\t",
        "é,ü",
        "1 000,2",
    ]
    for at in rng.integers(0, n + 1, size=3):
        good.insert(int(at), str(rng.choice(odd)))
    head = str(
        rng.choice(["a,b", "a,a", "b,a", "a", "a,b,c", ",", "", "1,2", "\ufeffa,b", '"a","b"', "a\tb"])
    )
    coding = str(rng.choice(["utf-8", "utf-16", "utf-32", "latin-1", "utf-16-le"]))
    end = str(rng.choice(["\n", "\r\n", "\r", "\n\n"]))
    return end.join([head, *good]).encode(coding, "replace") + rng.choice([b"", b"\n", b"\0", b"\x1a"])


def _frame(rng: np.random.Generator) -> pl.DataFrame:
    n = int(rng.integers(0, 20))
    numbers = pl.Series(rng.normal(size=n))
    odd: list[Any] = [
        numbers.cast(pl.Float32), numbers.cast(pl.String), pl.Series([None] * n, dtype=pl.Null),
        pl.Series([[1.0, 2.0]] * n, dtype=pl.List(pl.Float64)), pl.Series([{"c": 1}] * n, dtype=pl.Struct({"c": pl.Int64})),
        pl.Series([b"\xff"] * n, dtype=pl.Binary), pl.Series([True] * n, dtype=pl.Boolean),
        pl.Series([None, 1.0] * n, dtype=pl.Float64)[:n], pl.Series([2**63] * n, dtype=pl.UInt64),
        pl.Series([1] * n, dtype=pl.Duration("us")), pl.Series([1] * n, dtype=pl.Datetime("ns", "Europe/Rome")),
        pl.Series([1] * n, dtype=pl.Decimal(10, 2)), pl.Series(["x"] * n, dtype=pl.Categorical),
        pl.Series([1] * n, dtype=pl.Time), pl.Series([float("inf")] * n, dtype=pl.Float64),
    ]  # fmt: skip
    names = rng.choice(["a", "b", "c", "", "a "], size=int(rng.integers(0, 4)), replace=False)
    return pl.DataFrame({str(name): odd[int(rng.integers(len(odd)))] for name in names})


def _array(rng: np.random.Generator) -> np.ndarray:
    shapes = [(), (0,), (5,), (5, 2), (0, 2), (5, 0), (5, 2, 2), (1, 2), (5, 3), (2, 2, 2, 2)]
    shape = shapes[int(rng.integers(len(shapes)))]
    kinds = ["f2", "f4", "f8", ">f8", "i1", "u8", "?", "c16", "S3", "U2", "M8[D]", "m8[s]"]
    array = rng.integers(0, 2, size=shape).astype(str(rng.choice(kinds[:7])))
    if rng.random() < 0.4:
        array = np.zeros(shape, dtype=str(rng.choice(kinds)))
    if array.dtype.kind == "f" and array.size and rng.random() < 0.5:
        array.flat[0] = rng.choice([np.nan, np.inf, -np.inf, 6e4])
    return array


def _names(rng: np.random.Generator) -> np.ndarray:
    return rng.choice(["data", "x", "X", "train", "y", "a/b"], size=int(rng.integers(0, 3)), replace=False)


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _header(content: bytes, rng: np.random.Generator) -> bytes:
    """An array whose header says something else than its content; of the same length."""
    length = int.from_bytes(content[8:10], "little")
    shape = str(
        rng.choice(
            ["(1000000000000, 2)", "(-1, 2)", "(240,)", "(120, 2, 0)", "(1e3, 2)", "('a',)", "2", "()"]
        )
    )
    kind = str(
        rng.choice(["'<f8'", "'|O'", "'<f4'", "'V16'", "[('a', '<f8')]", "'<c16'", "'U4'", "'q q'", "None"])
    )
    text = f"{{'descr': {kind}, 'fortran_order': {rng.choice(['True', 'False', '3'])}, 'shape': {shape}, }}"
    return content[:10] + text.ljust(length - 1)[: length - 1].encode() + b"\n" + content[10 + length :]


def _weights(content: bytes, rng: np.random.Generator) -> bytes:
    """A model whose header was changed by one who knows the format: names, kinds, shapes, places, parameters."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    way = int(rng.integers(6))
    names = [name for name in header if name != "__metadata__"]
    name = str(rng.choice(names))
    if way == 0:
        del header[name]
    elif way == 1:
        header[name + "x"] = header.pop(name)
    elif way == 2:
        header[name]["shape"] = [*header[name]["shape"], 1]
    elif way == 3:
        header[name]["dtype"] = str(rng.choice(["F16", "I32", "BOOL", "F64", "X"]))
    elif way == 4:
        header["__metadata__"] = {
            k: str(v)[: int(rng.integers(len(v)))] for k, v in header["__metadata__"].items()
        }
    else:
        told = header["__metadata__"]
        key = str(rng.choice(list(told)))
        try:
            told[key] = json.dumps(_changed(json.loads(told[key]), rng))
        except ValueError:
            told[key] = "?"
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def _changed(content: Any, rng: np.random.Generator) -> Any:
    """Plain values of which one to three are others now, or are gone."""
    for _ in range(int(rng.integers(1, 4))):
        content = _one_changed(content, rng)
    return content


def _one_changed(content: Any, rng: np.random.Generator) -> Any:
    odd: list[Any] = [
        None,
        "",
        "x",
        -1,
        0,
        1e308,
        [],
        {},
        [1],
        {"a": 1},
        True,
        "real",
        "../../x",
        10**9,
        "\x00",
        float("nan"),
    ]
    if not isinstance(content, dict | list) or not content or rng.random() < 0.1:
        return odd[int(rng.integers(len(odd)))]
    if isinstance(content, list):
        at = int(rng.integers(len(content)))
        return [*content[:at], _one_changed(content[at], rng), *content[at + 1 :]]
    key = list(content)[int(rng.integers(len(content)))]
    rest = {k: v for k, v in content.items() if k != key}
    way = rng.random()
    if way < 0.15:
        return rest
    if way < 0.3:
        return {**rest, f"{key}x": content[key]}
    return {**content, key: _one_changed(content[key], rng)}


def _picture(rng: np.random.Generator) -> Image.Image:
    mode = str(rng.choice(["1", "L", "RGB", "CMYK"] if rng.random() < 0.7 else ["RGB"]))
    size = [(8, 8), (1, 1), (8, 9), (300, 2), (64, 64), (1, 8)][int(rng.integers(6))]
    return Image.new(mode if mode != "CMYK" else "L", size, 1)
