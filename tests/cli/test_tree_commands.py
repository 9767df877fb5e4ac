"""Commands on a run with a tree of states: what they say of it, and what they write."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from modeflow import load_estimator
from modeflow.cli import main
from modeflow.runs import load_run
from modeflow.serving.model import Served


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=160)
    pl.DataFrame(
        {"speed": 10 * side + rng.normal(0, 1, 160), "count": side * 7 + rng.poisson(2, 160)}
    ).write_csv(folder / "table.csv")
    told = ["fit", str(folder / "table.csv"), "-o", str(folder / "run"), "--quiet"]
    for setting in (
        "latent=tree", "latent_options.states=4", "max_epochs=2", "flow_options.hidden_features=8",
    ):  # fmt: skip
        told += ["--set", setting]
    assert main(told) == 0
    return folder


def call(capsys, *args):
    capsys.readouterr()
    code = main([str(a) for a in args])
    return code, capsys.readouterr().out


def test_fit_says_what_the_latent_is(run):
    result = json.loads((run / "run" / "result.json").read_text())
    assert result["latent"] == {
        "kind": "tree",
        "words": "a tree of 2 × 4 states",
        "count": 4,
        "unit": "state",
    }
    assert result["tree"]["states"] == 4 and len(result["tree"]["used"]) == 2
    assert result["measures"] == []
    # The flow over a tree is made of splines and permutations alone.
    estimator = load_estimator(run / "run")
    assert estimator.flow_ == "nsf-autoregressive"
    options = estimator.flow_options_
    assert (options["mixing"], options["context_affine"], options["layers"]) == ("reverse", "none", 3)
    assert options["hidden_features"] == 8


def test_assign_gives_every_column_its_state(run, capsys):
    out = run / "states.csv"
    code, text = call(capsys, "assign", run / "run", run / "table.csv", "-o", out)
    assert code == 0
    assert "states  perplexity  column" in text and "speed" in text
    found = pl.read_csv(out)
    assert found.columns == ["row", "state_speed", "state_count"]
    assert len(found) == 160 and found["state_count"].is_in(range(4)).all()
    code, text = call(capsys, "assign", run / "run", run / "table.csv", "--json")
    told = json.loads(text)["columns"]
    assert [c["column"] for c in told] == ["speed", "count"]
    assert all(1 <= c["perplexity"] <= 4 for c in told)


def test_sample_and_score(run, capsys):
    out = run / "samples.csv"
    assert call(capsys, "sample", run / "run", "-n", 30, "-o", out, "--with-state")[0] == 0
    drawn = pl.read_csv(out)
    assert drawn.columns == ["speed", "count", "state_speed", "state_count"]
    assert drawn["count"].dtype == pl.Int64 and drawn["state_speed"].is_in(range(4)).all()
    assert call(capsys, "score", run / "run", run / "table.csv")[0] == 0


def test_report_names_the_tree(run, capsys):
    assert call(capsys, "report", run / "run", "--quiet", "--no-baselines")[0] == 0
    page = (run / "run" / "report.html").read_text(encoding="utf-8")
    assert "NVF with a tree of 2 × 4 states" in page
    assert "states in use a column, of 4" in page


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """Numbers of which a tree is chosen: five narrow places in every column, whatever the others say."""
    folder = tmp_path_factory.mktemp("chosen")
    rng = np.random.default_rng(0)
    x = 10 * rng.integers(0, 5, (180, 3)) + rng.normal(0, 0.3, (180, 3))
    pl.DataFrame(x, schema=["a", "b", "c"]).write_csv(folder / "table.csv")
    told = ["fit", str(folder / "table.csv"), "-o", str(folder / "run"), "--quiet"]
    for setting in ("max_epochs=8", "max_states=1"):
        told += ["--set", setting]
    assert main(told) == 0
    return folder


def test_the_command_line_tries_trees_of_numbers_and_all_commands_know_them(chosen, capsys):
    """It never did: `config.yaml` wrote out the options of flat states, which said that they were meant."""
    run, table = chosen / "run", chosen / "table.csv"
    result = json.loads((run / "result.json").read_text())
    assert (result["domain"], result["latent"]["kind"]) == ("table", "tree")
    code, text = call(capsys, "assign", run, table, "-o", chosen / "states.csv")
    assert code == 0 and "states  perplexity  column" in text
    assert pl.read_csv(chosen / "states.csv").columns == ["row", "state_a", "state_b", "state_c"]
    assert call(capsys, "sample", run, "-n", 4, "--with-state", "-o", chosen / "s.csv")[0] == 0
    drawn = pl.read_csv(chosen / "s.csv")
    assert drawn.columns == ["a", "b", "c", "state_a", "state_b", "state_c"]
    assert drawn["state_a"].dtype == pl.Int64
    for command in ("score", "anomalies"):
        assert call(capsys, command, run, table)[0] == 0
    assert call(capsys, "report", run)[0] == 0
    served = Served(load_run(run), usual=20)
    rows = {name: [10.0, 20.0] for name in "abc"}
    for answer in (served.score(rows), served.assign(rows), served.reasons(rows), served.sample(2)):
        assert answer
