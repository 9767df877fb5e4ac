"""Estimators small enough to fit in a test."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FLOW = {"layers": 2, "hidden_features": 8, "blocks": 1, "bins": 4}
FAST: dict[str, Any] = {
    "flow": "nsf-coupling",
    "max_epochs": 3,
    "batch_size": 64,
    "flow_options": FLOW,
    "random_state": 0,
}


def islands(n: int = 400, seed: int = 0) -> np.ndarray:
    """Three Gaussians far apart, in units far from standard."""
    rng = np.random.default_rng(seed)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    return 100 * (centres[rng.integers(3, size=n)] + rng.normal(0, 0.5, (n, 2))) + 1000


def alone(estimator: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The log-density of rows and their posterior under the model, without what stands beside it."""
    model = estimator._scorer()
    beside, model.beside = model.beside, None
    try:
        return estimator.score_samples(X), estimator.predict_proba(X)
    finally:
        model.beside = beside


def surprises_by_grid(estimator: Any, X: np.ndarray, points: int) -> np.ndarray:
    """`surprises` of rows such as `islands` has, every column summed out on a grid of so many points."""
    grid, found = np.linspace(-4000, 6000, points), np.empty_like(X)
    for j in range(X.shape[1]):
        many = np.repeat(X, len(grid), 0)
        many[:, j] = np.tile(grid, len(X))
        mass = np.exp(estimator.score_samples(many)).reshape(len(X), -1).sum(1) * (grid[1] - grid[0])
        found[:, j] = np.log(mass) - estimator.score_samples(X)
    return found


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the JSON header of a model file."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    inner = json.loads(header["__metadata__"]["modeflow"])
    change(inner)
    header["__metadata__"]["modeflow"] = json.dumps(inner)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
