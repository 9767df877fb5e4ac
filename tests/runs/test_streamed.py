"""Fits on many files: parts that do not overlap, a bad file passed over, a run that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from modeflow.cli import main
from modeflow.domains import TableDomain
from modeflow.errors import ConfigError, DataError
from modeflow.runs import RunConfig, load_run, streamed
from modeflow.runs.lock import locked

SMALL = ["--quiet", "--set", "max_epochs=2", "--set", "n_states=2", "--set", "flow=nsf-coupling",
         "--set", "flow_options.layers=1", "--set", "flow_options.hidden_features=8"]  # fmt: skip


def rows(n, seed):
    rng = np.random.default_rng(seed)
    return pl.DataFrame({"a": rng.normal(size=n), "n": rng.integers(0, 9, size=n)})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "SAMPLE", 60)
    data = tmp_path / "data"
    data.mkdir()
    for i in range(3):
        rows(100, i).write_csv(data / f"p{i}.csv")
    return data


def settings(folder, **more):
    return RunConfig.build({"data": f"{folder}/*", "model": "nvf", **more}).settings


def test_parts_are_drawn_once_and_do_not_overlap(folder, tmp_path):
    found = streamed.stream(TableDomain, settings(folder, test=0.1, validation=0.4), tmp_path / "rows")
    assert found.parts.sizes == (300 - 30 - 60, 60, 30) and len(found.parts.train) == 60
    everything = pl.concat([pl.read_csv(file) for file in sorted(folder.iterdir())])["a"].to_numpy()
    trained = np.concatenate(list(found.stored.blocks()))[:, 0]
    held = np.concatenate([found.parts.test.values[:, 0], found.parts.validation.values[:, 0]])
    assert np.array_equal(np.sort(np.concatenate([trained, held])), np.sort(everything))
    assert np.isin(found.parts.train.values[:, 0], trained).all()
    again = streamed.stream(TableDomain, settings(folder, test=0.1, validation=0.4), tmp_path / "other")
    assert np.array_equal(again.parts.test.values, found.parts.test.values)
    assert again.stored.fingerprint() == found.stored.fingerprint()


def test_what_cannot_be_fitted_is_said(folder, tmp_path):
    with pytest.raises(ConfigError, match="single file"):
        streamed.stream(TableDomain, settings(folder, rows=10), tmp_path / "rows")
    (folder / "q.csv").write_text("b,n\n1,2\n")
    found = streamed.stream(TableDomain, settings(folder), tmp_path / "rows")
    assert list(found.failed) == [str(folder / "q.csv")] and found.stored.total == 300
    for file in folder.glob("p*"):
        file.write_text("")
    (folder / "q.csv").write_text("")
    with pytest.raises(DataError, match="none of 4 files"):
        streamed.stream(TableDomain, settings(folder), tmp_path / "rows")


def test_a_fit_on_many_files(folder, tmp_path, capsys):
    run = tmp_path / "run"
    (folder / "q.csv").write_text("b,n\n1,2\n")
    assert main(["fit", f"{folder}/*.csv", "-o", str(run), *SMALL]) == 1
    assert "skipped" in capsys.readouterr().err and not (run / "rows").exists()
    result = json.loads((run / "result.json").read_text())
    assert result["rows"] == {"train": 240, "validation": 30, "test": 30}
    fitted = load_run(run)
    _, parts = fitted.data()
    assert len(parts.test) == 30 and parts.sizes[0] == 240
    # What is not of the lattice that the sample shows is refused before a step.
    pl.DataFrame({"a": [0.5, 0.25] * 150, "n": [1.0] * 299 + [2.5]}).write_csv(folder / "r.csv")
    (folder / "q.csv").unlink()
    code = main(["fit", f"{folder}/*.csv", "-o", str(tmp_path / "other"), *SMALL])
    assert code == 2 and "sample" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_the_weights_are_those_of_one_file_in_memory(folder, tmp_path, monkeypatch):
    monkeypatch.undo()  # all rows are the sample
    whole = tmp_path / "whole.csv"
    pl.concat([pl.read_csv(file) for file in sorted(folder.iterdir())]).write_csv(whole)
    for name, told in (("many", [f"{folder}/*"]), ("cut", [str(whole), "--stream"]), ("one", [str(whole)])):
        assert main(["fit", *told, "-o", str(tmp_path / name), *SMALL]) == 0
    for file in ("model.safetensors", "test_scores.npy"):
        assert len({(tmp_path / name / file).read_bytes() for name in ("many", "cut", "one")}) == 1
    many, one = (load_run(tmp_path / name).data()[1] for name in ("many", "one"))
    assert all(np.array_equal(a.values, b.values) for a, b in zip(many, one, strict=True))


PROGRAM = """
import sys
from functools import partial
from modeflow.cli import main
from modeflow.estimators import settings
from modeflow.runs import streamed
streamed.SAMPLE = 60
settings.TrainConfig = partial(settings.TrainConfig, checkpoint_every_seconds=0.0)  # a checkpoint a step
sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_fit_resumes_bit_by_bit(folder, tmp_path):
    """A real SIGKILL while it trains from the rows written: `modeflow fit --resume` ends where it would."""
    longer = [each.replace("max_epochs=2", "max_epochs=6") for each in SMALL]
    run, last = tmp_path / "killed", tmp_path / "killed" / "checkpoints" / "last.safetensors"
    told = [sys.executable, "-c", PROGRAM, "fit", f"{folder}/*.csv", "-o", str(run), *longer]
    process = subprocess.Popen(told, env={**os.environ, "OMP_NUM_THREADS": "1"})
    seen: set[int] = set()
    while process.poll() is None and len(seen) < 4:
        seen |= {last.stat().st_mtime_ns} if last.exists() else set()
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "the fit ended before it was killed"
    assert (run / "rows" / "rows.f64").exists() and not (run / "model.safetensors").exists()
    assert main(["fit", "-o", str(run), "--resume", "--quiet"]) == 0
    assert not (run / "rows").exists() and not (run / ".lock").exists()
    assert main(["fit", f"{folder}/*.csv", "-o", str(tmp_path / "whole"), *longer]) == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert np.array_equal(*(np.load(tmp_path / name / "test_scores.npy") for name in ("whole", "killed")))


def test_a_folder_is_fitted_into_by_one_process(folder, tmp_path, capsys):
    told = ["fit", f"{folder}/*.csv", "-o", str(tmp_path / "run"), *SMALL]
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        assert main(told) == 2
    assert "another process is fitting" in capsys.readouterr().err
    assert not any((tmp_path / "run").iterdir())
    (tmp_path / "run" / ".lock").touch()  # left by a process that was killed
    assert main(told) == 0 and not (tmp_path / "run" / ".lock").exists()
