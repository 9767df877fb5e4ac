"""Small real tables that need no download: they come with scikit-learn."""

from __future__ import annotations

import numpy as np

from modeflow.data.dataset import Dataset, DatasetInfo
from modeflow.data.table import Table

__all__ = ["list_bundled", "load_bundled"]

_TERMS = "CC BY 4.0 (UCI), copy shipped with scikit-learn"
_DEMO_COLUMNS = 8

# name -> (rows, columns, source, note)
_BUNDLED: dict[str, tuple[int, int, str, str]] = {
    "demo": (
        1797,
        _DEMO_COLUMNS,
        "UCI optical recognition of handwritten digits",
        "handwritten digits in their first 8 principal components; labels are the digits",
    ),
    "digits": (
        1797,
        61,
        "UCI optical recognition of handwritten digits",
        "8x8 pixels with 17 grey levels; three pixels that are always 0 are dropped",
    ),
    "iris": (150, 4, "Fisher 1936 (UCI)", "labels are the species; values are rounded to 0.1 cm"),
    "wine": (178, 13, "UCI wine", "labels are the cultivars"),
    "breast-cancer": (569, 30, "UCI breast cancer Wisconsin (diagnostic)", "labels: 0 is malignant"),
}


def list_bundled() -> list[DatasetInfo]:
    """The tables that are always there."""
    return [
        DatasetInfo(name, "bundled", rows, columns, True, None, source, _TERMS, note=note)
        for name, (rows, columns, source, note) in _BUNDLED.items()
    ]


def load_bundled(name: str) -> Dataset:
    """Load one of them; `demo` is the digits' principal components, a real table with ten groups."""
    from sklearn import datasets

    note = _BUNDLED[name][3]
    if name in ("demo", "digits"):
        bunch = datasets.load_digits()
        values, names = np.asarray(bunch.data, dtype=np.float64), tuple(bunch.feature_names)
        if name == "demo":
            values = _principal_components(values, _DEMO_COLUMNS)
            names = tuple(f"pc{i + 1}" for i in range(_DEMO_COLUMNS))
        else:
            varies = values.min(0) < values.max(0)
            values, names = values[:, varies], tuple(n for n, v in zip(names, varies, strict=True) if v)
    else:
        load = {"iris": datasets.load_iris, "wine": datasets.load_wine}.get(name, datasets.load_breast_cancer)
        bunch = load()
        values, names = np.asarray(bunch.data, dtype=np.float64), tuple(map(str, bunch.feature_names))
    labels = np.asarray(bunch.target, dtype=np.int64)
    return Dataset(name, "bundled", Table(values, names, name), labels=labels, notes=(note,))


def _principal_components(values: np.ndarray, count: int) -> np.ndarray:
    """Scores on the first components; each axis points to where its largest loading is positive."""
    centred = values - values.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:count]
    largest = axes[np.arange(count), np.abs(axes).argmax(1)]
    return centred @ (axes * np.sign(largest)[:, None]).T
