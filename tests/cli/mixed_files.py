"""A small file with words, dates and holes, and settings of a fit that takes seconds."""

from __future__ import annotations

import numpy as np
import polars as pl

SMALL = ["--set", "latent_options.states=4", "--set", "max_epochs=2"]


def write(path, n=160, seed=0, **more):
    rng = np.random.default_rng(seed)
    side = rng.integers(2, size=n)
    height = [
        None if rng.random() < 0.1 else round(float(v), 4) for v in 160 + 25 * side + rng.normal(0, 5, n)
    ]
    frame = pl.DataFrame(
        {
            "height": height,
            "city": [None if rng.random() < 0.1 else ("Oslo", "Rome")[s] for s in side],
            "born": [f"19{80 + s}-0{1 + int(rng.integers(9))}-1{int(rng.integers(9))}" for s in side],
            "wind": 10 * rng.integers(36, size=n),
            "unit": "cm",
            **more,
        }
    )
    frame.write_csv(path)
    return path
