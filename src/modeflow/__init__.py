"""Exact densities and generation for data with many isolated modes.

    from modeflow import NVF
    model = NVF(n_states=8, random_state=0).fit(X)
    model.score_samples(X), model.sample(1000), model.predict_proba(X)

Names are imported when they are first used, so that ``import modeflow`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modeflow._version import __version__

if TYPE_CHECKING:
    from modeflow.errors import ConfigError, DataError, ModeflowError, ModelFileError, TrainingError
    from modeflow.estimators import NVF, FlowDensity, ImageDensity, NVFClassifier, NVFOutlier, load_estimator

__all__ = [
    "NVF",
    "ConfigError",
    "DataError",
    "FlowDensity",
    "ImageDensity",
    "ModeflowError",
    "ModelFileError",
    "NVFClassifier",
    "NVFOutlier",
    "TrainingError",
    "__version__",
    "load_estimator",
]

_HOME = {
    "NVF": "modeflow.estimators",
    "FlowDensity": "modeflow.estimators",
    "ImageDensity": "modeflow.estimators",
    "NVFClassifier": "modeflow.estimators",
    "NVFOutlier": "modeflow.estimators",
    "load_estimator": "modeflow.estimators",
    "ConfigError": "modeflow.errors",
    "DataError": "modeflow.errors",
    "ModeflowError": "modeflow.errors",
    "ModelFileError": "modeflow.errors",
    "TrainingError": "modeflow.errors",
}


#: Rooms that are reached from here without an import of their own.
_ROOMS = ("export", "flows", "inference", "models", "testing")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"modeflow.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'modeflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
