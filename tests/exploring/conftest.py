"""Three small runs, and what is shown of them: a tree of mixed columns, states of numbers, a flow alone."""

from __future__ import annotations

import pytest

import small_runs
from modeflow.exploring.views import Explored
from modeflow.runs import load_run
from modeflow.serving.model import Limits, Served


@pytest.fixture(scope="session")
def mixed_folder(tmp_path_factory):
    return small_runs.mixed_run(tmp_path_factory.mktemp("explored"))


def explored(folder):
    return Explored(Served(load_run(folder), Limits(megabytes=2.0), usual=10))


@pytest.fixture(scope="session")
def mixed(mixed_folder):
    return explored(mixed_folder)


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    return explored(small_runs.numbers_run(tmp_path_factory.mktemp("numbers")))


@pytest.fixture(scope="session")
def flow(tmp_path_factory):
    return explored(small_runs.flow_run(tmp_path_factory.mktemp("flow")))
