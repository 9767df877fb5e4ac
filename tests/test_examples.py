"""The programs in examples/ run, as they are, and print what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs(file, capsys):
    runpy.run_path(str(file), run_name="__main__")
    said = capsys.readouterr().out
    assert "nats" in said and "nan" not in said
