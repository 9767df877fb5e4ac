"""Progress in a log: lines, few and far between; on a terminal see the test of the trainer."""

from __future__ import annotations

import pytest

from modeflow import progress
from modeflow.progress import Lines, busy, showing, track
from modeflow.training.progress import TrainingProgress


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list; stderr is no terminal."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    monkeypatch.setattr(Lines, "_last", -1e9)
    return now


def said(capsys):
    return capsys.readouterr().err.splitlines()


def test_lines_come_at_growing_distances(clock, capsys):
    with showing(True):
        for _ in track(range(3000), "score"):
            clock[0] += 1.0
    lines = said(capsys)
    assert lines[0] == "modeflow: score: 0 %, 50 min left"  # eleven of three thousand, one a second
    assert 25 < len(lines) < 60  # three hundred if they kept the first distance
    with showing(True):
        for _ in track(range(9), "score"):
            clock[0] += 1.0
    assert said(capsys) == []  # nothing of what is over in less than ten seconds


def test_nothing_is_said_unless_wanted(clock, capsys):
    for wanted in (False, True):
        with showing(wanted):
            for _ in track(range(3), "outer"):
                with busy("inside"):
                    clock[0] += 60.0
        lines = said(capsys)
        assert len(lines) == 3 * wanted and "inside" not in "".join(lines)


def test_a_training_says_how_far_it_is(clock, capsys):
    training = TrainingProgress("fit", 40, 0, quiet=False)
    clock[0] += 11.0
    training.update(1.5)
    clock[0] += 11.0
    training.update(3, -1.25, -1.0)
    training.expect(7)
    clock[0] += 11.0
    training.update(4.2)
    training.close()
    assert said(capsys) == [
        "modeflow: fit: epoch 2 of at most 40",
        "modeflow: fit: epoch 3 of at most 40, validation -1.250 (best -1.000)",
        "modeflow: fit: epoch 4 of at most 7, validation -1.250 (best -1.000)",
    ]
    quiet = TrainingProgress("fit", 40, 0, quiet=True)
    clock[0] += 100.0
    quiet.update(3, 1.0, 1.0)
    assert said(capsys) == []
