"""Tables for tests of the scores of synthetic rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

CATEGORICAL = ("kind",)


def mixed(n: int, seed: int = 0) -> pd.DataFrame:
    """Two numbers that depend on one another, a code, a text, a boolean; all depend on a hidden island."""
    rng = np.random.default_rng(seed)
    island = rng.integers(0, 3, n)
    x = rng.normal(size=n) + 4 * island
    return pd.DataFrame(
        {
            "x": x,
            "y": 0.8 * x + 0.3 * rng.normal(size=n),
            "kind": island + rng.integers(0, 2, n),
            "name": np.array(["low", "mid", "high"])[island],
            "flag": rng.random(n) < 0.2 + 0.3 * island,
        }
    )


def shuffled(table: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    """The same columns, independent of one another."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.permutation(table[name].to_numpy()) for name in table})
