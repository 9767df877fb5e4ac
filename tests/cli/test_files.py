"""The command line on files as people have them: guesses are said, bad rows are marked, pipes work."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import yaml

from modeflow.cli import main

SMALL = [
    "--set", "max_epochs=1", "--set", "flow_options.layers=1", "--set", "n_states=2",
    "--set", "latent_options.encoder_features=[8]", "--set", "flow_options.hidden_features=8",
]  # fmt: skip


def call(capsys, *args):
    capsys.readouterr()
    code = main([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def rows(n=80):
    rng = np.random.default_rng(0)
    return pl.DataFrame({"a": rng.normal(size=n), "n": rng.integers(0, 9, size=n), "b": rng.normal(size=n)})


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    table = rows().with_columns(name=pl.lit("x"))
    text = table.write_csv().splitlines()
    text[5] = ",1,0.5,x"
    (folder / "t.csv").write_text("\n".join(text) + "\n")
    code = main(
        [
            "fit",
            str(folder / "t.csv"),
            "-o",
            str(folder / "run"),
            "--quiet",
            "--skip-text",
            "--drop-missing",
            *SMALL,
        ]
    )
    assert code == 0
    return folder


def test_what_is_left_out_is_said_and_stored(here, tmp_path, capsys):
    code, _, err = call(
        capsys, "fit", here / "t.csv", "-o", tmp_path / "run", "--skip-text", "--drop-missing", *SMALL
    )
    assert code == 0
    assert "left out columns of text: 'name'" in err
    assert "left out 1 of 80 rows with missing cells, in 'a' (1)" in err
    assert err.index("left out") < err.index("wrote")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["notes"]) == 2
    assert sum(result["rows"].values()) == 79
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (stored["header"], stored["drop_missing"], stored["skip_text"]) == (None, True, True)
    assert "drop these rows" in call(capsys, "fit", here / "t.csv", "-o", tmp_path / "no", *SMALL)[2]


def test_a_header_of_numbers(tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(60, 3))
    np.savetxt(tmp_path / "t.csv", X, delimiter=",", header="2019,2020,2021", comments="")
    code, out, err = call(capsys, "fit", tmp_path / "t.csv", "-o", tmp_path / "run", *SMALL)
    assert code == 0 and "read the first line (2019, 2020, 2021) as names of the columns" in err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["columns"] == ["2019", "2020", "2021"]
    code, out, _ = call(
        capsys, "fit", tmp_path / "t.csv", "-o", tmp_path / "raw", "--no-header", "--json", *SMALL
    )
    assert json.loads(out)["columns"] == ["x0", "x1", "x2"]
    assert sum(json.loads(out)["rows"].values()) == 61
    # The run is scored as it was fitted.
    code, out, _ = call(capsys, "score", tmp_path / "raw", tmp_path / "t.csv", "--json")
    assert json.loads(out)["log_likelihood"]["n"] == 61
    # Few rows tell nothing, but the model knows its columns.
    (tmp_path / "few.csv").write_text("2019,2020,2021\n2018,2020,2024\n")
    for folder, n in (("run", 1), ("raw", 2)):
        code, out, _ = call(capsys, "score", tmp_path / folder, tmp_path / "few.csv", "--json")
        assert code == 0 and json.loads(out)["log_likelihood"]["n"] == n
    code, _, err = call(capsys, "fit", tmp_path / "t.csv", "-o", tmp_path / "x", "--set", "header=maybe")
    assert code == 2 and "header must be true or false" in err


def test_one_bad_cell_costs_its_row(here, tmp_path, capsys):
    text = rows(20).write_csv().splitlines()
    whole = tmp_path / "whole.csv"
    whole.write_text("\n".join(text) + "\n")
    expected = json.loads(call(capsys, "score", here / "run", whole, "--json")[1])
    text[3], text[7], text[9], text[12] = ",1,0.5", "0.5,1,x9", "0.5,1,inf", "0.5,1.5,0.5"
    file = tmp_path / "t.csv"
    file.write_text("\n".join(text) + "\n")
    code, out, err = call(capsys, "score", here / "run", file, "-o", tmp_path / "s.csv")
    assert code == 0
    assert "3 of 20 rows have no score (NaN): row 3: 'a' is missing; row 7: 'b' is text; row 9: 'b' is" in err
    assert "column 'n' has steps of 1" in err and "holds 1.5" in err  # scored as the nearest step
    scores = pl.read_csv(tmp_path / "s.csv")
    assert scores["row"].to_list() == list(range(1, 21))
    column = scores[:, 1].to_numpy()
    assert np.flatnonzero(np.isnan(column)).tolist() == [2, 6, 8]
    call(capsys, "score", here / "run", whole, "-o", tmp_path / "whole-scores.csv")
    good = ~np.isnan(column)
    good[11] = False
    np.testing.assert_allclose(
        column[good], pl.read_csv(tmp_path / "whole-scores.csv")[:, 1].to_numpy()[good]
    )
    code, out, _ = call(capsys, "score", here / "run", file, "--json")
    result = json.loads(out)
    assert [r["row"] for r in result["rows_without_score"]] == [3, 7, 9]
    assert result["log_likelihood"]["n"] == 17
    assert expected["rows_without_score"] == []
    worst = {r["row"] for r in result["least_likely_rows"]}
    assert not worst & {3, 7, 9}
    code, _, err = call(capsys, "assign", here / "run", file, "-o", tmp_path / "a.csv", "--quiet")
    assert code == 0 and "3 of 20 rows have no state (NaN)" in err
    states = pl.read_csv(tmp_path / "a.csv")
    assert states["state"].dtype.is_integer()
    assert states["state"].is_null().arg_true().to_list() == [2, 6, 8]


def test_a_table_of_which_no_row_can_be_scored_is_refused(here, tmp_path, capsys):
    file = tmp_path / "t.csv"
    file.write_text("a,n,b\n1,,1\ninf,1,2\n")
    code, out, err = call(capsys, "score", here / "run", file)
    assert code == 2 and out == "" and "none of 2 rows can be scored; row 1: 'n' is missing" in err
    file.write_text("a,n,b\nx,1,1\ny,2,2\n")
    code, _, err = call(capsys, "score", here / "run", file, "--no-header")
    assert code == 2 and "columns differ" in err
    code, _, err = call(capsys, "score", here / "run", file)
    assert code == 2 and "missing 'a'" in err  # --skip-text of the fit leaves the column of text out


class Stdin:
    def __init__(self, data):
        self.buffer = io.BytesIO(data)


def test_pipes(here, tmp_path, capsys, monkeypatch):
    code, out, err = call(capsys, "sample", here / "run", "-n", 30, "-o", "-", "--seed", 1)
    assert code == 0
    drawn = pl.read_csv(io.StringIO(out))
    assert drawn.columns == ["a", "n", "b"] and drawn.height == 30 and drawn["n"].dtype.is_integer()
    assert out == call(capsys, "sample", here / "run", "-n", 30, "--seed", 1)[1]
    monkeypatch.setattr(sys, "stdin", Stdin(out.encode()))
    code, scores, err = call(capsys, "score", here / "run", "-", "-o", "-")
    assert code == 0
    assert pl.read_csv(io.StringIO(scores)).height == 30
    assert "wrote to stdout: 30 rows" in err
    assert "mean log-density" in err
    monkeypatch.setattr(sys, "stdin", Stdin(out.encode()))
    code, states, err = call(capsys, "assign", here / "run", "-", "-o", "-")
    assert pl.read_csv(io.StringIO(states)).height == 30
    code, out, err = call(capsys, "score", here / "run", "-", "-o", "-", "--json")
    assert code == 2 and "give one of them" in err


def test_fit_from_a_pipe_keeps_the_rows(tmp_path, capsys, monkeypatch):
    text = rows(60).write_csv()
    folder = tmp_path / "run"
    monkeypatch.setattr(sys, "stdin", Stdin(text.encode()))
    assert call(capsys, "fit", "-", "-o", folder, "--columns", "b,a", "--quiet", *SMALL)[0] == 0
    assert (folder / "data.csv").read_text() == text
    assert json.loads((folder / "result.json").read_text())["columns"] == ["b", "a"]
    code, out, _ = call(capsys, "fit", "--config", folder, "-o", tmp_path / "again", "--json")
    assert code == 0 and json.loads(out)["rows"]["train"] == 48
    for bad in ("a,b\n1,x\n2,y\n", "a,b\n1,2\n"):
        monkeypatch.setattr(sys, "stdin", Stdin(bad.encode()))
        code, _, err = call(capsys, "fit", "-", "-o", tmp_path / "none", *SMALL)
        assert code == 2 and "data.csv" not in err
        assert not (tmp_path / "none").exists()
    monkeypatch.setattr(sys, "stdin", Stdin(text.encode()))
    assert "already holds a run" in call(capsys, "fit", "-", "-o", folder, *SMALL)[2]


def test_the_shell_completes_commands_and_options(tmp_path):
    pytest.importorskip("argcomplete")

    def completions(line):
        out = tmp_path / "out"
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(out),
            "_ARGCOMPLETE_SHELL": "bash",
            "_ARGCOMPLETE_IFS": "\n",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        subprocess.run(
            [sys.executable, "-c", "from modeflow.cli import main; main([])"],
            env=environment,
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return out.read_text().split("\n")

    assert "score" in [c.strip() for c in completions("modeflow sc")]
    assert {"--drop-missing", "--header", "--no-header"} <= {
        c.strip() for c in completions("modeflow fit --")
    }


def test_the_completion_command(capsys, monkeypatch):
    pytest.importorskip("argcomplete")
    code, out, _ = call(capsys, "completion", "zsh")
    assert code == 0 and "modeflow" in out and "_ARGCOMPLETE" in out
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    code, _, err = call(capsys, "completion")
    assert code == 2 and "pip install 'modeflow[completion]'" in err


def test_what_is_read_is_never_written(here, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for name in "ab":
        rows(9).write_csv(data / f"{name}.csv")
    before = (data / "a.csv").read_bytes()
    asked = [
        ("score", here / "run", data / "a.csv", "-o", data / "." / "a.csv"),
        ("assign", here / "run", data, "-o", data, "--overwrite"),
        ("anomalies", here / "run", f"{data}/*.csv", "-o", data),
        ("schema", data / "a.csv", "-o", data / "a.csv"),
        ("fit", data, "-o", data, *SMALL),
    ]
    for args in asked:
        code, _, err = call(capsys, *args)
        assert code == 2 and ("would be lost" in err or "folder of the data" in err)
    assert (data / "a.csv").read_bytes() == before and len(list(data.iterdir())) == 2


def test_a_pattern_that_the_shell_has_resolved(here, tmp_path, capsys):
    files = [str(tmp_path / f"{name}.csv") for name in "ab"]
    for file in files:
        rows(3).write_csv(file)
    with pytest.raises(SystemExit):
        main(["score", str(here / "run"), *files])
    assert "a pattern in quotes" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["score", str(here / "run"), files[0], "--nothing"])
    assert "unrecognized arguments: --nothing" in capsys.readouterr().err


def test_json_is_json(here, tmp_path, capsys):
    """A row outside of what a column can be has no probability: null, for JSON has no infinite numbers."""
    table = rows(40).with_columns(word=pl.Series(["u", "v"] * 20))
    table.write_csv(tmp_path / "t.csv")
    small = ["--set", "max_epochs=1", "--set", "latent_options.likelihood=leaves", "--quiet"]
    assert main(["fit", str(tmp_path / "t.csv"), "-o", str(tmp_path / "run"), *small]) == 0
    table[:1].with_columns(word=pl.lit("w")).write_csv(tmp_path / "new.csv")
    code, out, _ = call(capsys, "score", tmp_path / "run", tmp_path / "new.csv", "--json")
    told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert code == 0 and told["least_likely_rows"] == [{"row": 1, "log_density": None}]
    table[:1].write_csv(tmp_path / "new.csv")
    _, out, _ = call(capsys, "score", tmp_path / "run", tmp_path / "new.csv")
    assert "n=1" in out and "nan" not in out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_is_piped_is_utf8(here, tmp_path, monkeypatch, encoding):
    """Where the system has another encoding: the signs of the words for people are in neither of them."""
    rows(9).write_csv(tmp_path / "t.csv")
    piped = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", piped)
    assert main(["score", str(here / "run"), str(tmp_path / "t.csv"), "--quiet"]) == 0
    piped.flush()
    assert "log-density" in piped.buffer.getvalue().decode() and "−" in piped.buffer.getvalue().decode()
    assert piped.encoding == encoding


def test_a_fit_on_several_devices():
    from modeflow.cli.commands.fit import settings
    from modeflow.cli.parser import build_parser
    from modeflow.runs import RunConfig

    args = build_parser().parse_args(["fit", "moons", "-o", "run", "--devices", "2"])
    assert RunConfig.build(settings(args)).settings["training"]["devices"] == 2
