"""A density as a classifier, beside classifiers: accuracy, log-loss and calibration on real tables.

`NVFClassifier` fits one joint density of rows and labels; gradient boosting and logistic regression of
scikit-learn are fitted to the labels alone, with their defaults. The question is what a joint density costs
where only the label is asked for, not who wins. Some training rows of the published split (magic, adult) and
some of its test rows, the same for all; nothing is chosen by test rows. One thread.

Run: python benchmarks/classify.py [--tables magic adult] [--methods ...] [--seeds 0]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from common import earlier_runs, write
from mixed_tables import MixedTable, load
from modeflow.estimators import NVF, NVFClassifier

NAMES = ("magic", "adult")
#: Rows at most, drawn from the published parts; epochs and states of the density.
SETTINGS: dict[str, Any] = {
    "train_rows": 5000,
    "test_rows": 5000,
    "calibration_bins": 15,
    "max_epochs": 60,
    "states": 32,
}


def density(likelihood: str) -> Callable[[list[str], int], Any]:
    """`NVFClassifier` by what stands over the tree: "leaves" or "flow"."""

    def make(categorical: list[str], seed: int) -> NVFClassifier:
        return NVFClassifier(
            NVF(
                latent_options={"states": SETTINGS["states"], "likelihood": likelihood},
                columns=dict.fromkeys(categorical, "categorical"),
                max_epochs=SETTINGS["max_epochs"],
                random_state=seed,
                device="cpu",
            )
        )

    return make


def boosting(categorical: list[str], seed: int) -> Any:
    """Gradient boosting of histograms, told which columns are categories."""
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    encode = make_column_transformer((codes, categorical), remainder="passthrough")
    places = list(range(len(categorical)))
    model = HistGradientBoostingClassifier(categorical_features=places or None, random_state=seed)
    return make_pipeline(encode, model)


def logistic(categorical: list[str], seed: int) -> Any:
    """Logistic regression of standardised numbers and one-hot categories."""
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), categorical), remainder=StandardScaler()
    )
    return make_pipeline(encode, LogisticRegression(max_iter=1000))


METHODS: dict[str, Callable[[list[str], int], Any]] = {
    "NVFClassifier, leaves": density("leaves"),
    "NVFClassifier, flow": density("flow"),
    "gradient boosting": boosting,
    "logistic regression": logistic,
}


def calibration_error(proba: np.ndarray, right: np.ndarray, bins: int) -> float:
    r"""Expected calibration error, of the class that is predicted, in bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    acc is the share of right predictions of the rows in a bin of confidence, conf their mean confidence.

    Arguments:
        proba: p(y | x), ``(N, C)``. right: whether the likeliest class is the row's, ``(N,)``.
        bins: of confidences in (0, 1].
    """
    confidence = proba.max(1)
    of_bin = np.ceil(confidence * bins).clip(1, bins).astype(int) - 1
    excess = np.bincount(of_bin, right.astype(float) - confidence, bins)
    return float(np.abs(excess).sum() / len(proba))


def rows_of(table: MixedTable, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Some rows of the published parts, by the seed."""
    rng = np.random.default_rng(seed)
    parts = (table.train, SETTINGS["train_rows"]), (table.test, SETTINGS["test_rows"])
    train, test = (part[np.sort(rng.permutation(part.height)[:count])] for part, count in parts)
    return train, test


def measure(name: str, method: str, seed: int) -> dict[str, Any]:
    """One fit, and how right and how sure it is on test rows."""
    table = load(name)
    train, test = (part.to_pandas() for part in rows_of(table, seed))
    target = table.target
    categorical = [column for column in table.categorical if column != target]
    model = METHODS[method](categorical, seed)
    began = time.process_time()
    model.fit(train.drop(columns=target), train[target])
    fitted = time.process_time()
    proba = model.predict_proba(test.drop(columns=target))
    scored = time.process_time()
    truth = np.searchsorted(model.classes_, test[target].to_numpy())
    right = proba.argmax(1) == truth
    loss = -np.log(np.maximum(proba[np.arange(len(truth)), truth], np.finfo(float).tiny))
    majority = np.bincount(truth).argmax()
    return {
        "table": name,
        "method": method,
        "seed": seed,
        "rows": [len(train), len(test)],
        "majority": float((truth == majority).mean()),
        "accuracy": float(right.mean()),
        "accuracy_error": float(right.std(ddof=1) / np.sqrt(len(right))),
        "log_loss": float(loss.mean()),
        "log_loss_error": float(loss.std(ddof=1) / np.sqrt(len(loss))),
        "calibration_error": calibration_error(proba, right, SETTINGS["calibration_bins"]),
        "seconds_fit": fitted - began,
        "seconds_score": scored - fitted,
        **({"training": model.density_.training_} if isinstance(model, NVFClassifier) else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = earlier_runs("classify", settings=SETTINGS)
    done = {(r["table"], r["method"], r["seed"]) for r in runs}
    for name in given.tables:
        for method in given.methods:
            for seed in given.seeds:
                if (name, method, seed) in done:
                    continue
                runs.append(measure(name, method, seed))
                write("classify", {"settings": SETTINGS, "runs": runs})
                print(
                    {k: round(v, 4) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True
                )


if __name__ == "__main__":
    main()
