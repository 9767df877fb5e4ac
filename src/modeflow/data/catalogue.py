"""Every data set by one name, and any path or name to a `Dataset`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data._source import STDIN, packed_kind
from modeflow.data.benchmarks import BENCHMARKS, list_benchmarks, load_benchmark
from modeflow.data.bundled import list_bundled, load_bundled
from modeflow.data.dataset import Dataset, DatasetInfo
from modeflow.data.image_sets import list_image_sets
from modeflow.data.local import list_local, load_local
from modeflow.data.mixed_sets import MIXED_SETS, list_mixed, mixed_files
from modeflow.data.splits import Split
from modeflow.data.table import SUFFIXES, Table, default_columns, read_table
from modeflow.data.toys import TOYS, toy
from modeflow.errors import ConfigError, DataError, nearest

__all__ = ["DEFAULT_TOY_ROWS", "list_datasets", "load_dataset", "resolve"]

#: Rows drawn from a toy unless told otherwise.
DEFAULT_TOY_ROWS = 10_000

_PUBLISHED_MOONS = "moons-nvf"
# 1024 rows each, by the seeds of the NVF code.
_MOON_ROWS, _MOON_SEEDS = 1024, (2022, 2021, 2023)


def list_datasets() -> list[DatasetInfo]:
    """Every known data set, whether it is here and where it is from. Opens no data file."""
    toys = []
    for name in TOYS:
        shape = toy(name)
        toys.append(
            DatasetInfo(
                name,
                "toy",
                None,
                shape.dim,
                True,
                None,
                "generated",
                "generated",
                exact_density=shape.has_density,
                note=(type(shape).__doc__ or "").split("\n")[0] if shape.modes is None else "",
            )
        )
    published = DatasetInfo(
        _PUBLISHED_MOONS,
        "toy",
        _MOON_ROWS,
        2,
        True,
        None,
        "hendrydong/normalizing-variational-flow",
        "generated",
        note="the moons of the NVF code: 1024 rows for training, validation and test, fixed seeds",
    )
    tables = [*list_bundled(), *list_mixed(), *list_local()]
    return [*toys, published, *tables, *list_image_sets(), *list_benchmarks()]


def load_dataset(name: str, n: int | None = None, seed: int = 0) -> Dataset:
    """Load a data set by name.

    Arguments:
        name: as in `list_datasets`; toys take parameters, ``"ring:k=16,sigma=0.05"``.
        n: rows: drawn from a toy (10,000 by default), or a random subset of the (training) rows of a
            table.
        seed: of that drawing.

    Raises:
        DataError: unknown name (the nearest one is suggested), files that are not there (the message says
            where to get them), columns of words (`modeflow.data.columns.read_mixed` takes these), or more
            rows asked for than there are.
        ConfigError: bad parameters of a toy, or n < 1.
    """
    if n is not None and n < 1:
        raise ConfigError(f"rows: there must be at least one, {n} asked for (--rows, n=)")
    base = name.partition(":")[0]
    if name == _PUBLISHED_MOONS:
        return _subset(_published_moons(), n, seed)
    if base in TOYS:
        return _draw(name, DEFAULT_TOY_ROWS if n is None else n, seed)
    if name in BENCHMARKS:
        return _subset(load_benchmark(name), n, seed)
    known = {info.name: info for info in list_datasets()}
    if name not in known:
        hint = nearest(name, known) or "; list_datasets() names them all"
        raise DataError(f"no data set is called '{name}'{hint}")
    if known[name].kind == "images":
        raise DataError(f"'{name}' holds images, not a table: use load_images (the commands do)")
    if known[name].kind == "mixed":
        return _subset(_numbers(name), n, seed)
    loaded = load_bundled(name) if known[name].kind == "bundled" else load_local(name)
    return _subset(loaded, n, seed)


def resolve(
    data: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    array: str | None = None,
    n: int | None = None,
    seed: int = 0,
    **reading: Any,
) -> Dataset:
    """A `Dataset` from either a path or a known name.

    An existing file is always read as a file; otherwise names come before paths.

    Arguments:
        data: path of a table ("-" for standard input), or name for `load_dataset`.
        columns, array: see `read_table`; `columns` also selects from named sets.
        n, seed: see `load_dataset`.
        reading: how a file is read: header, drop_missing, skip_text; see `read_table`.

    Raises:
        DataError: neither a file nor a known name, or the table cannot be used.
    """
    text = os.fspath(data)
    if text == STDIN or Path(text).expanduser().is_file():
        table = read_table(text, columns, array=array, **reading)
        return _subset(Dataset(text, "file", table, notes=table.notes), n, seed)
    toy_name = text.partition(":")[0] in TOYS  # needs no data folder, so a bad one does not matter
    names = [] if toy_name else [info.name for info in list_datasets()]
    if text in MIXED_SETS:  # files, read as such
        return _subset(_numbers(text, columns, array=array, **reading), n, seed)
    if toy_name or text in names:
        loaded = load_dataset(text, n, seed)
        return loaded if columns is None else _select(loaded, columns)
    if packed_kind(text) or Path(text).suffix.lower() in SUFFIXES or Path(text).expanduser().is_dir():
        read_table(text)  # says what is wrong with the path
    hint = nearest(text, names) or "; give a file or a name that `modeflow data` lists (list_datasets())"
    raise DataError(f"'{text}' is neither a file nor a known data set{hint}")


def _numbers(name: str, columns: Sequence[str] | None = None, **reading: Any) -> Dataset:
    """A mixed set as a table of numbers, where it is one as it is read."""
    tables = [read_table(file, columns, **reading) for file in mixed_files(name)]
    notes = tuple(dict.fromkeys(note for table in tables for note in table.notes))
    values = np.concatenate([table.values for table in tables])
    return Dataset(name, "mixed", Table(values, tables[0].columns, name, notes=notes), notes=notes)


def _draw(spec: str, n: int, seed: int) -> Dataset:
    shape = toy(spec)
    values, labels = shape.sample_with_labels(n, seed)
    return Dataset(spec, "toy", Table(values, default_columns(shape.dim), spec), labels=labels, toy=shape)


def _published_moons() -> Dataset:
    shape = toy("moons")
    drawn = [shape.sample_with_labels(_MOON_ROWS, seed) for seed in _MOON_SEEDS]
    train, validation, test = (Table(x, default_columns(2), _PUBLISHED_MOONS) for x, _ in drawn)
    return Dataset(
        _PUBLISHED_MOONS, "toy", train, Split(train, validation, test), labels=drawn[0][1], toy=shape
    )


def _subset(data: Dataset, n: int | None, seed: int) -> Dataset:
    """`n` random (training) rows; validation and test parts stay whole."""
    if n is None or n == len(data.table):
        return data
    if n > len(data.table):
        raise DataError(f"'{data.name}' has {len(data.table)} rows, and {n} are asked for (--rows, n=)")
    rows = np.sort(np.random.default_rng(seed).choice(len(data.table), n, replace=False))
    table = data.table.take(rows)
    split = data.split and Split(table, data.split.validation, data.split.test)
    labels = None if data.labels is None else data.labels[rows]
    note = f"random {n} of {len(data.table)} rows (seed {seed})"
    return dataclasses.replace(data, table=table, split=split, labels=labels, notes=(*data.notes, note))


def _select(data: Dataset, columns: Sequence[str]) -> Dataset:
    split = data.split
    if split is not None:
        train, validation, test = (part.select(columns) for part in split)
        split = Split(train, validation, test)
    note = f"columns {', '.join(columns)} of {data.table.dim}"
    # The toy's density is over all columns, so it no longer describes the table.
    whole = tuple(columns) == data.table.columns
    return dataclasses.replace(
        data,
        table=data.table.select(columns),
        split=split,
        toy=data.toy if whole else None,
        notes=(*data.notes, note),
    )
