"""Two small runs: a mixed table under a tree, and numbers under states."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from modeflow.cli import main
from modeflow.runs import load_run

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
files = importlib.import_module("mixed_files")


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Folder of a run on heights, cities, dates and angles, with holes."""
    folder = tmp_path_factory.mktemp("served")
    files.write(folder / "table.csv", n=200)
    told = ["fit", folder / "table.csv", "-o", folder / "run", "--quiet", *files.SMALL]
    told += ["--set", "latent_options.likelihood=leaves", "--test", "0.2"]
    assert main([str(a) for a in told]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def numbers(tmp_path_factory):
    """Folder of a run on two islands of numbers."""
    folder = tmp_path_factory.mktemp("numbers")
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=150)
    x = rng.normal(size=(150, 2)) + 8 * side[:, None]
    pl.DataFrame({"a": x[:, 0], "b": x[:, 0] + 0.5 * x[:, 1]}).write_csv(folder / "table.csv")
    told = ["fit", folder / "table.csv", "-o", folder / "run", "--quiet"]
    for setting in ("n_states=2", "flow=nsf-coupling", "flow_options.layers=1", "max_epochs=2"):
        told += ["--set", setting]
    assert main([str(a) for a in told]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def mixed_run(mixed):
    return load_run(mixed)


@pytest.fixture(scope="session")
def numbers_run(numbers):
    return load_run(numbers)
