"""Covariances of parts with few rows: leave-one-out likelihoods, and what they are used for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from modeflow.latents.discrete.alike import _left_out, drawn_together


@pytest.mark.parametrize("full", [True, False])
def test_the_likelihood_without_a_row_is_that_of_the_others(full: bool) -> None:
    """Against a loop that leaves each row out."""
    x = np.random.default_rng(0).normal(size=(9, 3)) @ np.array([[1, 0.5, 0], [0, 1, -0.3], [0, 0, 2.0]])
    common, weight = np.diag([1.0, 2.0, 3.0]) + 0.2 * full, 1.7
    expected = 0.0
    for i in range(len(x)):
        rest = np.delete(x, i, 0)
        r = rest - rest.mean(0)
        scatter = r.T @ r if full else np.diag((r**2).sum(0))
        common_ = common if full else np.diag(np.diag(common))
        covariance = (scatter + weight * common_) / (len(rest) + weight)
        expected += multivariate_normal(rest.mean(0), covariance).logpdf(x[i]) + 1.5 * np.log(2 * np.pi)
    r = x - x.mean(0)
    scatter = r.T @ r if full else np.diag((r**2).sum(0))
    a = scatter + weight * (common if full else np.diag(np.diag(common)))
    assert _left_out(r, a, len(x) - 1 + weight, full) == pytest.approx(expected, rel=1e-10)


def _own(x: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.cov(x[labels == k].T, bias=True) + 0.05 * np.eye(2) for k in range(count)])


def _kl(covariances: np.ndarray, truth: np.ndarray) -> float:
    """Mean divergence of these Gaussians from the true ones, nats."""
    parts = [
        0.5 * (np.trace(np.linalg.solve(c, t)) - 2 + np.linalg.slogdet(c)[1] - np.linalg.slogdet(t)[1])
        for c, t in zip(covariances, truth, strict=True)
    ]
    return float(np.mean(parts))


def test_small_islands_that_are_alike_share_a_shape() -> None:
    rng = np.random.default_rng(1)
    truth = np.tile([[1.0, 0.7], [0.7, 1.0]], (30, 1, 1))
    labels = np.repeat(np.arange(30), 6)
    x = rng.multivariate_normal(np.zeros(2), truth[0], size=len(labels)) + 20.0 * labels[:, None]
    own = _own(x, labels, 30)
    found = drawn_together(x, labels, own)
    assert _kl(found, truth) < 0.3 * _kl(own, truth)
    assert (np.linalg.eigvalsh(found) > 0).all()


def test_large_islands_of_their_own_shape_keep_it() -> None:
    rng = np.random.default_rng(2)
    truth = np.array([np.diag([1.0, 1e-3]), np.diag([1e-3, 1.0]), np.eye(2)])
    labels = np.repeat(np.arange(3), 200)
    scale = np.sqrt(truth[labels][:, [0, 1], [0, 1]])
    x = rng.normal(size=(600, 2)) * scale + 20.0 * labels[:, None]
    own = np.stack([np.cov(x[labels == k].T, bias=True) for k in range(3)])
    assert np.allclose(drawn_together(x, labels, own), own, atol=0.02)


def test_a_part_of_one_row_takes_the_common_shape() -> None:
    x = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [9.0, 9.0], [9.1, 9.0], [9.0, 9.2], [-9.0, 9.0]])
    labels = np.array([0, 0, 0, 1, 1, 1, 2])
    found = drawn_together(x, labels, np.tile(np.eye(2), (4, 1, 1)))
    assert np.isfinite(found).all() and (np.linalg.eigvalsh(found) > 0).all()
    common = np.mean([found[0], found[1]], 0)
    assert np.allclose(found[2], common, atol=0.01) and (found[3] == np.eye(2)).all()


def test_one_part_is_left_alone() -> None:
    x = np.random.default_rng(3).normal(size=(20, 2))
    own = np.eye(2)[None]
    assert drawn_together(x, np.zeros(20, dtype=int), own) is own
