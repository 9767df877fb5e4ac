"""Runs: from a configuration and data to a folder that holds everything about the fit."""

from modeflow.runs.baselines import fit_baselines
from modeflow.runs.config import RunConfig, model_names, read_config
from modeflow.runs.fit import fit_run
from modeflow.runs.folder import Run, load_run
from modeflow.runs.measure import solver_note

__all__ = [
    "Run",
    "RunConfig",
    "fit_baselines",
    "fit_run",
    "load_run",
    "model_names",
    "read_config",
    "solver_note",
]
