"""A fitted density beside the one that its rows were drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np

from modeflow.data import Table
from modeflow.data.toy_islands import Shapes
from modeflow.domains._frames import frame_of
from modeflow.metrics import adjusted_rand, bridge_mass, islands_reached, modes_found, true_bridge_mass

__all__ = ["truth_of"]

_BRIDGE_SAMPLES = 100_000


def truth_of(estimator: Any, toy: Any, test: Table) -> dict[str, Any]:
    """The gap to the truth on test rows; islands found, and samples between them, where they are known."""
    true = toy.log_prob(test.values)
    gap = true - estimator.score_samples(frame_of(test))
    truth = {
        "log_likelihood": float(true.mean()),
        "gap": float(gap.mean()),
        "gap_standard_error": float(gap.std(ddof=1) / np.sqrt(len(gap))),
    }
    if isinstance(toy, Shapes):
        samples, _ = estimator.sample(_BRIDGE_SAMPLES)
        states = estimator.predict(frame_of(test)) if estimator.n_states_ > 1 else np.zeros(len(test))
        truth |= islands_reached(toy, np.asarray(samples))
        truth["agreement"] = adjusted_rand(toy.log_joint(test.values).argmax(1), states)
    if toy.modes is not None and toy.scale is not None:
        samples = np.asarray(estimator.sample(_BRIDGE_SAMPLES)[0])
        truth |= {
            "bridge_mass": bridge_mass(samples, toy.modes, toy.scale),
            "true_bridge_mass": true_bridge_mass(toy),
            "modes_found": modes_found(samples, toy.modes, toy.scale),
            "modes": len(toy.modes),
        }
    return truth
