r"""Covariances of parts with few rows, drawn towards what the parts have in common.

.. math:: \Sigma_k = \frac{n_k S_k + \nu P}{n_k + \nu}, \qquad P = \sum_k n_k S_k \big/ \sum_k n_k

How much alike the parts are, ν, is that of the highest leave-one-out likelihood: of every row under its own
part, whose mean and covariance are those without it. Forty islands of eight rows each have some 200 numbers
in their covariances, learned from 320 rows; where the islands are alike they have five.

Reference:
    Friedman, *Regularized Discriminant Analysis*, JASA, 1989
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["drawn_together"]

#: Weights of what the parts have in common that are tried, in rows for each of D + 1.
_WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)


def drawn_together(
    x: np.ndarray, labels: np.ndarray, covariances: np.ndarray, full: bool = True
) -> np.ndarray:
    """Covariances of the parts ``(K, D, D)``, each drawn towards the common one where rows left out are
    likelier then; else as they are.

    Arguments:
        x: rows ``(N, D)``. labels: the part of each. covariances: those to be kept or changed.
        full: with correlations; else diagonal.
    """
    d, counts = x.shape[1], np.bincount(labels, minlength=len(covariances))
    several = np.flatnonzero(counts >= 2)
    if len(several) < 2:
        return covariances
    parts = [x[labels == k] for k in several]
    residuals = [rows - rows.mean(0) for rows in parts]
    scatters = [_shaped(r.T @ r, full) for r in residuals]
    common = np.sum(scatters, 0) / sum(map(len, parts)) + 1e-6 * np.eye(d)

    def left_out(weight: float | None) -> float:
        total = 0.0
        for k, r, scatter in zip(several, residuals, scatters, strict=True):
            n = len(r)
            # Without common parts: as much as it takes for the covariance that there is.
            prior = d if weight is None else weight
            added = (n + d) * covariances[k] - scatter if weight is None else weight * common
            total += _left_out(r, scatter + added, n - 1 + prior, full)
        return total

    weights = [w * (d + 1) for w in _WEIGHTS]
    values = [left_out(None), *(left_out(w) for w in weights)]
    best = int(np.argmax(values))
    if best == 0:
        return covariances
    weight, found = weights[best - 1], covariances.copy()
    found[counts == 1] = common
    for k, r, scatter in zip(several, residuals, scatters, strict=True):
        found[k] = (scatter + weight * common) / (len(r) + weight)
    return found


def _shaped(matrix: np.ndarray, full: bool) -> np.ndarray:
    return matrix if full else np.diag(np.diag(matrix))


def _left_out(r: np.ndarray, a: np.ndarray, divisor: float, full: bool) -> float:
    """Log-likelihood of the rows of a part, each under the mean and covariance of the others.

    Arguments:
        r: residuals ``(n, D)``. a: what the covariance of all n is of, times so many rows as make
            `divisor` without one.
    """
    n, d = r.shape
    c = n / (n - 1)
    if full:
        q = np.einsum("nd,nd->n", r, np.linalg.solve(a, r.T).T)
        rest = np.maximum(1 - c * q, 1e-12)
        logdet = np.linalg.slogdet(a)[1] + np.log(rest)
        distance = c**2 * divisor * q / rest
    else:
        rest = np.maximum(np.diag(a) - c * r**2, 1e-12)
        logdet = np.log(rest).sum(1)
        distance = (c**2 * divisor * r**2 / rest).sum(1)
    return float(-0.5 * (logdet - d * math.log(divisor) + distance).sum())
