"""Mixed tables by name: listed, read from the data folder, split as published, fitted by their name."""

from __future__ import annotations

import gzip
import json

import numpy as np
import polars as pl
import pytest

from modeflow.cli import main
from modeflow.data import list_datasets, load_dataset, resolve
from modeflow.data.columns import read_mixed
from modeflow.data.mixed_sets import MIXED_SETS, MixedSet
from modeflow.domains import MixedDomain, TableDomain, domain_of
from modeflow.errors import DataError


def table(n, seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {"x": rng.normal(size=n), "word": rng.choice(["a", "b"], n), "row": np.arange(n) % 40}
    )


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data folder with a set of one file, packed, and one with a published test part."""
    folder = tmp_path / "data" / "mixed"
    folder.mkdir(parents=True)
    monkeypatch.setenv("MODEFLOW_DATA", str(folder.parent))
    (folder / "car.csv.gz").write_bytes(gzip.compress(table(120).write_csv().encode()))
    table(100, 1).write_csv(folder / "adult_train.csv")
    table(30, 2).write_csv(folder / "adult_test.csv")
    monkeypatch.setitem(MIXED_SETS, "car", MixedSet(("car",), 120, 3, "somewhere", "free"))
    files = ("adult_train", "adult_test")
    monkeypatch.setitem(MIXED_SETS, "adult", MixedSet(files, 130, 3, "somewhere", "free", "split", 30))
    return folder


def settings(**given):
    how = {"schema": None, "columns": None, "rows": None, "seed": 0, "header": None, "array": None}
    return {**how, "test": 0.1, "validation": 0.1, **given}


def test_they_are_listed_with_what_is_here(root, capsys):
    infos = {info.name: info for info in list_datasets() if info.kind == "mixed"}
    assert len(infos) == len(MIXED_SETS) > 20
    assert infos["car"].available and infos["adult"].available and not infos["penguins"].available
    assert main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:5] == ["car", "120", "x", "3", "here"] for line in lines)
    assert any(line.split()[:6] == ["penguins", "344", "x", "17", "not", "here"] for line in lines)


def test_names_of_files_and_sets_are_no_doubles():
    files = [file for known in MIXED_SETS.values() for file in known.files]
    assert len(set(files)) == len(files)
    others = [info.name for info in list_datasets() if info.kind != "mixed"]
    assert not set(MIXED_SETS) & set(others)
    assert all(
        known.source and known.licence and known.test_rows < known.rows for known in MIXED_SETS.values()
    )


def test_a_name_is_read_as_its_files_are(root):
    assert read_mixed("car")[0].equals(read_mixed(root / "car.csv.gz")[0])
    both = read_mixed("adult", ["word", "x"])[0]
    assert both.columns == ["word", "x"] and both.height == 130
    assert both["x"][:100].equals(read_mixed(root / "adult_train.csv")[0]["x"])
    assert domain_of("car") is MixedDomain and domain_of("iris") is TableDomain
    assert resolve("car", skip_text=True).table.columns == ("x", "row")
    with pytest.raises(DataError, match=r"column 'word', data row 1 .line 2. is text"):
        load_dataset("car")


def test_the_published_test_part_is_the_test_part(root):
    data = MixedDomain.load(settings(data="adult"))
    parts = MixedDomain.split(data, settings())
    assert parts.sizes == (90, 10, 30)
    assert parts.test.equals(read_mixed(root / "adult_test.csv")[0])
    some = MixedDomain.load(settings(data="adult", rows=50))
    assert MixedDomain.split(some, settings()).sizes == (45, 5, 30)
    given = settings(test=str(root / "car.csv.gz"))
    assert MixedDomain.split(data, given).sizes == (90, 10, 120)
    assert MixedDomain.split(MixedDomain.load(settings(data="car")), settings()).sizes == (96, 12, 12)


def test_what_is_not_there_or_another_is_said(root, capsys):
    with pytest.raises(
        DataError, match=r"'penguins' is not on this machine; get it from palmerpenguins .* put it at"
    ):
        read_mixed("penguins")
    assert main(["fit", "penguins", "-o", str(root / "run")]) == 2
    assert "get it from palmerpenguins" in capsys.readouterr().err
    assert main(["fit", "penguinz", "-o", str(root / "run")]) == 2
    assert "did you mean 'penguins'" in capsys.readouterr().err
    table(7).write_csv(root / "magic.csv")
    with pytest.raises(DataError, match="have 7 rows and 3 columns, the published set 19020 and 11"):
        read_mixed("magic")


def test_commands_take_names(root, tmp_path, capsys):
    run = str(tmp_path / "run")
    small = ["--set", "latent_options={states: 3, likelihood: leaves}", "--set", "max_epochs=1", "--json"]
    assert main(["schema", "car"]) == 0 and "word" in capsys.readouterr().out
    assert main(["fit", "car", "-o", run, *small]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["domain"] == "mixed" and told["data"] == "car"
    assert main(["score", run, "car", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_likelihood"]["n"] == 120
    assert main(["report", run, "--no-baselines", "--quiet"]) == 0


def test_columns_that_name_the_rows_are_dropped_unless_asked_for(root, capsys, monkeypatch):
    whole = table(120).with_columns(pl.Series("who", [f"N{i}" for i in range(120)]))
    (root / "car.csv").write_text(whole.write_csv())
    (root / "car.csv.gz").unlink()
    monkeypatch.setitem(MIXED_SETS, "car", MixedSet(("car",), 120, 4, "somewhere", "free", names=("who",)))
    loaded = MixedDomain.load(settings(data="car"))
    assert loaded.schema.names == ("x", "word", "row") and loaded.frame.columns == whole.columns
    said = "column 'who' of 'car' names the rows, and is dropped: a schema or --columns says otherwise"
    assert said in loaded.notes
    assert main(["schema", "car"]) == 0
    out, err = capsys.readouterr()
    assert "who: {kind: drop" in out and said in err and "edit columns of kind id" not in err
    with pytest.raises(DataError, match=r"'who' .* names the rows"):
        MixedDomain.load(settings(data="car", columns=["who", "x"]))
    with pytest.raises(DataError, match=r"'who' .* names the rows"):  # the file itself has no entry
        MixedDomain.load(settings(data=str(root / "car.csv")))
    schema = root / "schema.yaml"
    schema.write_text(out.replace("who: {kind: drop", "who: {kind: categorical"))
    found = MixedDomain.load(settings(data="car", schema=str(schema)))
    assert "who" in found.schema.names and said not in found.notes


def test_names_of_rows_are_columns_that_are_here():
    for name, known in ((n, k) for n, k in MIXED_SETS.items() if k.names):
        try:
            frame = read_mixed(name)[0]
        except DataError:
            continue
        assert set(known.names) <= set(frame.columns)
