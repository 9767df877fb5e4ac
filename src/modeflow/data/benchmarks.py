"""The five tables of the MAF papers, with the preprocessing and splits those papers publish.

POWER, GAS, HEPMASS, MINIBOONE and BSDS300 come together in one archive (Papamakarios 2018,
https://zenodo.org/record/1161203). Every step below is that of the authors' public code, including two
oddities that results depend on: HEPMASS keeps or drops a feature by how often its *smallest* value occurs,
and POWER's noise comes from a generator seeded with 42 after shuffling.

References:
    Papamakarios, Pavlakou, Murray, Masked Autoregressive Flow for Density Estimation, 2017.
    https://arxiv.org/abs/1705.07057
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeflow.data.dataset import Dataset, DatasetInfo
from modeflow.data.download import download, extract
from modeflow.data.local import cache_root, find_file
from modeflow.data.splits import Split
from modeflow.data.table import Table, default_columns, read_table
from modeflow.errors import DataError

__all__ = [
    "ARCHIVE_MD5",
    "ARCHIVE_URL",
    "BENCHMARKS",
    "download_benchmark",
    "list_benchmarks",
    "load_benchmark",
]

ARCHIVE_URL = "https://zenodo.org/record/1161203/files/data.tar.gz"
#: As the archive's record publishes it; two independent public loaders check the same value.
ARCHIVE_MD5 = "9b9c9b0375315ad270eba4ce80c093ab"
_GAS_URL = "https://archive.ics.uci.edu/dataset/322/gas+sensor+array+under+dynamic+gas+mixtures"

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Benchmark:
    """One of the five tables: its published size and its files below ``benchmarks/`` in a data folder."""

    columns: int
    rows: tuple[int, int, int]
    files: tuple[str, ...]
    licence: str
    load: Callable[[tuple[Path, ...]], tuple[Parts, tuple[str, ...]]]


# --- preprocessing: arrays in, (train, validation, test) out --------------------------------------


def prepare_power(raw: np.ndarray) -> Parts:
    """Shuffle, drop columns 3 and 1, add the published noise, split by tail, normalise.

    Arguments:
        raw: (N, 8): active and reactive power, voltage, intensity, three meters, minute of the day.

    Returns:
        Parts with 6 columns, normalised by mean and deviation of training and validation rows.
    """
    # The legacy generator with this seed is the protocol: other noise is another data set.
    rng = np.random.RandomState(42)
    data = np.array(raw)
    rng.shuffle(data)
    n = len(data)
    data = np.delete(np.delete(data, 3, axis=1), 1, axis=1)
    voltage = 0.01 * rng.rand(n, 1)
    active = 0.001 * rng.rand(n, 1)
    meters = rng.rand(n, 3)
    data = data + np.hstack((active, voltage, meters, np.zeros((n, 1))))
    return _normalise(*_tail_split(data))


def prepare_gas(raw: np.ndarray) -> Parts:
    """Drop time and the two concentrations, thin out correlated sensors, standardise, split by tail.

    As long as two sensors correlate by more than 0.98, the first column that has such a partner goes.

    Arguments:
        raw: (N, 19): time, two gas concentrations, 16 sensors.
    """
    data = raw[:, 3:]
    with np.errstate(invalid="ignore"):
        close = np.corrcoef(data, rowvar=False) > 0.98
    keep = np.arange(data.shape[1])
    while True:
        partners = close[np.ix_(keep, keep)].sum(axis=1)
        crowded = np.flatnonzero(partners > 1)
        if not len(crowded):
            break
        keep = np.delete(keep, crowded[0])
    data = data[:, keep]
    data = (data - data.mean(0)) / data.std(0, ddof=1)
    return _tail_split(data)


def prepare_hepmass(train: np.ndarray, test: np.ndarray) -> Parts:
    """Keep the signal class, normalise by the training rows, drop features with repeated values.

    A feature goes if its smallest value occurs more than five times in the training rows.

    Arguments:
        train, test: (N, 1 + F): class label, features. Columns of `test` beyond 1 + F are ignored (the
            published file has one too many).
    """
    if test.shape[1] < train.shape[1]:
        raise DataError(f"HEPMASS test has {test.shape[1]} columns, train {train.shape[1]}; check the files")
    test = test[:, : train.shape[1]]
    train, test = train[train[:, 0] == 1, 1:], test[test[:, 0] == 1, 1:]
    if len(train) < 20 or not len(test):
        raise DataError(f"HEPMASS has {len(train)} and {len(test)} signal rows; check the files")
    mean, deviation = train.mean(0), train.std(0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        train, test = (train - mean) / deviation, (test - mean) / deviation
    repeated = (train == train.min(0)).sum(0) > 5
    # A constant feature is NaN here and equals nothing; it has to go all the same.
    keep = ~repeated & np.isfinite(train).all(0)
    train, test = train[:, keep], test[:, keep]
    cut = int(0.1 * len(train))
    return train[:-cut], train[-cut:], test


def prepare_miniboone(raw: np.ndarray) -> Parts:
    """Split by tail and normalise by the training and validation rows; `raw` is (N, 43)."""
    return _normalise(*_tail_split(raw))


def _tail_split(data: np.ndarray) -> Parts:
    """Last tenth is the test part, last tenth of the remainder the validation part."""
    n_test = int(0.1 * len(data))
    n_validation = int(0.1 * (len(data) - n_test))
    if n_validation < 1:
        raise DataError(f"{len(data)} rows are too few to split into training, validation and test")
    rest = data[:-n_test]
    return rest[:-n_validation], rest[-n_validation:], data[-n_test:]


def _normalise(train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> Parts:
    known = np.vstack((train, validation))
    mean, deviation = known.mean(0), known.std(0)
    return (train - mean) / deviation, (validation - mean) / deviation, (test - mean) / deviation


# --- files ----------------------------------------------------------------------------------------


def _load_power(files: tuple[Path, ...]) -> tuple[Parts, tuple[str, ...]]:
    return prepare_power(_raw(files[0], 8)), ()


def _load_miniboone(files: tuple[Path, ...]) -> tuple[Parts, tuple[str, ...]]:
    return prepare_miniboone(_raw(files[0], 43)), ()


def _load_gas(files: tuple[Path, ...]) -> tuple[Parts, tuple[str, ...]]:
    file = files[0]
    if file.suffix != ".txt":
        return prepare_gas(_raw(file, 19)), ()
    try:
        raw = np.loadtxt(file, skiprows=1, ndmin=2)
    except (ValueError, OSError) as error:
        raise DataError(f"'{file}' is not the UCI text file ({error}); download it again") from error
    if raw.shape[1] != 19:
        raise DataError(f"'{file}' has {raw.shape[1]} columns, expected 19; download it again")
    # The published table is a random quarter of this file in random order, by an unknown seed.
    rows = np.random.default_rng(0).permutation(len(raw))[: len(raw) // 4]
    note = "drawn again from the UCI file: another random quarter than the published one; call it so"
    return prepare_gas(raw[rows]), (note,)


def _load_hepmass(files: tuple[Path, ...]) -> tuple[Parts, tuple[str, ...]]:
    return prepare_hepmass(_hepmass_csv(files[0]), _hepmass_csv(files[1])), ()


def _hepmass_csv(file: Path) -> np.ndarray:
    import polars as pl

    try:
        # The published test file has more cells per line than names; pandas cuts them off, so do we.
        frame = pl.read_csv(file, infer_schema=False, truncate_ragged_lines=True)
        return frame.select(pl.all().str.strip_chars().cast(pl.Float64)).to_numpy()
    except pl.exceptions.PolarsError as error:
        reason = str(error).strip().splitlines()[0][:100]
        raise DataError(f"'{file}' is not the HEPMASS csv ({reason}); extract it again") from error


def _load_bsds300(files: tuple[Path, ...]) -> tuple[Parts, tuple[str, ...]]:
    train, validation, test = (read_table(files[0], array=k).values for k in ("train", "validation", "test"))
    return (train, validation, test), ()


def _raw(file: Path, columns: int) -> np.ndarray:
    values = read_table(file).values
    if values.shape[1] != columns:
        raise DataError(f"'{file}' has {values.shape[1]} columns, the published file {columns}; replace it")
    return values


_UCI_TERMS = "terms of the UCI repository"
#: The five tables by name. A loader may name alternatives with "|": the first that exists is read.
BENCHMARKS: dict[str, Benchmark] = {
    "power": Benchmark(6, (1659917, 184435, 204928), ("power/data.npy",), _UCI_TERMS, _load_power),
    "gas": Benchmark(
        8,
        (852174, 94685, 105206),
        ("gas/ethylene_CO.npy|gas/ethylene_CO.csv|gas/ethylene_CO.txt",),
        _UCI_TERMS,
        _load_gas,
    ),
    "hepmass": Benchmark(
        21,
        (315123, 35013, 174987),
        ("hepmass/1000_train.csv", "hepmass/1000_test.csv"),
        _UCI_TERMS,
        _load_hepmass,
    ),
    "miniboone": Benchmark(43, (29556, 3284, 3648), ("miniboone/data.npy",), _UCI_TERMS, _load_miniboone),
    "bsds300": Benchmark(
        63,
        (1000000, 50000, 250000),
        ("BSDS300/BSDS300.hdf5",),
        "non-commercial research",
        _load_bsds300,
    ),
}


def _find(name: str) -> tuple[Path, ...] | None:
    found = []
    for alternatives in BENCHMARKS[name].files:
        file = find_file(*(f"benchmarks/{option}" for option in alternatives.split("|")))
        if file is None:
            return None
        found.append(file)
    return tuple(found)


def list_benchmarks() -> list[DatasetInfo]:
    """The five tables and whether their files are here; reads nothing."""
    entries = []
    for name, benchmark in BENCHMARKS.items():
        files = _find(name)
        entries.append(
            DatasetInfo(
                name,
                "benchmark",
                benchmark.rows[0],
                benchmark.columns,
                files is not None,
                str(files[0]) if files else None,
                ARCHIVE_URL if name != "gas" else _GAS_URL,
                benchmark.licence,
                note="published split and preprocessing; scores are in the normalised space of the papers",
            )
        )
    return entries


def load_benchmark(name: str) -> Dataset:
    """Load one of the five tables with its published split.

    Values are rounded to float32 as the published loaders do.

    Raises:
        DataError: the files are not there (the message says how to get them) or are not the published
            ones.
    """
    if name not in BENCHMARKS:
        raise DataError(f"no benchmark is called '{name}'; known: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    files = _find(name)
    if files is None:
        raise DataError(_how_to_get(name))
    parts, notes = benchmark.load(files)
    columns = default_columns(benchmark.columns)
    tables = []
    for part in parts:
        if part.shape[1] != benchmark.columns:
            raise DataError(
                f"'{files[0]}' gives {part.shape[1]} columns after preprocessing, published are "
                f"{benchmark.columns}; replace the file"
            )
        tables.append(Table(part.astype(np.float32), columns, name))
    train, validation, test = tables
    split = Split(train, validation, test)
    if split.sizes != benchmark.rows:
        notes = (*notes, f"split sizes {split.sizes} differ from the published {benchmark.rows}")
    return Dataset(name, "benchmark", split.train, split, notes=notes)


def _how_to_get(name: str) -> str:
    folder = cache_root() / "benchmarks"
    if name == "gas":
        return (
            f"'gas' is not on this machine; get ethylene_CO.txt from {_GAS_URL} and put it at "
            f"{folder / 'gas' / 'ethylene_CO.txt'} (the archive's copy is a pickle, which is refused; its 19 "
            f"columns saved as ethylene_CO.npy give the published rows)"
        )
    files = " and ".join(str(folder / option) for option in BENCHMARKS[name].files)
    return (
        f"'{name}' is not on this machine; run 'modeflow data download {name}' (857 MB), or get "
        f"{ARCHIVE_URL} and put {files} in place"
    )


def download_benchmark(
    name: str, *, url: str = ARCHIVE_URL, md5: str | None = ARCHIVE_MD5, progress: bool = True
) -> list[Path]:
    """Download the archive (857 MB, once), verify it and extract the files of one table.

    The archive stays in the data folder, so that the next table needs no download.

    Raises:
        DataError: the download failed or differs from the published one, or the table is GAS, which the
            archive holds only as a pickle.
    """
    if name not in BENCHMARKS:
        raise DataError(f"no benchmark is called '{name}'; known: {', '.join(BENCHMARKS)}")
    if name == "gas":
        raise DataError(_how_to_get(name))
    folder = cache_root() / "benchmarks"
    archive = download(url, folder / "maf-data.tar.gz", md5, progress=progress)
    members = {f"data/{file}": file for file in BENCHMARKS[name].files}
    return extract(archive, members, folder)
