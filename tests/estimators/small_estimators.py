"""Estimators small enough to fit in a test."""

from __future__ import annotations

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
