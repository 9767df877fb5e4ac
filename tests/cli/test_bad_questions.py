"""Bad questions to a run of a mixed table: one clear line, exit status 2, nothing written."""

from __future__ import annotations

import polars as pl
import pytest
from mixed_files import SMALL, write

from modeflow.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    write(folder / "table.csv")
    (folder / "schema.yaml").write_text("columns:\n  height: {kind: bounded, low: 100, high: 250}\n")
    told = ["fit", folder / "table.csv", "-o", folder / "run", "--quiet", "--schema", folder / "schema.yaml"]
    told += [*SMALL, "--set", "latent_options.likelihood=leaves"]
    assert main([str(a) for a in told]) == 0
    return folder


def refused(capsys, *args):
    """The one line of a command that does nothing."""
    capsys.readouterr()
    assert main([str(a) for a in args]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "warning" not in line]
    assert out == "" and len(lines) == 1 and lines[0].startswith("modeflow: error: "), err
    return lines[0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("city=Roma", "is given 'Roma', which categorical(Oslo, Rome) cannot have; did you mean 'Rome'?"),
        ("height=90", "is given '90', which bounded(100..250) cannot have: the nearest value is 100"),
        ("height=inf", "column 'height' is given 'inf', which bounded(100..250) cannot have"),
        ("height=tall", "column 'height' is given 'tall', which bounded(100..250) cannot have"),
        ("born=1980-02-30", "column 'born' is given '1980-02-30', which datetime"),
        ("city=", "column 'city' is given no value: leave it out to have it drawn"),
        ("height=nan", "column 'height' is given no value"),
        ("city=Rome,city=Oslo", "--given names column 'city' twice"),
        ("citty=Rome", "there is no column 'citty' in the model; did you mean 'city'?"),
        ("unit=cm", "column 'unit' is constant('cm'): no part of the model"),
        ("city", "--given needs column=value, received 'city'"),
        ("=Rome", "there is no column ''"),
    ],
)  # fmt: skip
def test_conditions_that_cannot_be(run, tmp_path, capsys, given, says):
    out = tmp_path / "s.csv"
    assert says in refused(capsys, "sample", run / "run", "-n", 3, "--given", given, "-o", out)
    assert not out.exists()


def test_a_condition_goes_with_no_state_and_no_temperature(run, capsys):
    for more in (["--state", "1"], ["--with-state"], ["--temperature", "0.5"]):
        line = refused(capsys, "sample", run / "run", "--given", "city=Rome", *more)
        assert "it takes no state and no temperature" in line


@pytest.mark.parametrize("command", ["impute", "anomalies", "score", "assign"])
def test_columns_that_are_lacking_or_unknown(run, tmp_path, capsys, command):
    table, out = pl.read_csv(run / "table.csv"), tmp_path / "out.csv"
    for frame, says in (
        (table.drop("height"), "missing 'height'; give a column that nothing is known of with empty cells"),
        (table.with_columns(age=1), "unexpected 'age'"),
        (table.rename({"height": "hight"}), "missing 'height'; unexpected 'hight'; did you mean 'height'?"),
    ):
        frame.write_csv(tmp_path / "t.csv")
        assert refused(capsys, command, run / "run", tmp_path / "t.csv", "-o", out).endswith(says)
        assert not out.exists()


def test_a_column_of_empty_cells_is_filled(run, tmp_path, capsys):
    """As the message about a column that is lacking says."""
    pl.read_csv(run / "table.csv").with_columns(height=None).write_csv(tmp_path / "t.csv")
    out = tmp_path / "out.csv"
    assert main([str(a) for a in ("impute", run / "run", tmp_path / "t.csv", "-o", out, "--quiet")]) == 0
    capsys.readouterr()
    assert pl.read_csv(out)["height"].is_between(100, 250).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-m", "0"], "m must be 1 or more"),
        (["-m", "3", "--mean"], "m must be 1 or more (1 with how='mean')"),
        (["-o", "filled.xlsx"], "cannot write"),
    ],
)
def test_bad_options_of_impute(run, capsys, monkeypatch, options, says):
    monkeypatch.chdir(run)
    assert says in refused(capsys, "impute", "run", "table.csv", *options)


def test_names_with_commas_and_signs_are_given_in_quotes():
    from argparse import Namespace

    from modeflow.cli.commands._output import columns_of
    from modeflow.cli.commands.sample import _cells

    assert columns_of('b , "age, years",c') == ["b", "age, years", "c"]
    given = Namespace(given='"age, years = 3", k=v=4,"city=Rome, Italy",other=a=b')
    found = {"age, years": "3", "k=v": "4", "city": "Rome, Italy", "other": "a=b"}
    assert _cells(given, ("k", "k=v", "age, years", "city")) == found
