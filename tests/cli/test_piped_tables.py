"""Tables of words, dates and holes through a pipe: every command takes them as it takes the file."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import polars as pl
import pytest
from mixed_files import SMALL, write

from modeflow.cli import main


@pytest.fixture
def piped(capsys, monkeypatch):
    """What a command prints that is given text on standard input."""

    def call(text, *args, code=0):
        class Stdin:
            buffer = io.BytesIO(text.encode())

        capsys.readouterr()
        monkeypatch.setattr(sys, "stdin", Stdin)
        assert main([str(a) for a in args]) == code
        out, err = capsys.readouterr()
        return out if code == 0 else err

    return call


def test_every_command_takes_a_mixed_table_from_a_pipe(tmp_path, piped):
    text = write(tmp_path / "t.csv").read_text()
    ours = [*SMALL, "--set", "latent_options.likelihood=leaves", "--json"]
    told = json.loads(piped(text, "fit", "-", "-o", tmp_path / "run", *ours))
    file = json.loads(piped("", "fit", tmp_path / "t.csv", "-o", tmp_path / "other", *ours))
    assert told["domain"] == "mixed" and told["kinds"] == file["kinds"] and told["notes"] == file["notes"]
    assert told["log_likelihood"] == file["log_likelihood"]
    assert (tmp_path / "run" / "data.csv").read_text() == text

    for source in ("-", tmp_path / "t.csv"):
        told = json.loads(piped(text, "score", tmp_path / "run", source, "--json"))
        assert told["log_likelihood"]["n"] == 160
    states = piped(text, "assign", tmp_path / "run", "-", "-o", "-")
    assert len(states.splitlines()) == 161
    filled = pl.read_csv(io.StringIO(piped(text, "impute", tmp_path / "run", "-")))
    assert filled.height == 160 and not sum(filled.null_count().row(0))
    assert "city" in piped(text, "schema", "-")
    again = json.loads(piped("", "fit", "--config", tmp_path / "run", "-o", tmp_path / "again", "--json"))
    assert again["log_likelihood"] == file["log_likelihood"]


def test_what_is_wrong_is_said_of_the_rows_as_they_came(tmp_path, piped):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"who": [f"w{i}" for i in range(50)], "x": rng.normal(size=50)})
    err = piped(frame.write_csv(), "fit", "-", "-o", tmp_path / "run", code=2)
    assert "'who'" in err and "modeflow schema - -o" in err and "data.csv" not in err
    assert not (tmp_path / "run").exists()
