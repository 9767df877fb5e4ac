"""Which rows are odd: detectors on the classical sets of ADBench, in two protocols, by AUROC and AUPR.

*Contaminated*, as in ADBench (Han et al., 2022): 70 % of the rows are for training, odd ones among them,
and 30 % are ranked, both with the same share of odd rows; nobody sees a label. *One class*: the same,
without the odd ones of the training part. At most 10,000 rows of a set are drawn, as there, with the same
share of odd ones; sets of fewer than 1,000 rows are not filled up by repeating rows, which ADBench does
(copies of training rows are then ranked as test rows). Columns that are constant in the training part are
dropped for all. The rivals see columns scaled to [0, 1] by the training part, as there, and have PyOD's
defaults; the Gaussian mixture is scikit-learn's with 1, 2, 4 or 8 full covariances, by BIC. Ours is
`NVFOutlier` as it comes, and with a density of the columns as they are, which it had before.

The default was chosen on half of the sets (`DEVELOPMENT`), named before, by one seed; it was run on the
others once.

Run: python benchmarks/anomalies.py [--sets wine] [--methods ...] [--seeds 0 1 2]    (needs pip install pyod)
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler

from common import data_file, earlier_runs, write
from modeflow import NVF, NVFOutlier
from modeflow.data.manifest import ANOMALY

PROTOCOLS = ("contaminated", "one class")
#: Our density of the columns, rows at most, the share that is ranked, and rows from which one seed does.
SETTINGS: dict[str, Any] = {
    "rows": 10_000,
    "test": 0.3,
    "one_seed_from": 10_000,
    "states": 8,
    "max_epochs": 20,
    "calibration": 0.2,
}
#: Sets by their number in ADBench.
SETS = sorted(ANOMALY, key=lambda name: int(ANOMALY[name][0].split("_")[0]))
#: Half of them, on which our default was chosen: every third, as of old, and every fourth of the others.
DEVELOPMENT = SETS[::3] + [name for i, name in enumerate(SETS) if i % 3][3::4]

Detector = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def pyod(module: str, name: str, **options: Any) -> Detector:
    """A detector of PyOD with its defaults, on columns in [0, 1]."""

    def detect(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        kind = getattr(__import__(f"pyod.models.{module}", fromlist=[name]), name)
        scale = MinMaxScaler().fit(train)
        given = {"random_state": seed} if options.get("seeded") else {}
        return np.asarray(kind(**given).fit(scale.transform(train)).decision_function(scale.transform(test)))

    return detect


def mixture(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Minus the log-density of a mixture of Gaussians, whose number of components is chosen by BIC."""
    scale = MinMaxScaler().fit(train)
    train, test = scale.transform(train), scale.transform(test)
    found = [GaussianMixture(k, random_state=seed).fit(train) for k in (1, 2, 4, 8) if 5 * k < len(train)]
    return np.asarray(-min(found, key=lambda g: g.bic(train)).score_samples(test))


def by_default(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Ours as it comes: numbers with noise, along their principal axes."""
    found = NVFOutlier(calibration=SETTINGS["calibration"], random_state=seed)
    return np.asarray(-found.fit(train).score_samples(test))


def by_columns(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Minus the log-density of a tree of states of the columns."""
    density = NVF(
        latent="tree",
        latent_options={"likelihood": "leaves", "states": SETTINGS["states"]},
        max_epochs=SETTINGS["max_epochs"],
        device="cpu",
    )
    found = NVFOutlier(density, calibration=SETTINGS["calibration"], random_state=seed)
    return np.asarray(-found.fit(train).score_samples(test))


METHODS: dict[str, Detector] = {
    "NVFOutlier": by_default,
    "NVFOutlier, columns": by_columns,
    "kNN": pyod("knn", "KNN"),
    "LOF": pyod("lof", "LOF"),
    "IForest": pyod("iforest", "IForest", seeded=True),
    "ECOD": pyod("ecod", "ECOD"),
    "Gaussian mixture": mixture,
}


def rows_of(name: str, seed: int, protocol: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, rows to be ranked, and which of these are odd."""
    with np.load(data_file(f"anomaly/{ANOMALY[name][0]}.npz")) as content:
        X, y = content["X"].astype(float), content["y"].astype(int)
    if len(X) > SETTINGS["rows"]:
        X, _, y, _ = train_test_split(X, y, train_size=SETTINGS["rows"], stratify=y, random_state=seed)
    train, test, known, truth = train_test_split(
        X, y, test_size=SETTINGS["test"], stratify=y, random_state=seed
    )
    if protocol == "one class":
        train = train[known == 0]
    varied = train.min(0) < train.max(0)
    return train[:, varied], test[:, varied], truth


def measure(name: str, protocol: str, method: str, seed: int) -> dict[str, Any]:
    """One detector on one split."""
    train, test, truth = rows_of(name, seed, protocol)
    began = time.process_time()
    limit = np.finfo(float).max / 4
    score = np.clip(np.nan_to_num(METHODS[method](train, test, seed), nan=limit), -limit, limit)
    return {
        "set": name,
        "protocol": protocol,
        "method": method,
        "seed": seed,
        "rows": [len(train), len(test)],
        "columns": train.shape[1],
        "odd": int(truth.sum()),
        "auroc": float(roc_auc_score(truth, score)),
        "aupr": float(average_precision_score(truth, score)),
        "seconds": time.process_time() - began,
    }


def summaries(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every protocol, over the sets that all methods have: means over sets of means over seeds, and ranks.

    Returns:
        a row for each protocol, part of the sets (all, those of development, the others) and method.
    """
    found = []
    for protocol in PROTOCOLS:
        mean: dict[str, dict[str, dict[str, float]]] = {}
        for name in SETS:
            of_set = {
                method: [
                    r for r in runs if (r["set"], r["protocol"], r["method"]) == (name, protocol, method)
                ]
                for method in METHODS
            }
            seeds = set.intersection(*({r["seed"] for r in rows} for rows in of_set.values()))
            if seeds:
                mean[name] = {
                    method: {
                        key: float(np.mean([r[key] for r in rows if r["seed"] in seeds]))
                        for key in ("auroc", "aupr", "seconds")
                    }
                    for method, rows in of_set.items()
                }
        parts = {
            "all": list(mean),
            "development": [n for n in mean if n in DEVELOPMENT],
            "others": [n for n in mean if n not in DEVELOPMENT],
        }
        for part, names in parts.items():
            if not names:
                continue
            table = {
                key: np.array([[mean[n][m][key] for m in METHODS] for n in names])
                for key in ("auroc", "aupr", "seconds")
            }
            ranks = {key: rankdata(-np.round(table[key], 4), axis=1) for key in ("auroc", "aupr")}
            found += [
                {
                    "protocol": protocol,
                    "part": part,
                    "sets": len(names),
                    "method": method,
                    "auroc": float(table["auroc"][:, i].mean()),
                    "aupr": float(table["aupr"][:, i].mean()),
                    "rank_auroc": float(ranks["auroc"][:, i].mean()),
                    "rank_aupr": float(ranks["aupr"][:, i].mean()),
                    "rank_error": float(ranks["auroc"][:, i].std(ddof=1) / np.sqrt(len(names)))
                    if len(names) > 1
                    else None,
                    "seconds": float(table["seconds"][:, i].mean()),
                }
                for i, method in enumerate(METHODS)
            ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    runs = earlier_runs("anomalies", settings=SETTINGS)
    done = {(r["set"], r["protocol"], r["method"], r["seed"]) for r in runs}
    for seed in given.seeds:
        for name in sorted(given.sets, key=lambda n: ANOMALY[n][1] * ANOMALY[n][2]):
            if seed and ANOMALY[name][1] >= SETTINGS["one_seed_from"]:
                continue
            for protocol in PROTOCOLS:
                for method in given.methods:
                    if (name, protocol, method, seed) in done:
                        continue
                    runs.append(measure(name, protocol, method, seed))
                    content = {"settings": SETTINGS, "table": summaries(runs), "runs": runs}
                    write("anomalies", content)
                    shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in runs[-1].items()}
                    print(shown, flush=True)


if __name__ == "__main__":
    main()
