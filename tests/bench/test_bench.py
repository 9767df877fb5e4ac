"""`modeflow bench`: ratios, noise, and that every contestant runs."""

from __future__ import annotations

import json

import pytest

from modeflow.bench import contestants
from modeflow.bench import timing as bench
from modeflow.bench.contestants import CONTESTANTS, Case
from modeflow.cli import main


def run(contestant, launch, ms):
    return {"case": "c", "contestant": contestant, "launch": launch, "step": ms, "log_prob": ms, "sample": ms}


def test_ratios_are_launch_by_launch_and_noise_is_told_apart():
    runs = [run("modeflow", 0, 10.0), run("modeflow", 1, 20.0)]
    runs += [run("modeflow again", 0, 12.0), run("modeflow again", 1, 18.0)]
    runs += [run("slow", 0, 40.0), run("slow", 1, 60.0), run("close", 0, 11.0), run("close", 1, 30.0)]
    rows = {(r["contestant"], r["measure"]): r for r in bench.ratios(runs)}
    assert rows["slow", "step"]["ratio"] == 3.5
    assert (rows["slow", "step"]["low"], rows["slow", "step"]["high"]) == (3.0, 4.0)
    assert rows["slow", "step"]["resolved"] and not rows["close", "step"]["resolved"]
    assert not rows["modeflow", "step"]["resolved"] and rows["modeflow", "step"]["ratio"] == 1.0


@pytest.mark.parametrize("coupling", [True, False])
@pytest.mark.parametrize("name", [n for n in CONTESTANTS if n != "modeflow again"])
def test_every_contestant_can_be_timed(name, coupling, monkeypatch):
    pytest.importorskip(CONTESTANTS[name][0])
    monkeypatch.setitem(contestants.CASES, "tiny", Case(5, 8, 3, 16, coupling, 20, 5))
    monkeypatch.setattr(contestants, "LAYERS", 2)
    times = bench.measure(name, "tiny", 1)
    assert set(times) == set(bench.MEASURES) and min(times.values()) > 0


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_launch", lambda name, case, threads: dict.fromkeys(bench.MEASURES, 2.0))
    assert main(["bench", "--launches", "2", "--threads", "1", "-o", str(tmp_path / "b.json")]) == 0
    shown = capsys.readouterr().out
    assert "coupling, small" in shown and "unresolved" in shown
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["machine"]["cores"] and len(content["runs"]) % 6 == 0
    assert main(["bench", "--case", "coupling"]) != 0
    assert "no case 'coupling'" in capsys.readouterr().err
    assert main(["bench", "--launches", "0"]) != 0
