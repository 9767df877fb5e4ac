"""One trainer for every density: loop, devices, checkpoints, resume, early stopping, logs, progress."""

from modeflow.training.config import TrainConfig, Training
from modeflow.training.devices import resolve_device
from modeflow.training.flat import flatten
from modeflow.training.history import History
from modeflow.training.seeding import seeded
from modeflow.training.signals import signals_held
from modeflow.training.stored import StoredRows
from modeflow.training.surroundings import shield
from modeflow.training.trainer import Trainer

__all__ = [
    "History",
    "StoredRows",
    "TrainConfig",
    "Trainer",
    "Training",
    "flatten",
    "resolve_device",
    "seeded",
    "shield",
    "signals_held",
]
