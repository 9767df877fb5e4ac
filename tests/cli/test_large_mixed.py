"""`assign` and `impute` of large and many files: what is written does not depend on how it was read."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from modeflow.cli import main
from modeflow.data import parts

SMALL = ["--quiet", "--set", "max_epochs=1", "--set", "latent_options.states=3",
         "--set", "latent_options.likelihood=leaves"]  # fmt: skip


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    table = pl.DataFrame(
        {
            "a": rng.normal(size=n),
            "n": rng.integers(0, 50, n),
            "word": np.array(["red", "green", "blue"])[rng.integers(0, 3, n)],
            "day": (np.datetime64("2024-01-01") + rng.integers(0, 300, n)).astype("M8[D]"),
        }
    )
    holes = {name: pl.Series(rng.random(n) < 0.2) for name in ("a", "word", "day")}
    return table.with_columns(
        pl.when(hole).then(None).otherwise(pl.col(name)).alias(name) for name, hole in holes.items()
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    rows(200).write_parquet(folder / "t.parquet")
    assert main(["fit", str(folder / "t.parquet"), "-o", str(folder / "run"), *SMALL]) == 0
    return str(folder / "run")


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """A run on numbers by states, and one with a continuous latent."""
    folder = tmp_path_factory.mktemp("flat")
    rng = np.random.default_rng(0)
    np.savetxt(folder / "t.csv", rng.normal(size=(120, 2)), delimiter=",", header="a,b", comments="")
    small = ["--quiet", "--set", "max_epochs=1", "--set", "flow=nsf-coupling"]
    small += ["--set", "flow_options.layers=1", "--set", "flow_options.hidden_features=8"]
    for name, said in (("discrete", "n_states=3"), ("continuous", "latent=continuous")):
        assert main(["fit", str(folder / "t.csv"), "-o", str(folder / name), *small, "--set", said]) == 0
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    def now(n):
        monkeypatch.setattr(parts, "_BYTES", 20 * n)
        monkeypatch.setattr(parts, "_ROWS", n)
        monkeypatch.setattr(parts, "_CELLS", 1)

    return now


def called(capsys, *args):
    capsys.readouterr()
    code = main([str(a) for a in args])
    return code, capsys.readouterr().out


def alike(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.isclose(a, b, rtol=1e-10, atol=1e-12)) if isinstance(a, float) else a == b


@pytest.mark.parametrize("latent", ["tree", "discrete", "continuous"])
def test_states_are_those_of_the_whole_file(run, flat, tmp_path, capsys, small_parts, latent):
    if latent == "tree":
        file, model = tmp_path / "t.parquet", run
        rows(900, 5).write_parquet(file)
    else:
        file, model = tmp_path / "t.csv", flat / latent
        values = np.random.default_rng(1).normal(size=(900, 2))
        np.savetxt(file, values, delimiter=",", header="a,b", comments="", fmt="%.4f")
        lines = file.read_text().splitlines()
        lines[401] = "?,1"
        file.write_text("\n".join(lines))
    out = tmp_path / "z.parquet"
    whole = called(capsys, "assign", model, file, "-o", out, "--json")
    found = pl.read_parquet(out)
    small_parts(300)
    assert sum(1 for _ in parts.parts_of(file)) > 2
    cut = called(capsys, "assign", model, file, "-o", out, "--json")
    assert whole[0] == cut[0] == 0 and alike(json.loads(whole[1]), json.loads(cut[1]))
    again = pl.read_parquet(out)
    assert again.schema == found.schema and again.height == 900
    lost = np.isnan(found.to_numpy().astype(float)).any(1)
    assert lost.sum() == (latent != "tree")
    np.testing.assert_allclose(again.to_numpy(), found.to_numpy(), rtol=1e-9, atol=1e-12)


def test_states_of_many_files(run, tmp_path, capsys):
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for i in range(3):
        rows(60, i).write_csv(many / f"p{i}.csv")
    (many / "q.csv").write_text("other\n1\n")
    code, told = called(capsys, "assign", run, f"{many}/*", "-o", out, "--json")
    result = json.loads(told)
    assert code == 1 and result["rows"] == 180 and len(result["files_failed"]) == 1
    assert sorted(file.name for file in out.iterdir()) == [".modeflow.json", "p0.csv", "p1.csv", "p2.csv"]
    called(capsys, "assign", run, many / "p1.csv", "-o", tmp_path / "one.csv")
    assert (tmp_path / "one.csv").read_bytes() == (out / "p1.csv").read_bytes()


def test_cells_are_filled_part_by_part(run, tmp_path, capsys, small_parts):
    """Cells that are there stay, and what fills the others is drawn by the seed, the file and the first row
    of the part: not by what else is in the file."""
    once = rows(150, 7)
    table, file, out = pl.concat([once] * 6), tmp_path / "t.parquet", tmp_path / "f.parquet"

    def filled(source, *how):
        source.write_parquet(file)
        code, told = called(capsys, "impute", run, file, "-o", out, "--json", *how)
        assert code == 0
        return json.loads(told)["filled"], pl.read_parquet(out)

    counts, whole = filled(table)
    small_parts(256)
    table.write_parquet(file)
    assert [part.rows for part in parts.parts_of(file)] == [(0, 256), (256, 512), (512, 768), (768, 900)]
    told, cut = filled(table)
    assert told == counts == {name: n for name in table.columns if (n := table[name].null_count())}
    for frame in (whole, cut, filled(table, "--mean")[1]):
        assert not sum(frame.null_count().row(0)) and frame.schema == table.schema
        for name in table.columns:
            there = table[name].is_not_null()
            assert frame[name].filter(there).equals(table[name].filter(there))
    assert cut.equals(filled(table)[1]) and not cut.equals(filled(table, "--seed", 5)[1])
    assert filled(table[:800])[1][:768].equals(cut[:768])
    # The same rows lie in other parts, whose draws are others.
    hole = once["a"].is_null()
    first, later = cut["a"][:150].filter(hole), cut["a"][450:600].filter(hole)
    assert len(first) > 10 and not np.isin(first, later).any()


def test_filling_many_files_goes_on_where_it_ended(run, tmp_path, capsys):
    many, out = tmp_path / "many", tmp_path / "out"
    many.mkdir()
    for i in range(3):
        rows(40, 9).write_csv(many / f"p{i}.csv")
    assert called(capsys, "impute", run, f"{many}/*", "-o", out)[0] == 0
    made = {file.name: file.read_bytes() for file in out.iterdir()}
    assert len(set(made.values())) == 4, "files must not draw the same"  # (one is the record)
    (out / "p1.csv").unlink()
    (out / ".p1.csv.left").mkdir()  # by a process that was killed
    assert called(capsys, "impute", run, f"{many}/*", "-o", out)[0] == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == made


@pytest.mark.parametrize("mixed", [False, True])
def test_many_files_have_a_report(tmp_path, mixed):
    for seed in range(2):
        table = rows(150, seed)
        (table if mixed else table.select("n").with_columns(x=pl.Series(range(150)) * 0.37)).write_csv(
            tmp_path / f"{seed}.csv"
        )
    small = SMALL if mixed else ["--quiet", "--set", "max_epochs=1", "--set", "flow=nsf-coupling"]
    pattern, run = str(tmp_path / "*.csv"), str(tmp_path / "run")
    assert main(["fit", pattern, "-o", run, *small]) == 0
    assert main(["report", run, "--quiet"]) == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
