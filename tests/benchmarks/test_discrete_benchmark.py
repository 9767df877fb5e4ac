"""The benchmark of binary tables: probabilities, choice by validation, runs that go on."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeflow.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def discrete(monkeypatch, tmp_path):
    """The program, with a folder of data of one table of five columns, two islands."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import discrete

    rng = np.random.default_rng(0)

    def rows(n):
        island = rng.integers(0, 2, (n, 1))
        return (rng.random((n, 5)) < 0.15 + 0.7 * island).astype(np.uint8)

    (tmp_path / "discrete").mkdir()
    parts = {"train": rows(300), "valid": rows(100), "test": rows(100)}
    np.savez(tmp_path / "discrete" / "nltcs.npz", **parts)
    lines = (
        "dataset,method,metric,value,std,source,status",
        "nltcs,LearnSPN,test_ll_nats,-6.11,,a paper,recalled_unverified",
        "nltcs,HCLT,test_ll_nats,-5.99,,a paper,copied",
        "nltcs,HCLT,other,-1.0,,a paper,copied",
    )
    (tmp_path / "published.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("MODEFLOW_DATA", str(tmp_path))
    monkeypatch.setattr(discrete, "STEPS", 60)
    monkeypatch.setattr("common.RESULTS", tmp_path)
    monkeypatch.setattr(discrete, "RESULTS", tmp_path)
    small = {"tree": {"states": (2, 3)}, "states": {"states": (2,)}, "MADE": {"dropout": (0.0,)}}
    monkeypatch.setattr(discrete, "SETTINGS", {**small, "Chow-Liu": {"added": (0.1, 50.0)}})
    yield discrete
    for name in ("common", "discrete"):
        sys.modules.pop(name, None)


def test_every_contestant_gives_probabilities(discrete):
    split = discrete.load("nltcs")
    cells = torch.tensor(list(itertools.product(range(2), repeat=5))).float()
    for method, settings in discrete.SETTINGS.items():
        first = next(discrete.combinations(settings))
        scores = discrete.CONTESTANTS[method](split, 0, **first)
        with torch.no_grad():
            total = float(scores(cells).double().exp().sum())
        assert total == pytest.approx(1, abs=1e-4), method


def test_runs_are_chosen_by_validation_kept_and_shown(discrete, monkeypatch, capsys):
    command = ["discrete.py", "--tables", "nltcs", "--methods", "Chow-Liu"]
    monkeypatch.setattr(sys, "argv", command)
    discrete.main()
    content = json.loads((discrete.RESULTS / "discrete.json").read_text())
    (run,) = content["runs"]
    assert "machine" in content and run["setting"] == {"added": 0.1} and len(run["trials"]) == 2
    assert run["validation"] == max(trial["validation"] for trial in run["trials"])
    assert -5 * np.log(2) < run["test"] < 0 < run["standard_error"]
    out = capsys.readouterr().out
    assert out.index("HCLT") < out.index("LearnSPN") and "recalled_unverified" in out
    # What has a result is not measured again; one that was stopped goes on from its fits.
    monkeypatch.setattr(discrete, "load", None)
    discrete.main()
    monkeypatch.setattr(sys, "argv", [*command, "--show"])
    discrete.main()
    assert "Chow-Liu" in capsys.readouterr().out
    monkeypatch.setattr(discrete, "STEPS", 61)
    with pytest.raises(SystemExit, match="measured with other settings"):
        discrete.main()


def test_a_table_that_is_not_there_is_said(discrete):
    with pytest.raises(DataError, match=r"no file 'discrete/dna.npz'.*MODEFLOW_DATA"):
        discrete.load("dna")
