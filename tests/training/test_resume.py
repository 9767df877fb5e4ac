"""Killing and resuming: bit by bit what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import config, model, noise, rows

from modeflow.errors import TrainingError
from modeflow.training import Trainer

PROGRAM = Path(__file__).parent / "small_trainings.py"


def checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.safetensors"


def without_seconds(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in lines]


def run_and_kill(folder: Path, after: float | None) -> int:
    """Start the training in a process of its own; SIGKILL it some time after its first step."""
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(folder), "0.004" if after else "0"])
    if after is not None:
        alive = folder / "alive"
        alive.unlink(missing_ok=True)
        deadline = time.monotonic() + 60
        while not alive.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
    return process.wait(timeout=120)


def test_a_killed_run_resumes_bit_by_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    net = model()
    settings = config(checkpoint_every_steps=7, ema=0.9)
    Trainer(settings, whole).fit(net, rows(), rows(100), augment=noise)
    codes = [run_and_kill(killed, after) for after in (0.02, 0.15, 0.3)]
    assert -signal.SIGKILL in codes, "no kill arrived in time: the test shows nothing"
    assert run_and_kill(killed, None) == 0
    a, b = load_file(checkpoint(whole)), load_file(checkpoint(killed))
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different
    assert without_seconds(whole) == without_seconds(killed)


@pytest.mark.parametrize("stop", [1, 9, 13])
def test_resuming_at_any_step_in_process(tmp_path, stop):
    """As above, at chosen steps: mid-epoch, and at the end of an epoch's tenth batch."""

    class Killed(BaseException):
        pass

    calls = []

    def dying(batch, generator):
        calls.append(1)
        if len(calls) > stop:
            raise Killed
        return noise(batch, generator)

    settings = config(checkpoint_every_steps=2, max_epochs=3)
    whole, cut = model(), model()
    Trainer(settings, tmp_path / "a").fit(whole, rows(), rows(60), augment=noise)
    with pytest.raises(Killed):
        Trainer(settings, tmp_path / "b").fit(cut, rows(), rows(60), augment=dying)
    again = model()
    Trainer(settings, tmp_path / "b").fit(again, rows(), rows(60), augment=noise, resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert without_seconds(tmp_path / "a") == without_seconds(tmp_path / "b")


def test_a_finished_run_returns_at_once(tmp_path):
    first, second = model(), model()
    h = Trainer(config(max_epochs=2), tmp_path).fit(first, rows(), rows(60))
    k = Trainer(config(max_epochs=2), tmp_path).fit(
        second, rows(), rows(60), resume=True, augment=lambda b, g: pytest.fail("trained again")
    )
    assert h.epochs == k.epochs
    assert h.best_epoch == k.best_epoch
    assert all(torch.equal(v, second.state_dict()[n]) for n, v in first.state_dict().items())


def test_more_epochs_may_be_asked_for(tmp_path):
    net = model()
    Trainer(config(max_epochs=2), tmp_path).fit(net, rows(), rows(60))
    history = Trainer(config(max_epochs=4), tmp_path).fit(net, rows(), rows(60), resume=True)
    assert history.epochs[-1]["epoch"] == 4


def test_nothing_to_resume_starts_afresh(tmp_path):
    history = Trainer(config(max_epochs=1), tmp_path).fit(model(), rows(), resume=True)
    assert history.steps > 0


def test_other_data_or_settings_are_refused(tmp_path):
    Trainer(config(max_epochs=1), tmp_path).fit(model(), rows(), rows(60))
    with pytest.raises(TrainingError, match="the data differs"):
        Trainer(config(max_epochs=1), tmp_path).fit(model(), rows() + 1e-3, rows(60), resume=True)
    with pytest.raises(TrainingError, match=r"learning_rate was 0.001 and is now 0.1"):
        Trainer(config(max_epochs=1, learning_rate=0.1), tmp_path).fit(model(), rows(), rows(60), resume=True)
    with pytest.raises(TrainingError, match="another model"):
        Trainer(config(max_epochs=1), tmp_path).fit(model(3), rows(), rows(60), resume=True)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "pickle"])
def test_a_damaged_checkpoint_is_said(tmp_path, damage):
    Trainer(config(max_epochs=1), tmp_path).fit(model(), rows())
    file = checkpoint(tmp_path)
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-100],
            "flipped": b"\xff" * 16 + content[16:],
            "empty": b"",
            "pickle": b"\x80\x04K\x01.",
        }[damage]
    )
    with pytest.raises(TrainingError, match="damaged: delete it"):
        Trainer(config(max_epochs=1), tmp_path).fit(model(), rows(), resume=True)


def test_the_checkpoint_is_replaced_whole(tmp_path, monkeypatch):
    """A failure while writing leaves the old checkpoint and nothing else."""
    trainer = Trainer(config(max_epochs=1), tmp_path)
    trainer.fit(model(), rows())
    before = checkpoint(tmp_path).read_bytes()

    def failing(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ValueError, match="No space left"):
        Trainer(config(max_epochs=2), tmp_path).fit(model(), rows(), resume=True)
    assert checkpoint(tmp_path).read_bytes() == before
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.safetensors"]
