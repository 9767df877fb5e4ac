"""`modeflow schema`."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from modeflow.cli import main
from modeflow.data.columns import TableSchema
from modeflow.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    n = 60
    frame = pl.DataFrame(
        {
            "id": range(n),
            "city": ["Rome", "Oslo"] * (n // 2),
            "rain": [0.0, 0.1, None, 0.3, 0.25, 0.6] * (n // 6),
        }
    )
    frame.write_csv(tmp_path / "t.csv")
    return tmp_path / "t.csv"


def test_prints_yaml_and_remarks(file, capsys):
    assert main(["schema", str(file)]) == 0
    out, err = capsys.readouterr()
    schema = TableSchema.from_yaml(out)
    assert [c.kind for c in schema.columns] == ["id", "categorical", "lattice"]
    assert "60 rows, 3 columns" in out and "names the rows" in err and "kind id" in err


def test_writes_a_file_or_json(file, tmp_path, capsys):
    assert main(["schema", str(file), "-o", str(tmp_path / "s.yaml"), "--columns", "city,rain"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "2 columns, 2 to be modelled" in err
    assert TableSchema.from_yaml((tmp_path / "s.yaml").read_text()).names == ("city", "rain")
    assert main(["schema", str(file), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["rows"] == 60 and content["columns"][1]["levels"] == ["Oslo", "Rome"]


def test_bad_input(file, tmp_path, capsys):
    assert main(["schema", str(tmp_path / "none.csv")]) == 2
    assert "no file" in capsys.readouterr().err
    assert main(["schema", str(file), "--columns", "ctiy"]) == 2
    assert "did you mean 'city'" in capsys.readouterr().err


def test_remarks_name_the_file_and_are_made_once(tmp_path, capsys):
    """Spellings were said of 'the table', and a second time as a warning of the fit."""
    rng = np.random.default_rng(0)
    lines = [f"{v:.2f}".replace(".", ",") + f";{'xy'[i % 2]}" for i, v in enumerate(rng.normal(size=80))]
    file = tmp_path / "t.csv"
    file.write_text("a;w\n" + "\n".join(lines) + "\n")
    small = ["--set", "latent_options={states: 3, likelihood: leaves}", "--set", "max_epochs=1"]
    for told in (["schema", file, "-o", tmp_path / "s.yaml"], ["fit", file, "-o", tmp_path / "run", *small]):
        capsys.readouterr()
        assert main([str(a) for a in told]) == 0
        err = capsys.readouterr().err
        assert f"'{file}': read decimal commas in 'a'" in err and err.count("decimal commas") == 1
        assert "the table" not in err
    frame = pl.read_csv(file, separator=";", infer_schema=False)
    assert TableSchema.infer(frame).notes[0] == "the table: read decimal commas in 'a'"
    with pytest.raises(ConfigError, match=r"columns: 't\.csv' has no column 'b'"):
        TableSchema.infer(frame, {"b": "real"}, source="t.csv")
