"""Data sets that lie in a data folder: regression tables, anomaly sets, two-dimensional shapes.

The folder is the one that the environment variable MODEFLOW_DATA names; else ``../shared/data`` beside the
checkout or the working directory; else the user's cache. Nothing is downloaded here: where a file is
missing, the error says where to get it and where to put it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from modeflow.data.dataset import Dataset, DatasetInfo, DatasetKind
from modeflow.data.manifest import ANOMALY, BINARY, REGRESSION, SHAPES2D
from modeflow.data.splits import Split
from modeflow.data.table import Table, default_columns, read_table
from modeflow.errors import DataError

__all__ = ["cache_root", "data_roots", "list_local", "load_local"]

_UCI = "https://raw.githubusercontent.com/treforevans/uci_datasets/master/uci_datasets/{}/data.csv.gz"
_ADBENCH = "https://github.com/Minqi824/ADBench/raw/main/adbench/datasets/Classical/{}.npz"
_UCI_TERMS = "terms of the UCI repository (collection: MIT)"
_POWER_COLUMNS = (0, 2, 4, 5, 6, 7)  # columns 1 and 3 are left out, as the MAF papers do

# Single files: name -> (stem, rows, columns, source, note)
_SINGLE: dict[str, tuple[str, int, int, str, str]] = {
    "miniboone-val": (
        "miniboone_maf_test_val",
        3284,
        43,
        "vsimkus/variational-gibbs-inference (the MAF papers' split)",
        "small-data variant: trains on the published validation rows and tests on the published test "
        "rows; not comparable with published MINIBOONE results",
    ),
    "miniboone-raw-head": (
        "miniboone_raw_head1523",
        1523,
        43,
        "sharkjingyang/WFR",
        "the head of the unnormalised training file, not the whole",
    ),
    "power-head": (
        "power_head",
        37283,
        6,
        "household power consumption, first 26 days",
        "the head of POWER, without noise and normalisation; columns 1 and 3 left out as in the papers",
    ),
}


def cache_root() -> Path:
    """Folder for downloads: MODEFLOW_DATA, else XDG_CACHE_HOME/modeflow, else ~/.cache/modeflow."""
    named = os.environ.get("MODEFLOW_DATA")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache).expanduser() if cache else Path.home() / ".cache") / "modeflow"


def data_roots() -> list[Path]:
    """Folders that are searched, in order; MODEFLOW_DATA alone if it is set.

    Raises:
        DataError: MODEFLOW_DATA names no folder.
    """
    named = os.environ.get("MODEFLOW_DATA")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise DataError(f"MODEFLOW_DATA='{named}' is no folder; create it or unset the variable")
        return [folder]
    checkout = Path(__file__).resolve().parents[3]
    beside = [checkout.parent / "shared" / "data", Path.cwd().parent / "shared" / "data"]
    roots = [folder for folder in dict.fromkeys(beside) if folder.is_dir()]
    return [*roots, cache_root()]


def find_file(*candidates: str) -> Path | None:
    """The first of the relative paths that exists in a data folder."""
    for root in data_roots():
        for name in candidates:
            if (root / name).is_file():
                return root / name
    return None


def _entry(info: DatasetInfo, *candidates: str) -> DatasetInfo:
    found = find_file(*candidates)
    known = dict(info.__dict__)
    known.update(available=found is not None and info.available, path=str(found) if found else None)
    return DatasetInfo(**known)


def list_local() -> list[DatasetInfo]:
    """What the data folder can hold, and which of it is there. Looks at names only, reads nothing."""
    entries = []
    for name, (rows, columns) in REGRESSION.items():
        note = "regression target is the last column"
        info = DatasetInfo(name, "table", rows, columns, True, None, _UCI.format(name), _UCI_TERMS, note=note)
        entries.append(_entry(info, f"tables/{name}.npz", f"tables/{name}.csv.gz"))
    for name, (stem, rows, columns, source, note) in _SINGLE.items():
        info = DatasetInfo(name, "table", rows, columns, True, None, source, _UCI_TERMS, note=note)
        entries.append(_entry(info, f"tables/{stem}.npz"))
    for name, (stem, rows, columns) in ANOMALY.items():
        info = DatasetInfo(
            f"anomaly/{name}",
            "anomaly",
            rows,
            columns,
            True,
            None,
            _ADBENCH.format(stem),
            "terms of the original set (collection: BSD-2)",
            note="labels: 1 is an anomaly",
        )
        entries.append(_entry(info, f"anomaly/{stem}.npz"))
    for name, rows in SHAPES2D.items():
        info = DatasetInfo(
            f"shapes2d/{name}", "shapes2d", rows, 2, True, None, "deric/clustering-benchmark", "see source"
        )
        entries.append(_entry(info, "shapes2d/shapes2d.npz"))
    for name, (rows, columns) in BINARY.items():
        info = DatasetInfo(
            f"binary/{name}",
            "binary",
            rows,
            columns,
            False,
            None,
            "mgermain/MADE",
            "see source",
            note="later: no reader yet",
        )
        entries.append(_entry(info, f"binary/{name}.npz"))
    return entries


def load_local(name: str) -> Dataset:
    """Load a set of the data folder by its catalogue name.

    Constant columns are dropped and named in the notes: no density exists along them.

    Raises:
        DataError: the name is unknown, the file is not there (the message says where to get it and where
            to put it), or it is a binary set, for which there is no reader yet.
    """
    group, _, short = name.rpartition("/")
    if not group and name in REGRESSION:
        rows, columns = REGRESSION[name]
        file = _need(name, _UCI.format(name), f"tables/{name}.npz", f"tables/{name}.csv.gz")
        raw = read_table(file).values
        table = Table(raw, (*default_columns(raw.shape[1] - 1), "target"), name)
        _check_shape(table, rows, columns, file)
        return _finish(name, "table", table, ("the last column is the regression target",))
    if not group and name in _SINGLE:
        return _load_single(name)
    if group == "anomaly" and short in ANOMALY:
        stem, rows, columns = ANOMALY[short]
        file = _need(name, _ADBENCH.format(stem), f"anomaly/{stem}.npz")
        table = Table(read_table(file, array="X").values, default_columns(columns), name)
        _check_shape(table, rows, columns, file)
        labels = read_table(file, array="y").values[:, 0].astype(np.int64)
        return _finish(name, "anomaly", table, ("labels: 1 is an anomaly",), labels)
    if group == "shapes2d" and short in SHAPES2D:
        file = _need(name, "deric/clustering-benchmark on GitHub", "shapes2d/shapes2d.npz")
        table = Table(read_table(file, array=short).values, ("x", "y"), name)
        return _finish(name, "shapes2d", table, ())
    if group == "binary" and short in BINARY:
        raise DataError(f"'{name}' is listed, but {group} sets come in a later version; choose a table")
    raise DataError(f"no data set is called '{name}'")


def _load_single(name: str) -> Dataset:
    stem, _, columns, source, note = _SINGLE[name]
    file = _need(name, source, f"tables/{stem}.npz")
    if name == "power-head":
        raw = read_table(file, array="x")
        return _finish(name, "table", raw.select([raw.columns[i] for i in _POWER_COLUMNS]), (note,))
    if name == "miniboone-raw-head":
        return _finish(
            name, "table", Table(read_table(file, array="raw").values, default_columns(43)), (note,)
        )
    known, test = (read_table(file, array=key) for key in ("val", "test"))
    if known.dim != columns or test.dim != columns:
        raise DataError(f"'{file}' is not the published file: {known.dim} columns instead of {columns}")
    # One fixed fifth of the published validation rows is kept to choose models on.
    order = np.random.default_rng(0).permutation(len(known))
    cut = len(known) // 5
    split = Split(known.take(order[cut:]), known.take(order[:cut]), test)
    return Dataset(name, "table", split.train, split, notes=(note,))


def _need(name: str, source: str, *candidates: str) -> Path:
    file = find_file(*candidates)
    if file is None:
        # A .csv.gz is what the source offers where two forms are read.
        target = cache_root() / candidates[-1]
        raise DataError(f"'{name}' is not on this machine; get it from {source} and put it at {target}")
    return file


def _check_shape(table: Table, rows: int, columns: int, file: Path) -> None:
    if table.values.shape != (rows, columns):
        raise DataError(
            f"'{file}' has shape {table.values.shape}, the published set {(rows, columns)}; replace the file"
        )


def _finish(
    name: str, kind: DatasetKind, table: Table, notes: tuple[str, ...], labels: np.ndarray | None = None
) -> Dataset:
    """Drop constant columns and say so."""
    values = table.values
    constant = values.min(0) == values.max(0)
    if constant.any():
        dropped = [c for c, flat in zip(table.columns, constant, strict=True) if flat]
        kept = [c for c, flat in zip(table.columns, constant, strict=True) if not flat]
        notes = (*notes, f"constant columns dropped: {', '.join(dropped)}")
        table = table.select(kept)
    return Dataset(name, kind, Table(table.values, table.columns, name), None, labels, None, notes)
