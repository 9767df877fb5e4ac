"""Are synthetic rows as good to learn from as real ones? (machine-learning efficiency, MLE)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from modeflow.errors import ConfigError, DataError, nearest
from modeflow.metrics.synthetic.boosting import xgboost
from modeflow.metrics.synthetic.coding import MISSING, CodedTables, Rows, code_tables
from modeflow.progress import track

__all__ = ["GRID", "Utility", "utility"]

#: Settings of XGBoost among which the validation rows choose.
GRID: Mapping[str, Sequence[float]] = MappingProxyType(
    {
        "n_estimators": (10, 50, 100),
        "min_child_weight": (1, 10),
        "max_depth": (5, 10, 20),
        "gamma": (0.0, 1.0),
    }
)


@dataclass(frozen=True)
class Utility:
    """What is learned from synthetic rows, measured on real ones.

    Attributes:
        score: on the test rows: area under the ROC curve, or root mean squared error.
        measure: "roc_auc" (higher is better) or "rmse" (lower is better).
        validation: the same of the chosen setting on the synthetic rows kept for choosing.
        chosen: that setting.
    """

    score: float
    measure: str
    validation: float
    chosen: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def utility(
    synthetic: Any,
    test: Any,
    target: str,
    categorical: Iterable[str] | None = None,
    log_target: bool = False,
    grid: Mapping[str, Sequence[float]] = GRID,
    seed: int = 0,
    n_jobs: int | None = None,
) -> Utility:
    """XGBoost fitted to synthetic rows and scored on real test rows.

    Of 36 settings the one is taken that is best on a ninth of the synthetic rows, fitted to the others. A
    categorical target is classified (area under the ROC curve; of several classes, the mean of one against
    the rest); a numeric one is regressed (root mean squared error).

    Warning:
        Scaling is the protocol's, oddities included: the minimum and maximum of the first numeric column
        (a zero is replaced by that of the next) scale all; where they are at least 0 and 1000, all are the
        logarithm of what is at least 0.01. With `log_target`, the target of fit and test is
        log(clip(y, 1, 20000)), that of validation is not, so that the choice is close to arbitrary.

    Arguments:
        synthetic, test, categorical: as `real` and `synthetic` of `shape`. target: the column to predict.
        log_target: as the protocol does for beijing and news. grid: settings, by name the values to try;
            must have n_estimators. seed: of the rows kept for choosing. n_jobs: threads, None for all.

    Raises:
        ConfigError: no such column, a logarithm of classes, no n_estimators, or xgboost is not installed.
        DataError: missing cells in the target, fewer than nine rows, a single class in the test rows, or as
            `shape`.
    """
    coded = code_tables({"synthetic": synthetic, "test": test}, categorical)
    return utility_of(coded, target, log_target, grid, seed, n_jobs)


def utility_of(
    coded: CodedTables,
    target: str,
    log_target: bool = False,
    grid: Mapping[str, Sequence[float]] = GRID,
    seed: int = 0,
    n_jobs: int | None = None,
) -> Utility:
    """`utility` of the first table on the second."""
    if target not in coded.names:
        raise ConfigError(f"target: there is no column '{target}'{nearest(target, coded.names)}")
    if "n_estimators" not in grid:
        raise ConfigError(f"grid has no n_estimators, only {', '.join(grid) or 'nothing'}")
    rows, test = coded.tables
    if len(rows) < 9:
        raise DataError(f"{len(rows)} synthetic rows: nine or more are needed, one to choose settings")
    classes = target in coded.categorical
    if classes and log_target:
        raise ConfigError(f"log_target: '{target}' is categorical and has no logarithm")
    y, y_test = (_target(coded, each, target) for each in (rows, test))
    x, x_test = _inputs(coded, target)
    held, fitted = np.split(np.random.default_rng(seed).permutation(len(rows)), [len(rows) // 9])
    if classes and len(np.unique(y_test)) < 2:
        raise DataError(f"all test rows have the same '{target}': there is no area under a curve")
    task = _Classes(n_jobs) if classes else _Numbers(n_jobs, log_target)
    best: tuple[float, _Fitted, dict[str, float]] | None = None
    for setting in track(_settings(grid), "trees learn from synthetic rows"):
        # The first trees of a hundred are the trees of a smaller number: fitted once.
        model = task.fit(x[fitted], y[fitted], {**setting, "n_estimators": max(grid["n_estimators"])})
        for number in grid["n_estimators"]:
            found = task.validate(y[held], model(x[held], int(number)))
            if best is None or task.sign * (found - best[0]) > 0:
                best = found, model, {**setting, "n_estimators": number}
    if best is None:
        raise ConfigError("grid has no value for a setting")
    validation, model, chosen = best
    score = task.test(y_test, model(x_test, int(chosen["n_estimators"])))
    return Utility(score, task.measure, validation, chosen)


#: Predicts rows with so many trees.
_Fitted = Callable[[np.ndarray, int], np.ndarray]


def _settings(grid: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """All combinations, but of the number of trees."""
    names = [name for name in grid if name != "n_estimators"]
    return [dict(zip(names, each, strict=True)) for each in product(*(grid[name] for name in names))]


class _Classes:
    """Classification, by the area under the ROC curve."""

    measure, sign = "roc_auc", 1

    def __init__(self, n_jobs: int | None) -> None:
        self._n_jobs = n_jobs

    def fit(self, x: np.ndarray, y: np.ndarray, setting: dict[str, float]) -> _Fitted:
        known, codes = np.unique(y, return_inverse=True)
        if len(known) == 1:
            return lambda rows, _: _spread(np.ones((len(rows), 1)), known)
        model = (
            xgboost()
            .XGBClassifier(
                objective="binary:logistic" if len(known) == 2 else "multi:softprob",
                tree_method="hist",
                n_jobs=self._n_jobs,
                **setting,
            )
            .fit(x, codes)
        )
        return lambda rows, trees: _spread(model.predict_proba(rows, iteration_range=(0, trees)), known)

    def validate(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        """One class against the rest, mean over classes; of two classes both are the same."""
        from sklearn.metrics import roc_auc_score

        classes = np.unique(truth)
        if len(classes) < 2:
            return 0.5
        # A class that the model has not seen has no probability anywhere.
        width = max(predicted.shape[1], int(classes.max()) + 1)
        padded = np.pad(predicted, ((0, 0), (0, width - predicted.shape[1])))
        return float(np.mean([roc_auc_score(truth == c, padded[:, c]) for c in classes]))

    test = validate


def _spread(probabilities: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Probabilities of all codes up to the largest known."""
    out = np.zeros((len(probabilities), int(known.max()) + 1))
    out[:, known] = probabilities
    return out


class _Numbers:
    """Regression, by the root mean squared error."""

    measure, sign = "rmse", -1

    def __init__(self, n_jobs: int | None, log: bool) -> None:
        self._n_jobs, self._log = n_jobs, log

    def _seen(self, y: np.ndarray) -> np.ndarray:
        return np.log(np.clip(y, 1, 20_000)) if self._log else y

    def fit(self, x: np.ndarray, y: np.ndarray, setting: dict[str, float]) -> _Fitted:
        model = (
            xgboost()
            .XGBRegressor(objective="reg:squarederror", tree_method="hist", n_jobs=self._n_jobs, **setting)
            .fit(x, self._seen(y))
        )
        return lambda rows, trees: model.predict(rows, iteration_range=(0, trees))

    def validate(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(np.sqrt(np.mean((truth - predicted) ** 2)))

    def test(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return self.validate(self._seen(truth), predicted)


def _target(coded: CodedTables, rows: Rows, target: str) -> np.ndarray:
    if target in coded.categorical:
        place = coded.categorical.index(target)
        codes = rows.codes[:, place]
        missing = coded.levels[place][-1] == MISSING and bool((codes == len(coded.levels[place]) - 1).any())
    else:
        codes = rows.numbers[:, coded.numeric.index(target)]
        missing = bool(np.isnan(codes).any())
    if missing:
        raise DataError(f"target '{target}' has missing cells; leave these rows out")
    return codes


def _inputs(coded: CodedTables, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Columns as the protocol prepares them, by what the first table holds."""
    least = most = 0.0
    parts: list[tuple[np.ndarray, ...]] = []
    for name in coded.names:
        if name == target:
            continue
        if name in coded.categorical:
            codes = [rows.codes[:, coded.categorical.index(name)] for rows in coded.tables]
            known = np.unique(codes[0])
            parts.append(tuple((each[:, None] == known).astype(np.float32) for each in codes))
            continue
        columns = [rows.numbers[:, coded.numeric.index(name)].astype(np.float32) for rows in coded.tables]
        seen = columns[0][~np.isnan(columns[0])]
        if len(seen):
            least, most = least or float(seen.min()), most or float(seen.max())
        if least >= 0 and most >= 1e3:
            scaled = [np.log(np.maximum(column, 1e-2)) for column in columns]
        else:
            # The protocol divides by zero where the first column is constant.
            scaled = [(column - least) / ((most - least) or 1.0) * 5 for column in columns]
        parts.append(tuple(column[:, None] for column in scaled))
    if not parts:
        raise DataError(f"there is no column to predict '{target}' from")
    first, second = (np.concatenate([part[k] for part in parts], axis=1) for k in (0, 1))
    return first, second
