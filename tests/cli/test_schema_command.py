"""`modeflow schema`."""

from __future__ import annotations

import json

import polars as pl
import pytest

from modeflow.cli import main
from modeflow.data.columns import TableSchema


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
