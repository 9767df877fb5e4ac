"""Commands on a table with words, dates and holes: schema, fit, score, sample, assign, report."""

from __future__ import annotations

import datetime as dt
import gzip
import json

import numpy as np
import polars as pl
import pytest
import yaml
from mixed_files import SMALL, write

from modeflow import load_estimator
from modeflow.cli import main
from modeflow.data.columns import TableSchema
from modeflow.runs.config import RunConfig, read_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    file = write(folder / "t.csv")
    assert main(["schema", str(file), "-o", str(folder / "schema.yaml")]) == 0
    text = (folder / "schema.yaml").read_text()
    content = yaml.safe_load(text)
    assert content["columns"]["unit"]["kind"] == "constant"
    content["columns"]["wind"] = "circular(360)"
    (folder / "schema.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    told = ["fit", str(file), "-o", str(folder / "run"), "--schema", str(folder / "schema.yaml"), "--quiet"]
    assert main([*told, *SMALL]) == 0
    return folder


def call(capsys, *args):
    capsys.readouterr()
    assert main([str(a) for a in args]) == 0
    return capsys.readouterr().out


def refused(capsys, *args):
    """The one line that a refused command prints."""
    capsys.readouterr()
    assert main([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "error" in line]
    assert out == "" and len(lines) == 1, err
    assert lines[0].startswith("modeflow: error: ")
    return lines[0]


def test_the_run_keeps_the_kinds_of_the_schema(run):
    result = json.loads((run / "run" / "result.json").read_text())
    assert result["domain"] == "mixed" and result["kinds"]["wind"].startswith("circular(360")
    assert result["kinds"]["unit"] == "constant('cm')"
    again = json.loads((run / "run" / "result.json").read_text())["kinds"]
    assert list(again) == ["height", "city", "born", "wind", "unit"]


def test_samples_look_like_the_file(run, capsys):
    call(capsys, "sample", run / "run", "-n", 500, "-o", run / "s.csv")
    drawn = pl.read_csv(run / "s.csv")
    assert drawn.columns == ["height", "city", "born", "wind", "unit"]
    assert set(drawn["city"]) == {"Oslo", "Rome"} and set(drawn["unit"]) == {"cm"}
    assert drawn["born"].str.contains(r"^19\d\d-\d\d-\d\d$").all()
    assert set(drawn["wind"]) <= set(range(0, 360, 10))
    assert drawn["height"].str.len_chars().max() < 10 if drawn["height"].dtype == pl.String else True
    told = json.loads(call(capsys, "sample", run / "run", "-n", 3, "--json"))
    assert len(told["rows"]) == 3 and told["columns"] == drawn.columns


def test_scores_have_a_line_for_every_row_and_name_the_bad_ones(run, capsys):
    new = write(run / "new.csv", 30, seed=1)
    lines = new.read_text().splitlines()
    lines[3] = "tall,Oslo,1980-01-11,20,cm"
    lines[4] = ",Bern,1980-01-11,20,cm"
    new.write_text("\n".join(lines) + "\n")
    told = json.loads(call(capsys, "score", run / "run", new, "-o", run / "scores.csv", "--json"))
    scores = pl.read_csv(run / "scores.csv", infer_schema_length=None)
    assert len(scores) == 30 and told["rows_without_score"]
    assert "'height'" in str(told["rows_without_score"]) and "tall" in str(told["rows_without_score"])
    column = next(name for name in scores.columns if name.startswith("log_density"))
    assert np.isnan(float(scores[column][2])) and np.isneginf(float(scores[column][3]))
    assert np.isfinite(np.delete(scores[column].cast(pl.Float64).to_numpy(), [2, 3])).all()


def test_rows_without_a_cell_are_no_part_of_a_ranking(run, capsys):
    lines = (run / "t.csv").read_text().splitlines()
    (run / "holes.csv").write_text("\n".join([lines[0], *lines[1:4], ",,,,", ",,,,cm"]) + "\n")
    capsys.readouterr()
    assert main(["score", str(run / "run"), str(run / "holes.csv"), "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["rows_without_cells"] == [4, 5] and "2 of 5 rows have no cell at all" in err
    assert sorted(row["row"] for row in told["least_likely_rows"]) == [1, 2, 3]


def test_assign_and_report(run, capsys):
    call(capsys, "assign", run / "run", run / "t.csv", "-o", run / "states.csv")
    assert len(pl.read_csv(run / "states.csv")) == 160
    call(capsys, "report", run / "run", "--quiet", "--no-baselines")
    page = (run / "run" / "report.html").read_text(encoding="utf-8")
    assert "seed 0" in page


def test_a_packed_file_is_read_as_its_text(tmp_path, capsys):
    plain = write(tmp_path / "t.csv", 60)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    told = json.loads(call(capsys, "fit", packed, "-o", tmp_path / "run", "--json", *SMALL))
    assert told["domain"] == "mixed"


def test_a_run_takes_the_schema_of_all_rows_whatever_its_part_looks_like(tmp_path, capsys):
    """An atom taken off the schema stays off, and bounds are those printed."""
    rng = np.random.default_rng(0)
    rain = np.where(rng.random(200) < 0.5, 0.0, rng.exponential(2, 200))
    file = write(tmp_path / "t.csv", 200, rain=rain)
    call(capsys, "schema", file, "-o", tmp_path / "s.yaml")
    content = yaml.safe_load((tmp_path / "s.yaml").read_text())
    assert content["columns"]["rain"]["atoms"] == [0]
    content["columns"]["rain"] = {"kind": "real"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    call(capsys, "fit", file, "-o", tmp_path / "run", "--schema", tmp_path / "s.yaml", "--quiet", *SMALL)
    fitted = load_estimator(tmp_path / "run")
    said = TableSchema.specs_of_yaml((tmp_path / "s.yaml").read_text())
    assert fitted.schema_["rain"].atoms == ()
    assert {c.name: c.spec for c in fitted.schema_.columns} == {name: c.spec for name, c in said.items()}


def test_bad_schemas(run, tmp_path, capsys):
    def fit(text, file=run / "t.csv"):
        (tmp_path / "s.yaml").write_text(text)
        return refused(capsys, "fit", file, "-o", tmp_path / "r", "--schema", tmp_path / "s.yaml", *SMALL)

    line = refused(capsys, "fit", run / "t.csv", "-o", tmp_path / "r", "--schema", tmp_path / "none.yaml")
    assert "there is no schema at" in line and "modeflow schema" in line
    assert "'city', data row" in fit("columns:\n  city: real\n")
    assert "cannot have" in fit("columns:\n  city: categorical(Oslo, Bern)\n")
    assert "cannot have" in fit("columns:\n  wind: {kind: integer, low: 0, high: 90}\n")
    assert "did you mean 'categorical'" in fit("columns:\n  city: catgorical\n")
    line = fit("columns:\n  heigth: real\n  town: categorical\n")
    assert "no column 'heigth'; did you mean 'height'" in line
    assert "all are constant or dropped" in fit(
        "columns:\n  height: drop\n  city: drop\n  born: drop\n  wind: drop\n"
    )
    assert "'columns:'" in fit("a: 1\n")
    assert "line" in fit("columns: {a: [\n")
    assert not (tmp_path / "r").exists()


def test_names_of_rows_point_to_the_schema(tmp_path, capsys):
    file = write(tmp_path / "t.csv", 60, name=[f"p{i}" for i in range(60)])
    line = refused(capsys, "fit", file, "-o", tmp_path / "r", *SMALL)
    assert "'name'" in line and f"`modeflow schema {file} -o schema.yaml`" in line
    assert "--schema schema.yaml" in line and "columns={" not in line
    (tmp_path / "s.yaml").write_text("columns:\n  wind: circular(360)\n")
    line = refused(capsys, "fit", file, "-o", tmp_path / "r", "--schema", tmp_path / "s.yaml")
    assert f"say 'drop', or what else they are, in '{tmp_path / 's.yaml'}'" in line


def test_rows_without_cells_and_models_of_numbers(run, tmp_path, capsys):
    file = tmp_path / "t.csv"
    file.write_text("a,b\n" + "".join(f"{i * 0.37 % 1:.3f},w{i % 3}\n" for i in range(40)) + ",\n,\n0.5,w1\n")
    assert "data row 41 has no cell at all (and 1 more)" in refused(capsys, "fit", file, "-o", tmp_path / "r")
    file.write_text("a,b\n")
    assert "rows" in refused(capsys, "fit", file, "-o", tmp_path / "r")
    line = refused(capsys, "fit", run / "t.csv", "-o", tmp_path / "r", "--model", "realnvp")
    assert "nvf" in line and "numbers" in line
    line = refused(capsys, "fit", run / "t.csv", "-o", tmp_path / "r", "--set", "latent=discrete")
    assert "latent='tree'" in line
    assert not (tmp_path / "r").exists()


def test_states_of_another_latent_are_refused(run, tmp_path, capsys):
    """`n_states` is of islands: a tree that was told one did as if it had not been."""
    command = ["fit", run / "t.csv", "-o", tmp_path / "r", "--set", "n_states=5"]
    line = refused(capsys, *command, "--set", "latent=tree")
    assert "n_states=5 is of latent='discrete', not of 'tree'" in line
    assert "latent_options.states=5" in line
    line = refused(capsys, *command, "--schema", run / "schema.yaml")
    assert "latent='discrete' takes complete rows" in line
    assert not (tmp_path / "r").exists()


def test_a_number_of_states_is_of_tables_with_words_too(tmp_path, capsys):
    """As in Python: it was taken for a table of numbers, whose words were refused."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=80), "w": rng.choice(["x", "y"], 80)})
    frame.write_csv(tmp_path / "t.csv")
    told = call(capsys, "fit", tmp_path / "t.csv", "-o", tmp_path / "r", "--json", "--quiet",
                "--set", "n_states=2", "--set", "max_epochs=1")  # fmt: skip
    result = json.loads(told)
    assert (result["domain"], result["n_states"]) == ("mixed", 2)


def test_what_nobody_says_is_left_open(tmp_path):
    """Options of a latent that were written out said which one: the command line never tried a tree."""
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=80), "w": rng.choice(["x", "y"], 80)})
    for name, table in (("numbers", frame.select("a")), ("mixed", frame)):
        table.write_csv(tmp_path / f"{name}.csv")
        config = RunConfig.build({"data": str(tmp_path / f"{name}.csv")})
        config.write(tmp_path / f"{name}.yaml")
        again = RunConfig.build(read_config(tmp_path / f"{name}.yaml"))
        for each in (config, again):
            assert each.estimator()._said_latent() is None
    for option, value, latent in (("states", 8, "tree"), ("encoder_features", [8], "discrete")):
        config = RunConfig.build({"data": str(tmp_path / "mixed.csv"), f"latent_options.{option}": value})
        assert config.estimator()._said_latent() == latent


def test_a_file_is_read_once_and_its_columns_found_out_once(tmp_path, capsys, monkeypatch):
    from modeflow.data import _reading
    from modeflow.data.columns import schema

    seen = {"read": 0, "guess": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            seen[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(_reading, "read_text_frame", counted("read", _reading.read_text_frame))
    monkeypatch.setattr(schema, "guess", counted("guess", schema.guess))
    file = write(tmp_path / "t.csv", 60)
    call(capsys, "fit", file, "-o", tmp_path / "mixed", "--quiet", *SMALL)
    assert seen == {"read": 1, "guess": 5}
    numbers = ["--set", "n_states=2", "--set", "max_epochs=1", "--set", "flow_options={layers: 1}", "--quiet"]
    pl.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), schema=["a", "b"]).write_csv(
        tmp_path / "n.csv"
    )
    call(capsys, "fit", tmp_path / "n.csv", "-o", tmp_path / "numbers", *numbers)
    assert seen["read"] == 2


def test_chosen_columns_say_what_a_table_is(tmp_path, capsys):
    rng = np.random.default_rng(0)
    file = tmp_path / "t.csv"
    pl.DataFrame({"a": rng.normal(size=80), "b": rng.normal(size=80), "w": ["x", "y"] * 40}).write_csv(file)
    small = ["--set", "max_epochs=1", "--set", "flow_options={layers: 1}", "--set", "flow=nsf-coupling"]
    told = call(capsys, "fit", file, "-o", tmp_path / "r", "--columns", "a,b", "--json", *small,
                "--set", "max_states=1")  # fmt: skip
    assert json.loads(told)["domain"] == "table"


def test_times_and_durations_of_parquet_are_sampled_to_every_form(tmp_path, capsys):
    """Times in JSON ended in a traceback; csv has no form for durations."""
    rng = np.random.default_rng(0)
    start = dt.datetime(2020, 1, 1)
    frame = pl.DataFrame(
        {
            "when": [start + dt.timedelta(minutes=int(k)) for k in rng.integers(0, 10**5, 100)],
            "took": [dt.timedelta(microseconds=int(k)) for k in rng.exponential(1e9, 100)],
            "word": rng.choice(["a", "b"], 100),
        }
    )
    frame.write_parquet(tmp_path / "t.parquet")
    call(capsys, "fit", tmp_path / "t.parquet", "-o", tmp_path / "run", "--quiet", *SMALL)
    told = json.loads(call(capsys, "sample", tmp_path / "run", "-n", 3, "--json"))
    for form in ("csv", "parquet"):
        call(capsys, "sample", tmp_path / "run", "-n", 3, "-o", tmp_path / f"s.{form}")
    drawn = pl.read_parquet(tmp_path / "s.parquet")
    assert drawn.schema == frame.schema
    assert [dt.datetime.fromisoformat(row[0]) for row in told["rows"]] == drawn["when"].to_list()
    seconds = [value.total_seconds() for value in drawn["took"]]
    assert [row[1] for row in told["rows"]] == pl.read_csv(tmp_path / "s.csv")["took"].to_list() == seconds
    assert json.loads(call(capsys, "score", tmp_path / "run", tmp_path / "s.csv", "--json"))["out"] is None
