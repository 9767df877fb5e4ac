"""`modeflow reproduce`: published experiments, fitted, gone on with, and set beside the paper."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modeflow.cli import main
from modeflow.runs import experiments
from modeflow.runs.experiments import EXPERIMENTS, Experiment


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An experiment of a second."""
    rows = tmp_path / "rows.csv"
    np.savetxt(rows, np.random.default_rng(0).normal(size=(300, 2)), delimiter=",", header="a,b", comments="")
    (tmp_path / "small.yaml").write_text(
        f"data: {rows}\nmodel: nice\nmax_epochs: 2\nflow_options: {{layers: 2, hidden_features: 8}}\n"
    )
    monkeypatch.setattr(experiments, "_FOLDER", tmp_path)
    chosen = Experiment("small", "Somebody 2020", 10.0, "a second", "the rows")
    monkeypatch.setattr(experiments, "EXPERIMENTS", {"small": chosen})
    return tmp_path / "run"


def test_it_is_fitted_and_set_beside_the_paper_and_goes_on(small, capsys):
    assert main(["reproduce", "small", "-o", str(small), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert (
        "published     10 (Somebody 2020): worse than published, by" in shown
        and "differs       the rows" in shown
    )
    told = json.loads((small / "reproduction.json").read_text())
    result = json.loads((small / "result.json").read_text())
    assert (
        told["ours"] == result["log_likelihood"]["test"]["value"] and told["better_by"] == told["ours"] - 10
    )
    before = (small / "model.safetensors").read_bytes()
    assert main(["reproduce", "small", "-o", str(small), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reproduction"] == told
    assert (small / "model.safetensors").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(small, tmp_path, capsys):
    (small).mkdir()
    (small / "config.yaml").write_text("data: x.csv\n")
    assert main(["reproduce", "small", "-o", str(small)]) == 2
    assert "holds another run: give another folder" in capsys.readouterr().err


def test_they_are_listed_and_a_wrong_name_is_told(capsys):
    assert main(["reproduce"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in EXPERIMENTS) and "−14.75" in shown
    assert main(["reproduce", "nsf-coupling-pwer"]) == 2
    assert "did you mean 'nsf-coupling-power'" in capsys.readouterr().err


def test_verdicts():
    nats, bits = Experiment("a", "b", 3.0, "c"), Experiment("a", "b", 3.0, "c")
    ours = {"value": 3.5, "standard_error": 0.1}
    assert nats.compared(ours, False)["verdict"] == "better than published"
    assert bits.compared(ours, True)["verdict"] == "worse than published"
    assert nats.compared({"value": 3.1, "standard_error": 0.1}, True)["verdict"] == "as published"
    assert Experiment("a", "b", None, "c").compared(ours, True)["better_by"] is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_one_has_settings(name):
    settings = EXPERIMENTS[name].settings()
    assert {"model", "data"} <= settings.keys()
