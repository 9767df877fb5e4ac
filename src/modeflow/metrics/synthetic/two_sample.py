"""Can a classifier tell synthetic rows from real ones? (classifier two-sample test, C2ST)"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modeflow.errors import DataError
from modeflow.metrics.synthetic.boosting import xgboost
from modeflow.metrics.synthetic.coding import CodedTables, code_tables
from modeflow.options import check_choice
from modeflow.progress import track

__all__ = ["CLASSIFIERS", "Detection", "detection"]

CLASSIFIERS = ("xgboost", "logistic")
FOLDS = 3


@dataclass(frozen=True)
class Detection:
    """How well synthetic rows hide among real ones.

    Attributes:
        score: 1 where the classifier guesses, 0 where it always tells.
        auc: area under the ROC curve, mean over folds (below 1/2 counts as 1/2 in the score).
        folds: the areas of the folds.
        classifier: its name.
        rows: numbers of real and of synthetic rows; scores of other numbers do not compare.
    """

    score: float
    auc: float
    folds: tuple[float, ...]
    classifier: str
    rows: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def detection(
    real: Any,
    synthetic: Any,
    categorical: Iterable[str] | None = None,
    classifier: str = "xgboost",
    seed: int = 0,
    n_jobs: int | None = None,
) -> Detection:
    r"""Classifier two-sample test, three-fold cross-validated on the pooled rows.

    .. math:: 1 - \tfrac13 \textstyle\sum_k \big(2 \max(\tfrac12, \mathrm{AUC}_k) - 1\big)

    As in the protocol: text is encoded one-hot (levels that real rows do not have as none), booleans are 0
    and 1, numbers stay numbers even where they are categories; missing cells are the real mean; columns are
    centred by their median and scaled by their interquartile range. XGBoost has its defaults (100 trees of
    depth 6), logistic regression those of scikit-learn. The protocol leaves the folds to chance; here `seed`
    draws them.

    Warning:
        The score rises as rows get fewer. New draws of the truth score a little under 1: an area is above 1/2
        by chance half the time, with a standard error near 0.41 / sqrt(rows of a fold and class).

    Arguments:
        real, synthetic, categorical: as for `shape`. classifier: "xgboost" or "logistic". seed: of the
            folds. n_jobs: threads of XGBoost, None for all.

    Raises:
        ConfigError: another classifier, or xgboost is not installed. DataError: fewer than three rows of
            either, or as `shape`.

    Reference:
        Lopez-Paz and Oquab, *Revisiting Classifier Two-Sample Tests*, 2017, https://arxiv.org/abs/1610.06545
    """
    coded = code_tables({"real": real, "synthetic": synthetic}, categorical)
    return detection_of(coded, classifier, seed, n_jobs)


def detection_of(
    coded: CodedTables, classifier: str = "xgboost", seed: int = 0, n_jobs: int | None = None
) -> Detection:
    """`detection` of the second table among the first."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    check_choice("classifier", classifier, CLASSIFIERS)
    real, synthetic = _features(coded)
    if min(len(real), len(synthetic)) < FOLDS:
        raise DataError(f"{len(real)} real and {len(synthetic)} synthetic rows: {FOLDS} or more are needed")
    x = np.concatenate([real, synthetic])
    y = np.repeat([1, 0], [len(real), len(synthetic)])
    areas = []
    splits = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y)
    for train, test in track(splits, f"{classifier} tells rows apart", FOLDS):
        model = _classifier(classifier, n_jobs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a hundred steps of lbfgs, converged or not, are the protocol
            model.fit(x[train], y[train])
        areas.append(float(roc_auc_score(y[test], model.predict_proba(x[test])[:, 1])))
    score = 1 - float(np.mean([2 * max(0.5, area) - 1 for area in areas]))
    rows = len(real), len(synthetic)
    return Detection(score, float(np.mean(areas)), tuple(areas), classifier, rows)


def _classifier(name: str, n_jobs: int | None) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler

    if name == "logistic":
        return make_pipeline(RobustScaler(), LogisticRegression())
    trees = xgboost().XGBClassifier(
        eval_metric="logloss", enable_categorical=True, random_state=0, n_jobs=n_jobs
    )
    return make_pipeline(RobustScaler(), trees)


def _features(coded: CodedTables) -> tuple[np.ndarray, np.ndarray]:
    """Numeric columns, categories that are numbers, then text one-hot."""
    numbers = [[rows.numbers[:, i] for rows in coded.tables] for i in range(len(coded.numeric))]
    hot: list[list[np.ndarray]] = []
    for i, values in enumerate(coded.level_numbers):
        codes = [rows.codes[:, i] for rows in coded.tables]
        if values is not None:
            numbers.append([values[each] for each in codes])
        else:
            known = np.unique(codes[0])
            hot.append([(each[:, None] == known).astype(np.float64) for each in codes])
    for column in numbers:
        first = column[0][~np.isnan(column[0])]
        mean = first.mean() if len(first) else 0.0
        column[:] = [np.where(np.isnan(values), mean, values) for values in column]
    real, synthetic = (
        np.concatenate([*(c[k][:, None] for c in numbers), *(h[k] for h in hot)], axis=1) for k in (0, 1)
    )
    return real, synthetic
