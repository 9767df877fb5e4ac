"""Two small runs: a mixed table under a tree, and numbers under states."""

from __future__ import annotations

import pytest

import small_runs
from modeflow.runs import load_run


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Folder of a run on heights, cities, dates and angles, with holes."""
    return small_runs.mixed_run(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """Folder of a run on two islands of numbers."""
    return small_runs.numbers_run(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="session")
def mixed_run(mixed):
    return load_run(mixed)


@pytest.fixture(scope="session")
def numbers_run(numbers):
    return load_run(numbers)
