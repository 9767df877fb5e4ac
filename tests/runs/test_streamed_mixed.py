"""Mixed tables of many files, and large files: what columns are, the weights of memory, a killed run."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from modeflow.cli import main
from modeflow.data import parts
from modeflow.data.columns import TableSchema
from modeflow.domains import MixedDomain, TableDomain, domain_of
from modeflow.errors import ConfigError, DataError
from modeflow.runs import RunConfig, load_run, stored_values, streamed
from modeflow.runs.stored_values import Sample

SMALL = ["--quiet", "--set", "max_epochs=2", "--set", "latent_options.states=2",
         "--set", "latent_options.likelihood=leaves"]  # fmt: skip


def rows(n, seed):
    """Words, dates, whole numbers and numbers, with holes in all but one."""
    rng = np.random.default_rng(seed)
    table = pl.DataFrame(
        {
            "x": rng.normal(size=n),
            "n": rng.integers(0, 60, n),
            "word": np.array(["red", "green", "blue"])[rng.integers(0, 3, n)],
            "day": (np.datetime64("2024-01-01") + rng.integers(0, 300, n)).astype("M8[D]"),
            "on": rng.random(n) < 0.4,
        }
    )
    return table.with_columns(
        pl.when(pl.Series(rng.random(n) < 0.1)).then(None).otherwise(pl.col(name)).alias(name)
        for name in ("n", "word", "day")
    )


def written(folder, kind, count=3, n=120):
    folder.mkdir()
    every = [rows(n, i) for i in range(count)]
    for i, table in enumerate(every):
        getattr(table, f"write_{kind}")(folder / f"p{i}.{kind}")
    whole = folder.parent / f"whole.{kind}"
    getattr(pl.concat(every), f"write_{kind}")(whole)
    return f"{folder}/*", str(whole)


def settings(data, **more):
    return RunConfig.build({"data": str(data), "model": "nvf", **more}).settings


def few(monkeypatch, count):
    """So many rows are a sample."""
    monkeypatch.setattr(stored_values, "ROWS", count)
    monkeypatch.setattr(streamed, "SAMPLE", count)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_weights_are_those_of_memory(tmp_path, monkeypatch, kind):
    many, whole = written(tmp_path / "many", kind)
    monkeypatch.setattr(parts, "_BYTES", 2000)
    monkeypatch.setattr(parts, "_ROWS", 50)
    monkeypatch.setattr(parts, "_CELLS", 50)
    assert main(["fit", many, "-o", str(tmp_path / "a"), *SMALL]) == 0
    monkeypatch.undo()
    assert main(["fit", whole, "-o", str(tmp_path / "b"), *SMALL]) == 0
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    assert not (tmp_path / "a" / "rows").exists()
    first, last = (json.loads((tmp_path / name / "result.json").read_text()) for name in "ab")
    same = ("rows", "kinds", "log_likelihood", "latent", "density")
    assert all(first[key] == last[key] for key in same)
    data, taken = load_run(tmp_path / "a").data()
    assert taken.sizes == (288, 36, 36) and taken.test.columns == data.frame.columns


def test_what_the_sample_lacks_is_found_on_the_way(tmp_path, monkeypatch):
    """Rare levels, the ends of numbers, finer steps, holes where the sample has none."""
    folder = tmp_path / "many"
    written(folder, "parquet", n=400)
    table = pl.read_parquet(folder / "p1.parquet")
    odd = {"x": [None, 9e3], "n": [61, 75], "word": ["violet", None], "on": [None, True]}
    odd |= {"day": [dt.date(2031, 5, 5), None]}
    pl.concat([table, pl.DataFrame(odd).select(table.columns).cast(table.schema)]).write_parquet(
        folder / "p1.parquet"
    )
    few(monkeypatch, 150)
    found = streamed.stream(MixedDomain, settings(f"{folder}/*"), tmp_path / "rows")
    schema = found.data.schema
    assert not found.failed and found.stored.total == 1202 and len(found.parts.train) == 150
    assert schema["word"].levels == ("blue", "green", "red", "violet") and schema["word"].missing
    assert schema["n"].high in (None, 75) and schema["x"].missing and schema["on"].missing
    everything = pl.concat([pl.read_parquet(file) for file in sorted(folder.iterdir())])
    stored = found.stored.file_rows(np.arange(1202))
    np.testing.assert_array_equal(stored, schema.encode(everything))
    held = found.stored.held
    drawn = pl.concat([found.parts.test, found.parts.validation])
    assert drawn.sort("x", "n", "day").equals(everything[held].sort("x", "n", "day"))
    assert schema == TableSchema.from_dict(schema.to_dict())


def test_cells_that_contradict_the_sample_join_it_once(tmp_path, monkeypatch):
    """Numbers of which a part has two digits more, in a column of too many values to be kept: all are read
    again; a word among them is the fault of its file."""
    folder = tmp_path / "many"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        price = [f"{v:.1f}" for v in rng.uniform(0, 900, 300)]
        price[7] = {0: "3.5", 1: "12.345", 2: "many"}[i]
        pl.DataFrame({"price": price, "word": ["a", "b", "c"] * 100}).write_csv(folder / f"p{i}.csv")
    few(monkeypatch, 60)
    monkeypatch.setattr(stored_values, "VALUES", 40)
    found = streamed.stream(MixedDomain, settings(f"{folder}/*"), tmp_path / "rows")
    assert list(found.failed) == [str(folder / "p2.csv")] and "many" in found.failed[str(folder / "p2.csv")]
    assert "p1" not in str(found.failed) and found.stored.total == 600
    values = found.stored.file_rows(np.arange(600))
    assert 12.345 in values and len(pl.concat([found.parts.test, found.parts.validation])) == 120


def test_a_file_counts_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    many, _ = written(tmp_path / "many", "csv")
    (tmp_path / "many" / "q.csv").write_text("other\n1\n")
    found = streamed.stream(MixedDomain, settings(many), tmp_path / "rows")
    assert list(found.failed) == [f"{tmp_path}/many/q.csv"] and found.stored.total == 360
    (tmp_path / "many" / "p1.csv").write_text("x,n,word,day,on\n,,,,\n1,2,red,2024-01-01,true\n")
    found = streamed.stream(MixedDomain, settings(many), tmp_path / "rows")
    assert "no cell at all" in found.failed[f"{tmp_path}/many/p1.csv"] and found.stored.total == 240
    rows(50, 8).write_parquet(tmp_path / "many" / "o.parquet")
    rows(50, 9).with_columns(x=pl.lit("a")).write_parquet(tmp_path / "many" / "r.parquet")
    found = streamed.stream(MixedDomain, settings(many), tmp_path / "rows")
    assert "convert it" in found.failed[f"{tmp_path}/many/r.parquet"]


def test_text_beside_other_kinds(tmp_path):
    """A folder of csv, text with decimal commas and parquet is the table of its rows; a cell of text that is
    no value of the column is the fault of its file."""
    _, whole = written(tmp_path / "typed", "parquet")
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(3):
        table = pl.read_parquet(tmp_path / "typed" / f"p{i}.parquet")
        if i == 1:
            table.write_parquet(folder / "p1.parquet")
            continue
        text = table.with_columns(pl.col("on").cast(pl.String).str.to_titlecase()) if i else table
        text.write_csv(folder / f"p{i}.csv", decimal_comma=i == 2, separator=";" if i == 2 else ",")
    found = streamed.stream(MixedDomain, settings(f"{folder}/*"), tmp_path / "rows")
    assert not found.failed and found.stored.total == 360
    known = streamed.stream(MixedDomain, settings(whole, stream=True), tmp_path / "known")
    assert found.data.schema.to_dict()["columns"] == known.data.schema.to_dict()["columns"]
    np.testing.assert_array_equal(*(each.stored.file_rows(np.arange(360)) for each in (found, known)))
    for column, cell in (("x", "many"), ("on", "maybe"), ("day", "tomorrow"), ("n", "inf")):
        table = pl.read_csv(folder / "p0.csv", infer_schema=False)
        broken = pl.when(pl.int_range(120) == 5).then(pl.lit(cell)).otherwise(column).alias(column)
        table.with_columns(broken).write_csv(folder / "q.csv")
        found = streamed.stream(MixedDomain, settings(f"{folder}/*"), tmp_path / "rows")
        assert list(found.failed) == [f"{folder}/q.csv"] and found.stored.total == 360
        assert f"column '{column}'" in found.failed[f"{folder}/q.csv"]


def test_infinite_numbers_are_the_fault_of_their_file(tmp_path):
    many, _ = written(tmp_path / "many", "parquet")
    table = pl.read_parquet(tmp_path / "many" / "p1.parquet")
    table.with_columns(x=pl.when(pl.int_range(120) == 3).then(np.inf).otherwise("x")).write_parquet(
        tmp_path / "many" / "p1.parquet"
    )
    found = streamed.stream(MixedDomain, settings(many), tmp_path / "rows")
    assert "infinite" in found.failed[f"{tmp_path}/many/p1.parquet"] and found.stored.total == 240


def test_a_sample_is_drawn_evenly(monkeypatch):
    """By file: 400 of 2,000 rows, of five files that are given in parts. A chi-square of 4 degrees of freedom
    is below 23.5 but once in 10,000 seeds; the seed is fixed."""
    monkeypatch.setattr(stored_values, "ROWS", 400)
    monkeypatch.setattr(stored_values, "VALUES", 30)
    sample = Sample(3)
    for i in range(6):
        for _ in range(4):
            few = np.random.default_rng(i).normal(size=100 // 5).repeat(5)
            sample.add(pl.DataFrame({"file": [i] * 100, "v": np.arange(100), "few": few}))
        if i == 5:  # a bad one
            sample.take_back()
        else:
            sample.keep()
    counts = np.bincount(sample.frame()["file"].to_numpy(), minlength=6)
    # Of numbers that are few in every file, but many together, the ends alone are kept.
    assert len(sample._values["few"]) == 2 and set(sample._values["file"]) == {0, 1, 2, 3, 4}
    assert sample.total == 2000 and counts.sum() == 400 and counts[5] == 0
    assert ((counts[:5] - 80) ** 2 / 80).sum() < 23.5


def test_a_large_file_is_streamed(tmp_path, monkeypatch):
    _, whole = written(tmp_path / "many", "csv")
    numbers = str(tmp_path / "numbers.npy")
    np.save(numbers, np.random.default_rng(0).normal(size=(900, 3)))
    assert not streamed.is_streamed(settings(whole)) and not streamed.is_streamed(settings(numbers))
    assert streamed.is_streamed(settings(numbers, stream=True))
    monkeypatch.setattr(parts, "LARGE_BYTES", 1000)
    monkeypatch.setattr(parts, "LARGE_CELLS", 1000)
    monkeypatch.setattr(parts, "_BYTES", 700)
    for file, domain in ((whole, MixedDomain), (numbers, TableDomain)):
        assert domain_of(file) is domain and streamed.is_streamed(settings(file))
        assert not streamed.is_streamed(settings(file, stream=False))
        assert not streamed.is_streamed(settings(file, rows=10))
        assert not streamed.is_streamed(settings(file, test=file))
    found = streamed.stream(TableDomain, settings(numbers), tmp_path / "rows")
    assert np.array_equal(found.stored.file_rows(np.arange(900)), np.load(numbers))
    with pytest.raises(ConfigError, match="--stream is for"):
        streamed.is_streamed(settings("moons", stream=True))
    with pytest.raises(ConfigError, match="--no-stream"):
        streamed.is_streamed(settings(f"{tmp_path}/many/*", stream=False))
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3,x,4\n")
    with pytest.raises(DataError, match="line 3"):
        streamed.stream(TableDomain, settings(tmp_path / "bad.csv", stream=True), tmp_path / "other")


PROGRAM = """
import sys
from functools import partial
from modeflow.cli import main
from modeflow.estimators import settings
from modeflow.runs import streamed
streamed.SAMPLE = 60
settings.TrainConfig = partial(settings.TrainConfig, checkpoint_every_seconds=0.0)  # a checkpoint a step
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_fit_of_a_mixed_table_resumes_bit_by_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "SAMPLE", 60)
    many, _ = written(tmp_path / "many", "csv", count=2, n=80)
    longer = [each.replace("max_epochs=2", "max_epochs=4") for each in SMALL]
    run, last = tmp_path / "killed", tmp_path / "killed" / "checkpoints" / "last.safetensors"
    told = [sys.executable, "-c", PROGRAM, "fit", many, "-o", str(run), *longer]
    process = subprocess.Popen(told, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seen: set[int] = set()
    while process.poll() is None and len(seen) < 4:
        seen |= {last.stat().st_mtime_ns} if last.exists() else set()
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the fit ended before it was killed"
    kept = (run / "rows" / "rows.f64").stat().st_mtime_ns
    assert (run / "rows" / "train.parquet").exists() and not (run / "model.safetensors").exists()
    assert kept < time.time_ns() and main(["fit", "-o", str(run), "--resume", "--quiet"]) == 0
    assert main(["fit", many, "-o", str(tmp_path / "whole"), *longer]) == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert np.array_equal(*(np.load(tmp_path / name / "test_scores.npy") for name in ("whole", "killed")))
