"""Killing and resuming: bit by bit what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import config, model, noise, rows

from modeflow.errors import TrainingError
from modeflow.training import Trainer
from modeflow.training.checkpoint import fingerprint, load_checkpoint

PROGRAM = Path(__file__).parent / "small_trainings.py"


def checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.safetensors"


def without_seconds(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in lines]


def test_a_killed_run_resumes_bit_by_bit(tmp_path):
    """A real SIGKILL: before the first checkpoint that steps bring, in the middle of an epoch, while a new
    checkpoint is about to take the place of the old one, and near the end."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    settings = config(checkpoint_every_steps=7, ema=0.9)
    net = model()
    Trainer(settings, whole).fit(net, rows(), rows(100), augment=noise)
    moments = ["c1", "s3", "s18", "c2", "s9", "s20", ""]
    command = [sys.executable, str(PROGRAM), str(killed), ",".join(moments)]
    # One thread from the start: a process that has started more cannot be forked.
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=one)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [-signal.SIGKILL] * 6 + [0], done.stderr
    a, b = load_file(checkpoint(whole)), load_file(checkpoint(killed))
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different
    assert without_seconds(whole) == without_seconds(killed)
    assert [p.name for p in (killed / "checkpoints").iterdir()] == ["last.safetensors"]


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


def test_more_patience_may_be_asked_for(tmp_path):
    ruined = {"learning_rate": 3.0, "max_epochs": 20}
    first = Trainer(config(patience=2, **ruined), tmp_path).fit(model(), rows(), rows(60))
    assert (first.stopped, first.epochs[-1]["epoch"]) == ("patience", 2)
    again = Trainer(config(patience=5, **ruined), tmp_path).fit(model(), rows(), rows(60), resume=True)
    assert (again.stopped, again.epochs[-1]["epoch"]) == ("patience", 5)


def test_nothing_to_resume_starts_afresh_and_says_so(tmp_path, caplog):
    history = Trainer(config(max_epochs=1), tmp_path).fit(model(), rows(), resume=True)
    assert history.steps > 0
    assert "nothing to resume (no checkpoint in" in caplog.text


def test_a_long_epoch_gets_checkpoints_by_the_clock(tmp_path):
    class Killed(BaseException):
        pass

    def dying(batch, generator):
        steps.append(1)
        if len(steps) == 6:
            raise Killed
        return batch

    steps: list[int] = []
    with pytest.raises(Killed):
        Trainer(config(checkpoint_every_seconds=0, device="cpu"), tmp_path).fit(
            model(), rows(), augment=dying
        )
    _, meta = load_checkpoint(tmp_path)
    assert (meta["position"]["epoch"], meta["position"]["step"]) == (0, 5)


def test_an_earlier_run_in_the_folder_is_not_resumed_by_mistake(tmp_path):
    """A new run replaces the old checkpoint before its first step."""

    class Killed(BaseException):
        pass

    def dying(batch, generator):
        raise Killed

    Trainer(config(max_epochs=2), tmp_path).fit(model(), rows(), rows(60))
    with pytest.raises(Killed):
        Trainer(config(max_epochs=2), tmp_path).fit(model(), rows(), rows(60), augment=dying)
    assert load_checkpoint(tmp_path)[1]["position"]["step"] == 0
    assert [row["epoch"] for row in without_seconds(tmp_path)] == [0]


def test_the_rows_are_told_apart_exactly():
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).view(-1, 3)
    changed, swapped = x.clone(), x.clone()
    changed[33_333, 2] += 1e-3  # not among the values picked out: every fourth
    swapped[[0, 1]] = x[[1, 0]]
    prints = {fingerprint(t) for t in (x, changed, swapped, x.double(), x.view(-1, 1))}
    assert len(prints) == 5
    assert fingerprint(x, None) != fingerprint(None, x)
    assert fingerprint(x) == fingerprint(x.clone())


def test_other_data_or_settings_are_refused(tmp_path):
    Trainer(config(max_epochs=1), tmp_path).fit(model(), rows(), rows(60))
    with pytest.raises(TrainingError, match="the data differs"):
        Trainer(config(max_epochs=1), tmp_path).fit(model(), rows() + 1e-3, rows(60), resume=True)
    with pytest.raises(TrainingError, match=r"learning_rate was 0.001 and is now 0.1"):
        Trainer(config(max_epochs=1, learning_rate=0.1), tmp_path).fit(model(), rows(), rows(60), resume=True)
    other = model(3)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(TrainingError, match="another model"):
        Trainer(config(max_epochs=1), tmp_path).fit(other, rows(), rows(60), resume=True)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in before.items()), "touched all the same"


@pytest.mark.parametrize("damage", ["cut", "header", "one bit", "empty", "pickle"])
def test_a_damaged_checkpoint_is_said(tmp_path, damage):
    Trainer(config(max_epochs=1), tmp_path).fit(model(), rows())
    file = checkpoint(tmp_path)
    content = file.read_bytes()
    file.write_bytes(
        {
            "cut": content[:-100],
            "header": b"\xff" * 16 + content[16:],
            "one bit": content[:-50] + bytes([content[-50] ^ 1]) + content[-49:],
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


def test_the_tail_of_a_plateau_resumes_at_any_step(tmp_path):
    """Killed on the plateau, at the step that begins the tail, within the tail: the same to the last bit."""

    class Killed(BaseException):
        pass

    settings = config(
        schedule="plateau", patience=3, max_epochs=60, learning_rate=0.1, ema=0.5, checkpoint_every_steps=3
    )
    whole = model()
    history = Trainer(settings, tmp_path / "a").fit(whole, rows(100), rows(60), augment=noise)
    assert history.stopped == "patience"
    rates = [row["learning_rate"] for row in history.epochs]
    begins = next(i for i in range(2, len(rates)) if rates[i] < rates[i - 1])
    steps = history.epochs[begins - 1]["step"]
    assert 0 < steps < history.steps
    for stop in (steps - 1, steps, steps + 1, history.steps - 2):
        calls = []

        def dying(batch, generator, calls=calls, stop=stop):
            calls.append(1)
            if len(calls) > stop:
                raise Killed
            return noise(batch, generator)

        folder = tmp_path / str(stop)
        with pytest.raises(Killed):
            Trainer(settings, folder).fit(model(), rows(100), rows(60), augment=dying)
        again = model()
        Trainer(settings, folder).fit(again, rows(100), rows(60), augment=noise, resume=True)
        a, b = load_file(checkpoint(tmp_path / "a")), load_file(checkpoint(folder))
        assert a.keys() == b.keys()
        assert not [name for name in a if not torch.equal(a[name], b[name])], stop
        assert without_seconds(tmp_path / "a") == without_seconds(folder)


def test_a_tail_that_has_ended_is_the_end(tmp_path):
    """More patience does not open a run again whose learning rate has fallen to zero."""
    options = {"schedule": "plateau", "max_epochs": 60, "learning_rate": 3.0}
    first = Trainer(config(patience=2, **options), tmp_path).fit(model(), rows(), rows(60))
    assert (first.stopped, first.epochs[-1]["epoch"]) == ("patience", 3)  # two epochs, and a quarter: one
    again = Trainer(config(patience=9, **options), tmp_path).fit(model(), rows(), rows(60), resume=True)
    assert again.epochs == first.epochs
