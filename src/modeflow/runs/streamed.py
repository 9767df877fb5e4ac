"""A run on more rows than memory: they are written once, as numbers, to a file in the run folder, and trained
from there.

Every row is read, in parts of a bounded size; what is wrong with one is known before a step is made.
Validation and test rows, and a sample of those to train on, are then drawn by the seed: by these columns are
found, flows and numbers of states chosen, the latent started and the likelihood told.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from modeflow.data.parts import can_be_cut, files_of, is_large
from modeflow.data.table import atomic_write
from modeflow.errors import ConfigError, DataError
from modeflow.runs import stored_mixed, stored_numbers
from modeflow.training import StoredRows

__all__ = ["FOLDER", "Streamed", "discard", "is_streamed", "stream"]

#: Rows of a sample, and of the validation and the test part at most.
SAMPLE = 100_000
#: What of the run folder the rows lie in.
FOLDER = "rows"


class _Kind(NamedTuple):
    """How rows of a domain are written: see `stored_numbers`."""

    settings: tuple[str, ...]
    write: Callable[..., dict[str, Any]]
    drawn: Callable[..., tuple[Any, list[Any]]]


#: By the name of the domain.
_KINDS: Mapping[str, _Kind] = {
    "table": _Kind(stored_numbers.SETTINGS, stored_numbers.write, stored_numbers.drawn),
    "mixed": _Kind(stored_mixed.SETTINGS, stored_mixed.write, stored_mixed.drawn),
}


@dataclass(frozen=True)
class _Parts:
    """A sample of the training rows, the validation and the test rows."""

    train: Any
    validation: Any
    test: Any
    rows: int
    #: Rows have no numbers in what was read.
    indices: ClassVar[None] = None

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.rows, len(self.validation), len(self.test)

    def __iter__(self) -> Any:
        return iter((self.train, self.validation, self.test))


@dataclass(frozen=True)
class Streamed:
    """The rows of many files, or of a large one.

    Attributes:
        data: its name, and a sample. parts: see `_Parts`. stored: all training rows. failed: files that were
            passed over, and why.
    """

    data: Any
    parts: Any
    stored: StoredRows
    failed: Mapping[str, str]

    @property
    def fits_memory(self) -> bool:
        """Whether the sample is all training rows: they are then trained on as those of one file are."""
        return len(self.parts.train) == len(self.stored)


def is_streamed(settings: Mapping[str, Any]) -> bool:
    """Whether DATA names many tables, or one that is large, or is to be read so (``stream``).

    Raises:
        ConfigError: ``stream`` says what DATA cannot be.
    """
    source, said = settings["data"], settings["stream"]
    if said not in (None, True, False):
        raise ConfigError(f"stream must be true, false or null, received {said!r}")
    if source is None or source == "-":
        return False
    if files_of(source) is not None:
        if said is False:
            raise ConfigError(f"'{source}' names many files, which are streamed: leave out --no-stream")
        return True
    if said:
        if settings["domain"] not in _KINDS or not can_be_cut(source):
            raise ConfigError(f"--stream is for files of text, .parquet and .npy, and '{source}' is none")
        return True
    # What a stream cannot do is done in memory, as far as that goes.
    plain = settings["domain"] in _KINDS and settings["rows"] is None and _shares(settings)
    return said is None and plain and is_large(source)


def _shares(settings: Mapping[str, Any]) -> bool:
    return all(not isinstance(settings[name], str) for name in ("test", "validation"))


def stream(domain: Any, settings: Mapping[str, Any], folder: Path) -> Streamed:
    """Read the files of a run, or take up what was read of them before.

    Raises:
        DataError: no file that can be used. ConfigError: settings that are for what is held in memory.
    """
    source = settings["data"]
    if domain.name not in _KINDS:
        raise ConfigError(f"'{source}': many files are fitted as tables, and these hold {domain.word}s")
    for name in ("rows", "array"):
        if settings[name] is not None:
            raise ConfigError(f"{name} is for a single file held in memory, and '{source}' is streamed")
    if not _shares(settings) or any(not 0 < settings[name] < 1 for name in ("test", "validation")):
        raise ConfigError("of what is streamed test and validation are shares between 0 and 1")
    files = files_of(source) or [Path(source).expanduser()]
    kind = _KINDS[domain.name]
    schema = settings.get("schema")
    asked = json.dumps(
        [
            [str(f), f.stat().st_size, f.stat().st_mtime_ns]
            for f in (*files, *([Path(schema)] if schema else []))
        ]
        + [settings[key] for key in (*kind.settings, "seed", "test", "validation")],
        default=str,
    )
    meta, rows = folder / "rows.json", folder / "rows.f64"
    found = json.loads(meta.read_text(encoding="utf-8")) if meta.exists() else {}
    if found.get("asked") != asked:
        folder.mkdir(parents=True, exist_ok=True)
        written = kind.write(files, settings, rows, partial(_places, settings))
        if not written["rows"]:
            first, why = next(iter(written["failed"].items()))
            raise DataError(
                why if len(files) == 1 else f"none of {len(files)} files can be used; '{first}': {why}"
            )
        if written["failed"] and len(files) == 1:
            raise DataError(next(iter(written["failed"].values())))
        found = {"asked": asked, **written}
        atomic_write(meta, lambda file: file.write_text(json.dumps(found, default=str), encoding="utf-8"))
    places = _places(settings, found["rows"])
    everything = StoredRows(rows, len(found["columns"]), found["rows"], content=found["content"])
    stored = replace(everything, held=np.sort(np.concatenate(places[:2])))
    data, (test, validation, train) = kind.drawn(found, str(source), folder, everything, places)
    notes = (
        *found["notes"],
        _told(str(source), found["rows"], len(stored), len(train)),
        *(f"passed over '{file}': {why}" for file, why in found["failed"].items()),
    )
    parts = _Parts(train, validation, test, len(stored))
    return Streamed(replace(data, notes=notes), parts, stored, found["failed"])


def _told(source: str, rows: int, trained: int, sample: int) -> str:
    told = f"'{source}': {rows} rows, of which {trained} are trained on"
    return told if sample == trained else f"{told}; columns, choices and start are those of {sample} of them"


def discard(folder: Path) -> None:
    """Take the rows away, once nothing is to be trained on them."""
    shutil.rmtree(folder, ignore_errors=True)


def _places(settings: Mapping[str, Any], rows: int) -> Sequence[np.ndarray]:
    """Rows of the test and the validation part, and of a sample of the others, which rises; where these are
    all, the parts are those that `modeflow.data.split_table` draws, in its order."""
    counts = [min(SAMPLE, max(1, round(settings[name] * rows))) for name in ("test", "validation")]
    if rows - sum(counts) < 2:
        raise DataError(f"{rows} rows are too few to fit: 4 are needed, and many more are wanted")
    counts.append(min(SAMPLE, rows - sum(counts)))
    chosen = _distinct(np.random.default_rng(settings["seed"]), rows, sum(counts))
    places = np.split(chosen, np.cumsum(counts)[:-1])
    if sum(counts) < rows:
        places[2] = np.sort(places[2])
    return places


def _distinct(rng: np.random.Generator, n: int, count: int) -> np.ndarray:
    """So many of n numbers, each once, in random order, in memory of their number alone."""
    if n < 4 * count:
        return rng.permutation(n)[:count]
    taken = np.unique(rng.integers(n, size=count + count // 2))
    while len(taken) < count:
        taken = np.unique(np.concatenate([taken, rng.integers(n, size=count)]))
    return rng.permutation(taken)[:count]
