"""A run on many files: its rows are written once, as numbers, to a file in the run folder, and trained from
there.

One pass over the files reads every row, in parts of a bounded size; what is wrong with one is known before
a step is made. Validation and test rows, and a sample of those to train on, are then drawn by the seed: by
these columns are found, flows and numbers of states chosen, the latent started and the likelihood told.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.data import Dataset, Split, Table, read_table
from modeflow.data._source import is_text_file
from modeflow.data.parts import files_of, parts_of, reading_part
from modeflow.data.table import atomic_write
from modeflow.domains import TableDomain
from modeflow.domains._table_sources import column_names
from modeflow.errors import ConfigError, DataError
from modeflow.progress import track
from modeflow.training import StoredRows

__all__ = ["FOLDER", "Streamed", "discard", "is_streamed", "stream"]

#: Rows of a sample, and of the validation and the test part at most.
SAMPLE = 100_000
#: What of the run folder the rows lie in.
FOLDER = "rows"


@dataclass(frozen=True)
class _Parts:
    """A sample of the training rows, the validation and the test rows."""

    train: Table
    validation: Table
    test: Table
    rows: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.rows, len(self.validation), len(self.test)

    def __iter__(self) -> Any:
        return iter((self.train, self.validation, self.test))


@dataclass(frozen=True)
class Streamed:
    """The rows of many files.

    Attributes:
        data: its name, and a sample. parts: see `_Parts`. stored: all training rows. failed: files that were
            passed over, and why.
    """

    data: Dataset
    parts: Any
    stored: StoredRows
    failed: Mapping[str, str]


def is_streamed(settings: Mapping[str, Any]) -> bool:
    """Whether DATA names many tables."""
    return settings["data"] != "-" and files_of(settings["data"]) is not None


def stream(domain: Any, settings: Mapping[str, Any], folder: Path) -> Streamed:
    """Read the files of a run, or take up what was read of them before.

    Raises:
        DataError: no file that can be used. ConfigError: settings that are for a single file.
    """
    if domain is not TableDomain:
        raise ConfigError(
            f"'{settings['data']}': many files are fitted as tables of numbers; with columns of words, times "
            "or missing cells give one file, or leave them out (--columns, --skip-text, --drop-missing)"
        )
    for name in ("rows", "array"):
        if settings[name] is not None:
            raise ConfigError(f"{name} is for a single file, and '{settings['data']}' names many")
    shares = [settings["test"], settings["validation"]]
    if any(isinstance(share, str) or not 0 < share < 1 for share in shares):
        raise ConfigError("of many files test and validation are shares between 0 and 1")
    files = files_of(settings["data"])
    assert files is not None
    asked = json.dumps(
        [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        + [settings[key] for key in ("columns", "header", "drop_missing", "skip_text")]
    )
    meta = folder / "rows.json"
    found = json.loads(meta.read_text(encoding="utf-8")) if meta.exists() else {}
    if found.get("asked") != asked:
        found = {"asked": asked, **_write(files, settings, folder / "rows.f64")}
        atomic_write(meta, lambda file: file.write_text(json.dumps(found), encoding="utf-8"))
    return _drawn(found, settings, folder / "rows.f64")


def discard(folder: Path) -> None:
    """Take the rows away, once nothing is to be trained on them."""
    shutil.rmtree(folder, ignore_errors=True)


def _write(files: list[Path], settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: list[str] | None = None
    failed: dict[str, str] = {}
    notes: list[str] = []
    digest, rows = hashlib.sha256(), 0
    sizes = {file: file.stat().st_size for file in files}
    with path.open("w+b") as out:
        for file in track(files, "read", sum(sizes.values()), lambda file: sizes[file]):
            start, before, told = out.tell(), rows, digest.copy()
            try:
                for table in _tables(file, settings, columns):
                    columns = list(table.columns)
                    notes += [note for note in table.notes if len(notes) < 20 and note not in notes]
                    numbers = np.ascontiguousarray(table.values, dtype="<f8").tobytes()
                    out.write(numbers)
                    digest.update(numbers)
                    rows += len(table)
            except DataError as error:
                failed[str(file)] = str(error)
                out.seek(start)
                out.truncate()
                rows, digest = before, told
                columns = columns if rows else None
    if columns is None or not rows:
        first, why = next(iter(failed.items()))
        raise DataError(f"none of {len(files)} files can be used; '{first}': {why}")
    content = digest.hexdigest()[:16]
    return {"columns": columns, "rows": rows, "content": content, "failed": failed, "notes": notes}


def _tables(file: Path, settings: Mapping[str, Any], columns: list[str] | None) -> Any:
    """The rows of a file, part by part, with the columns of the files before it."""
    header = settings["header"] if is_text_file(file) else None
    wanted = column_names(settings["columns"]) or columns
    how = {key: settings[key] for key in ("drop_missing", "skip_text")}
    for part in parts_of(file, header, wanted or ()):
        with reading_part(part):
            yield read_table(file, wanted, header=part.header if not part.whole else header, **how)


def _drawn(found: Mapping[str, Any], settings: Mapping[str, Any], path: Path) -> Streamed:
    rows, columns = int(found["rows"]), tuple(found["columns"])
    everything = StoredRows(path, len(columns), rows, content=found["content"])
    counts = [min(SAMPLE, max(1, round(settings[name] * rows))) for name in ("test", "validation")]
    if rows - sum(counts) < 2:
        raise DataError(f"{rows} rows are too few to fit: 4 are needed, and many more are wanted")
    counts.append(min(SAMPLE, rows - sum(counts)))
    chosen = _distinct(np.random.default_rng(settings["seed"]), rows, sum(counts))
    places = np.split(chosen, np.cumsum(counts)[:-1])
    places[2] = np.sort(places[2])
    source = str(settings["data"])
    test, validation, train = (Table(everything.file_rows(each), columns, source) for each in places)
    stored = replace(everything, held=np.sort(np.concatenate(places[:2])))
    notes = (
        *found["notes"],
        f"'{source}': {rows} rows, of which {len(stored)} are trained on; columns, choices and start are "
        f"those of {counts[2]} of them",
        *(f"passed over '{file}': {why}" for file, why in found["failed"].items()),
    )
    data = Dataset(source, "file", replace(train, notes=notes), Split(train, validation, test), notes=notes)
    return Streamed(data, _Parts(data.table, validation, test, len(stored)), stored, found["failed"])


def _distinct(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """So many of n numbers, each once, in random order, in memory of their number alone."""
    if n < 4 * count:
        return rng.permutation(n)[:count]
    taken = np.unique(rng.integers(n, size=count + count // 2))
    while len(taken) < count:
        taken = np.unique(np.concatenate([taken, rng.integers(n, size=count)]))
    return rng.permutation(taken)[:count]
