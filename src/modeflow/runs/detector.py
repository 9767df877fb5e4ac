"""The detector of odd rows that stands in a run folder: numbers through noise, ranked among the test rows.

A run of complete numbers that holds out test rows fits it beside its density, to at most 20,000 of the
training and validation rows, and calibrates it on all test rows: seconds beside the minutes of a fit (of the
processor 0.6 s for 300 rows of 2 columns, 4 s for 2,000 of 8, 21 s for 20,000 of 10). It ranks better than
the density of the columns, see `modeflow.estimators.blurred`.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from modeflow.domains.base import Parts
from modeflow.errors import DataError
from modeflow.estimators import DensityEstimator, NVFOutlier
from modeflow.progress import busy, showing

__all__ = ["DETECTOR", "fit_detector", "load_detector"]

#: Its file in a run folder.
DETECTOR = "detector.safetensors"
#: Rows that it is fitted to, at the most.
_ROWS = 20_000


def fit_detector(
    estimator: DensityEstimator, parts: Parts, folder: Path, seed: int, quiet: bool
) -> dict[str, Any] | None:
    """Fit the detector of a run and write it: how many rows were used and held out, and the seconds.

    None, and no file, where it can be none of these rows: they are no numbers, or too few.

    Arguments:
        estimator: fitted. parts: of the data. folder: of the run. seed: of the run. quiet: no progress.
    """
    domain, began = estimator.domain_, time.perf_counter()
    (folder / DETECTOR).unlink(missing_ok=True)
    if not domain.stacks or not len(parts.test):
        return None
    rows = [np.asarray(domain.rows(domain.some(part, _ROWS))) for part in (parts.train, parts.validation)]
    values = np.concatenate(rows)
    if len(values) > _ROWS:
        values = values[np.sort(np.random.default_rng(seed).permutation(len(values))[:_ROWS])]
    detector, names = NVFOutlier(random_state=seed), list(domain.facts["columns"])
    test = domain.rows(parts.test)
    try:
        with warnings.catch_warnings(), showing(not quiet), busy("detector of odd rows"):
            warnings.simplefilter("ignore")  # of p-values that are too coarse `modeflow anomalies` tells
            detector.fit(_framed(values, names, test), held=test)
            detector.save(folder / DETECTOR)
    except DataError:
        return None
    return {
        "rows": len(values),
        "rows_held_out": len(detector.held_scores_),
        "seconds": round(time.perf_counter() - began, 3),
    }


def load_detector(folder: Path) -> NVFOutlier | None:
    """The detector of a run folder; None where it has none.

    Raises:
        ModelFileError: a file that is damaged.
    """
    file = folder / DETECTOR
    return NVFOutlier.load(file) if file.exists() else None


def _framed(values: np.ndarray, names: list[str], like: Any) -> Any:
    """Rows as a frame of the kind of others."""
    return type(like)({name: values[:, j] for j, name in enumerate(names)})
