"""Runs: from a configuration and a table to a folder that holds everything about the fit."""

from modeflow.experiments.baselines import fit_baselines
from modeflow.experiments.config import RunConfig, model_names, read_config
from modeflow.experiments.rows import RowsToScore, load_rows
from modeflow.experiments.runs import Run, fit_run, load_run, load_table, solver_note

__all__ = [
    "RowsToScore",
    "Run",
    "RunConfig",
    "fit_baselines",
    "fit_run",
    "load_rows",
    "load_run",
    "load_table",
    "model_names",
    "read_config",
    "solver_note",
]
