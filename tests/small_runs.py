"""Run folders that take a second or two: a mixed table under a tree, numbers under states, a plain flow."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import polars as pl

from modeflow.cli import main

sys.path.insert(0, str(Path(__file__).parent / "cli"))
files = importlib.import_module("mixed_files")


def fit(folder, *told):
    """Fit `folder`/table.csv into `folder`/run."""
    command = ["fit", folder / "table.csv", "-o", folder / "run", "--quiet", *told]
    assert main([str(each) for each in command]) == 0
    return folder / "run"


def mixed_run(folder):
    """Heights, cities, dates and angles, with holes, under a tree of states with leaves."""
    files.write(folder / "table.csv", n=200)
    return fit(folder, *files.SMALL, "--set", "latent_options.likelihood=leaves", "--test", "0.2")


def numbers_run(folder):
    """Two islands of two numbers, under two states."""
    rng = np.random.default_rng(0)
    side = rng.integers(2, size=150)
    x = rng.normal(size=(150, 2)) + 8 * side[:, None]
    pl.DataFrame({"a": x[:, 0], "b": x[:, 0] + 0.5 * x[:, 1]}).write_csv(folder / "table.csv")
    settings = ("n_states=2", "flow=nsf-coupling", "flow_options.layers=1", "max_epochs=2")
    return fit(folder, *(part for setting in settings for part in ("--set", setting)))


def flow_run(folder):
    """Three numbers under a flow: no states, and no conditionals."""
    x = np.random.default_rng(0).normal(size=(90, 3))
    pl.DataFrame({"a": x[:, 0], "b": x[:, 0] + x[:, 1], "c": x[:, 2]}).write_csv(folder / "table.csv")
    settings = ("flow_options.layers=1", "max_epochs=1", "stacking=false")
    told = (part for setting in settings for part in ("--set", setting))
    return fit(folder, "--model", "nsf-coupling", *told)
