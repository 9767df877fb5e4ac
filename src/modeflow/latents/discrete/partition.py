"""K parts of the rows to start K states on: islands of any shape, Gaussians where one needs several.

States that lie on different islands never compete for a row here, so that EM, which knows ellipses alone,
cannot tear a ring or a crescent apart; within an island it finds the components that fit it best.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from modeflow.latents.discrete.alike import drawn_together
from modeflow.latents.discrete.islands import LIKELY, Relief, merge_islands

__all__ = ["Partition", "Survey", "partition"]

#: Multiplications (rows · components · D²) of a step of EM; fewer rows are taken where it would be more.
_EM_COST = 3e7
#: Fresh starts of EM beside the one from the parts, where a step costs less than a tenth of that.
_FRESH_STARTS = 3
#: Share of the rows that EM leaves on their islands where the islands are Gaussian.
_KEPT = 0.97


@dataclass(frozen=True)
class Partition:
    """Parts of the rows and the Gaussian mixture on them.

    Attributes:
        shares: probability of each part for each row, ``(N, K)``; zero outside the row's island.
        weights, means, covariances: of the Gaussians, ``(K,)``, ``(K, D)``, ``(K, D, D)``.
    """

    shares: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """The likeliest part of each row, ``(N,)``."""
        return self.shares.argmax(1)


@dataclass(frozen=True)
class Survey:
    """Rows, standardised, ``(N, D)``, the peaks of their density, and which rows of a table they are."""

    rows: np.ndarray
    relief: Relief
    index: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def partition(survey: Survey, n_states: int, full: bool = True, seed: int = 0) -> Partition:
    """Cut the rows into `n_states` parts.

    Islands come first: the most prominent where there are more than states, whole where there are as many.
    Where there are fewer, the part whose cut in two gains the most likelihood (of Gaussians) is cut next,
    and the parts of one island are then refined together by EM.

    Arguments:
        survey: the rows.
        n_states: K.
        full: Gaussians with correlations; else without.
        seed: of k-means.
    """
    x = survey.rows
    if n_states == 1:
        return _on(x, np.zeros(len(x), dtype=np.int64), 1, full)
    distinct = len(np.unique(x, axis=0))
    if distinct <= n_states:
        return _on(x, _k_means(x, distinct, seed), n_states, full)
    islands = survey.relief.cut(LIKELY)
    if islands.count > n_states:
        islands = merge_islands(x, islands, n_states)
    labels = _cut_further(x, islands.labels, n_states, full, seed)
    start = _on(x, labels, n_states, full)
    every = np.arange(n_states)
    whole = _refine(x, start, every, full, seed)
    if whole is None or (islands.count > 1 and not _keeps(whole, islands.labels, labels)):
        # No mixture of Gaussians would have found these islands: each is refined for itself.
        whole = start
        for island in range(islands.count):
            parts = np.unique(labels[islands.labels == island])
            refined = _refine(x, whole, parts, full, seed) if len(parts) > 1 else None
            whole = refined or whole
    return replace(whole, covariances=drawn_together(x, whole.labels, whole.covariances, full))


def _keeps(refined: Partition, island: np.ndarray, labels: np.ndarray) -> bool:
    """Whether nearly all rows stay on their island when EM refines the parts of all islands together."""
    island_of_part = np.zeros(refined.shares.shape[1], dtype=np.int64)
    island_of_part[labels] = island
    return bool((island_of_part[refined.shares.argmax(1)] == island).mean() > _KEPT)


def _cut_further(x: np.ndarray, labels: np.ndarray, n_states: int, full: bool, seed: int) -> np.ndarray:
    """Cut parts in two, the most gainful first, until there are `n_states`."""
    labels = labels.copy()
    halves: dict[int, tuple[float, np.ndarray]] = {}
    for new in range(int(labels.max()) + 1, n_states):
        for part in range(new):
            if part not in halves:
                halves[part] = _halves(x[labels == part], full, seed)
        part = max(halves, key=lambda p: halves[p][0])
        rows = np.flatnonzero(labels == part)
        labels[rows[halves.pop(part)[1]]] = new
    return labels


def _halves(x: np.ndarray, full: bool, seed: int) -> tuple[float, np.ndarray]:
    """How much likelihood (nats) two Gaussians gain over one, and which rows the second gets."""
    n, d = x.shape
    if n < 2 or (x == x[0]).all():
        return -math.inf, np.zeros(n, dtype=bool)
    label = _k_means(x, 2, seed)
    if min(np.bincount(label, minlength=2)) >= 2 * (d if full else 1) + 2:
        mixture = _em(x, _moments(x, label, 2, full), full, seed)
        label = np.asarray(mixture.predict(x))
    counts = np.bincount(label, minlength=2)
    if counts.min() == 0:
        label = _k_means(x, 2, seed)
        counts = np.bincount(label, minlength=2)
    second = label == 1
    parts = _entropy(x[~second], full) + _entropy(x[second], full)
    mixing = float(-(counts * np.log(counts / n)).sum())
    return _entropy(x, full) - parts - mixing, second


def _entropy(x: np.ndarray, full: bool) -> float:
    """Rows times half the log-determinant of their (shrunk) covariance."""
    covariance = _covariance(x, full)
    return 0.5 * len(x) * float(np.linalg.slogdet(covariance)[1])


def _covariance(x: np.ndarray, full: bool) -> np.ndarray:
    """Shrunk towards a diagonal by the weight of D rows, so that it is positive definite."""
    n, d = x.shape
    variance = np.maximum(x.var(0), 1e-4)
    sample = np.cov(x.T, bias=True).reshape(d, d) if full and n > 1 else np.diag(variance)
    return np.asarray((n * sample + d * np.diag(variance)) / (n + d) + 1e-6 * np.eye(d))


def _k_means(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    return np.asarray(KMeans(count, n_init=3, random_state=seed).fit(x).labels_, dtype=np.int64)


Moments = tuple[np.ndarray, np.ndarray, np.ndarray]


def _moments(x: np.ndarray, labels: np.ndarray, count: int, full: bool) -> Moments:
    """Weights, means and covariances of the parts."""
    d = x.shape[1]
    sizes = np.bincount(labels, minlength=count)
    means, covariances = np.zeros((count, d)), np.tile(np.eye(d), (count, 1, 1))
    for k in range(count):
        rows = x[labels == k]
        if len(rows):
            means[k], covariances[k] = rows.mean(0), _covariance(rows, full)
    return sizes / sizes.sum(), means, covariances


def _em(x: np.ndarray, start: Moments | int, full: bool, seed: int, fresh: int = 1) -> Any:
    """scikit-learn's EM from these moments, or from so many components found by k-means."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    options: dict[str, Any] = {"random_state": seed, "n_init": fresh}
    count = start if isinstance(start, int) else len(start[0])
    if not isinstance(start, int):
        weights, means, covariances = start
        precisions = np.linalg.inv(covariances) if full else 1 / np.diagonal(covariances, axis1=1, axis2=2)
        options |= {
            "weights_init": weights / weights.sum(),
            "means_init": means,
            "precisions_init": precisions,
        }
    kind = "full" if full else "diag"
    mixture = GaussianMixture(count, covariance_type=kind, reg_covar=1e-5, max_iter=60, **options)
    most = max(int(_EM_COST / (count * x.shape[1] ** (2 if full else 1))), 50 * count)
    part = x if len(x) <= most else x[np.random.default_rng(seed).choice(len(x), most, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(part)


def _on(x: np.ndarray, labels: np.ndarray, n_states: int, full: bool) -> Partition:
    """The partition by these labels."""
    shares = np.zeros((len(x), n_states))
    shares[np.arange(len(x)), labels] = 1.0
    return Partition(shares, *_moments(x, labels, n_states, full))


def _refine(x: np.ndarray, start: Partition, parts: np.ndarray, full: bool, seed: int) -> Partition | None:
    """EM over these parts and their rows alone, the best of some starts; None where rows are too few."""
    d = x.shape[1]
    inside = start.shares[:, parts].sum(1) > 0.5
    counts = start.shares[:, parts].sum(0)
    if counts.min() < (d + 2 if full else 4):
        return None
    rows = x[inside]
    mixture = _em(rows, (start.weights[parts], start.means[parts], start.covariances[parts]), full, seed)
    if len(rows) * len(parts) * d * d < 0.1 * _EM_COST:
        other = _em(rows, len(parts), full, seed, _FRESH_STARTS)
        mixture = max((mixture, other), key=lambda m: m.lower_bound_)
    weights, means = start.weights.copy(), start.means.copy()
    covariances, shares = start.covariances.copy(), start.shares.copy()
    weights[parts] = mixture.weights_ * inside.mean()
    means[parts] = mixture.means_
    covariances[parts] = mixture.covariances_ if full else [np.diag(v) for v in mixture.covariances_]
    shares[np.ix_(inside, parts)] = mixture.predict_proba(rows)
    return Partition(shares, weights, means, covariances)
