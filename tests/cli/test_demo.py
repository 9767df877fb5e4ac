"""The demo of tables, at a small size: numbers, pictures, reports, and what it says."""

from __future__ import annotations

import json

import polars as pl
import pytest

from modeflow.cli import main
from modeflow.cli.commands import _demo_mixed, demo


@pytest.fixture
def small(monkeypatch):
    tiny = {
        "rows": 300,
        "max_epochs": 1,
        "n_states": 6,
        "flow": "nsf-coupling",
        "flow_options": {"layers": 1},
    }
    monkeypatch.setattr(demo, "_SETTINGS", tiny)
    monkeypatch.setattr(demo, "_SAMPLES", 200)
    mixed = {"max_epochs": 3, "latent_options": {"states": 6}}
    for name, value in {"_ROWS": 300, "_TEST": 200, "_SAMPLES": 250, "_SETTINGS": mixed}.items():
        monkeypatch.setattr(_demo_mixed, name, value)


@pytest.mark.slow
def test_the_demo(small, tmp_path, capsys):
    folder = tmp_path / "demo"
    assert main(["demo", "-o", str(folder), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers == json.loads((folder / "numbers.json").read_text())
    assert [row["name"] for row in numbers["log_likelihood"]][1:] == [
        "Gaussian mixture", "plain flow", "true density",
    ]  # fmt: skip
    assert {file.name for file in folder.iterdir()} == set(demo._FILES)

    mixed = numbers["mixed"]
    model, columns, truth = mixed["log_likelihood"]
    assert model["n"] == truth["n"] == 200 and columns["name"] == "independent columns"
    assert columns["value"] < model["value"] < truth["value"] and truth["standard_error"] is None
    test, filled = (pl.read_csv(folder / f"mixed-{name}.csv") for name in ("test", "filled"))
    assert filled.null_count().sum_horizontal().item() == 0
    for name, score in mixed["filled"].items():
        known = test[name].is_not_null()
        assert filled.filter(known)[name].equals(test.filter(known)[name])
        assert score["cells"] == test[name].null_count() > 0
        better = score["truth"] > score["column"] if name == "shape" else score["truth"] < score["column"]
        assert better
    page = (folder / "mixed-report.html").read_text(encoding="utf-8")
    assert "true density" in page and "Missing cells" in page

    assert main(["demo", "-o", str(folder)]) == 0  # replaces itself
    out, err = capsys.readouterr()
    assert "6/6" in err and "log-likelihood of test rows, 30 % of which lack a cell" in out
    assert "of shape, right" in out and "true density" in out
    (folder / "mine.txt").write_text("")
    assert main(["demo", "-o", str(folder)]) == 2
    assert "holds other things (mine.txt)" in capsys.readouterr().err


def test_the_column_alone_is_its_mean_or_its_likeliest_level():
    toy = _demo_mixed_toy()
    whole = toy.sample(400, seed=0)
    rows = toy.with_holes(whole, 0.3, seed=0)
    train, test, truth = rows[:200], rows[200:], whole[200:]
    judged = _demo_mixed._judged(toy, train, test, truth, truth)
    assert judged["x"]["model"] == judged["y"]["model"] == 0 and judged["shape"]["model"] == 1
    holes = test["x"].is_null()
    apart = truth.filter(holes)["x"] - train["x"].mean()
    assert judged["x"]["column"] == pytest.approx(float((apart**2).mean() ** 0.5))
    most = train["shape"].drop_nulls().value_counts(sort=True)["shape"][0]
    assert judged["shape"]["column"] == pytest.approx(
        (truth.filter(test["shape"].is_null())["shape"] == most).mean()
    )


def _demo_mixed_toy():
    from modeflow.data.toy_named import NamedShapes

    return NamedShapes()
