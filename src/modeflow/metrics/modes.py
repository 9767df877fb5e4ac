"""Do samples fill every mode and keep off the empty space between? Do states mean something?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from modeflow.errors import ConfigError, DataError

__all__ = [
    "adjusted_rand",
    "bridge_mass",
    "islands_reached",
    "modes_found",
    "normalized_mutual_information",
    "state_usage_entropy",
    "true_bridge_mass",
]

# Rows per block of the distance matrix: bounds memory.
_BLOCK = 65_536


class HasModes(Protocol):
    """A toy whose modes are isotropic Gaussians."""

    @property
    def dim(self) -> int: ...
    @property
    def modes(self) -> np.ndarray | None: ...
    @property
    def scale(self) -> float | None: ...


def bridge_mass(samples: np.ndarray, modes: np.ndarray, scale: float, radius: float = 4.0) -> float:
    """Fraction of samples farther than radius·scale from every mode: mass in phantom bridges.

    Compare it with `true_bridge_mass`: in d dimensions even perfect samples lie about sqrt(d)·scale away
    from their mode, so a radius that is strict for d = 2 (0.03 %) is not for d = 10 (10 %).

    Arguments:
        samples: array (n, d). Rows with NaN or infinite values count as bridge.
        modes: centres (K, d).
        scale: standard deviation of a mode.
        radius: in units of `scale`.

    Raises:
        DataError: no samples or other shapes. ConfigError: scale or radius is not positive.
    """
    far = 0
    for nearest_distance, _ in _nearest(samples, modes, scale, radius):
        # not (d <= r) is also true for NaN
        far += int((~(nearest_distance <= radius * scale)).sum())
    return far / len(samples)


def true_bridge_mass(toy: HasModes, radius: float = 4.0) -> float:
    """Bridge mass of perfect samples of a Gaussian mixture: P(χ_d > radius).

    Exact for isolated modes. Where modes come closer than about 2·radius·scale, a sample far from its own
    mode may be near another's, and this is an upper bound.

    Raises:
        ConfigError: the toy has no Gaussian modes, or radius is not positive.
    """
    from scipy.stats import chi

    if toy.modes is None or toy.scale is None:
        raise ConfigError(f"{toy!r} has no Gaussian modes; use ring, grid, gaussians or pair")
    if not radius > 0:
        raise ConfigError(f"radius={radius} must be positive")
    return float(chi.sf(radius, toy.dim))


def modes_found(
    samples: np.ndarray,
    modes: np.ndarray,
    scale: float,
    min_fraction: float = 0.2,
    radius: float = 4.0,
) -> int:
    """Number of modes that the samples cover.

    A mode counts if at least `min_fraction` of its fair share 1/K of all samples is nearest to it and
    within radius·scale of it.

    Arguments:
        samples: array (n, d).
        modes: centres (K, d), of equal weight.
        scale: standard deviation of a mode.
        min_fraction: in (0, 1].

    Raises:
        DataError: no samples or other shapes. ConfigError: a parameter out of range.
    """
    if not 0 < min_fraction <= 1:
        raise ConfigError(f"min_fraction={min_fraction} must be in (0, 1]")
    counts = np.zeros(len(modes), dtype=np.int64)
    for distance, index in _nearest(samples, modes, scale, radius):
        counts += np.bincount(index[distance <= radius * scale], minlength=len(modes))
    return int((counts >= min_fraction * len(samples) / len(modes)).sum())


class HasIslands(Protocol):
    """A toy whose islands have densities."""

    def sample(self, n: int, seed: int = 0) -> np.ndarray: ...
    def log_joint(self, x: np.ndarray) -> np.ndarray: ...


def islands_reached(toy: HasIslands, samples: np.ndarray, quantile: float = 1e-3) -> dict[str, float]:
    """Mass off the islands, and how many of them samples reach.

    Off the islands lies what has less density, in truth, than all but `quantile` of the truth's own samples.

    Returns:
        ``bridge_mass`` of the samples, ``true_bridge_mass`` (the quantile), ``modes`` and ``modes_found``: an
        island counts where at least a fifth of its share of samples lies.

    Raises:
        DataError: no samples.
    """
    if not len(samples):
        raise DataError("0 samples given; need at least one")
    own = np.logaddexp.reduce(toy.log_joint(toy.sample(_BLOCK, seed=1)), axis=1)
    joint = toy.log_joint(samples)
    on = ~(np.logaddexp.reduce(joint, axis=1) < np.quantile(own, quantile))
    count = joint.shape[1]
    share = np.bincount(joint[on].argmax(1), minlength=count) / len(samples)
    return {
        "bridge_mass": float((~on).mean()),
        "true_bridge_mass": quantile,
        "modes_found": int((share >= 0.2 / count).sum()),
        "modes": count,
    }


def state_usage_entropy(probabilities: np.ndarray) -> float:
    """Entropy in nats of the states' average use, -Σ_k q̄_k log q̄_k with q̄ = mean over rows of q(k | x).

    log K if all K states are used equally, 0 if one state takes everything.

    Arguments:
        probabilities: q(k | x), array (n, K), rows summing to one; or assigned states (n,) of integers.

    Raises:
        DataError: no rows, or rows that are no probabilities.
    """
    q = np.asarray(probabilities)
    if q.ndim == 1 and len(q) and q.dtype.kind in "iu":
        mean = np.unique(q, return_counts=True)[1] / len(q)
    elif q.ndim == 2 and q.size:
        if not ((q >= 0).all() and np.allclose(q.sum(1), 1.0, atol=1e-4)):
            raise DataError("the states' probabilities must be non-negative and sum to one per row")
        mean = q.mean(0, dtype=np.float64)
    else:
        raise DataError(f"states need shape (rows, K) or integers (rows,), got {q.shape} {q.dtype}")
    used = mean[mean > 0]
    return max(0.0, float(-(used * np.log(used)).sum()))


def adjusted_rand(states: np.ndarray, labels: np.ndarray) -> float:
    """Adjusted Rand index of two labellings: 1 the same partition, 0 as by chance.

    Raises:
        DataError: empty, or of different lengths.
    """
    from sklearn.metrics import adjusted_rand_score

    states, labels = _labellings(states, labels)
    return float(adjusted_rand_score(labels, states))


def _labellings(states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    states, labels = np.asarray(states), np.asarray(labels)
    if states.ndim != 1 or states.shape != labels.shape or not len(states):
        raise DataError(f"two labellings need the same shape (rows,), got {states.shape}, {labels.shape}")
    return states, labels


def normalized_mutual_information(states: np.ndarray, labels: np.ndarray) -> float:
    """Mutual information of two labellings over the mean of their entropies: 1 agree, 0 independent.

    Raises:
        DataError: empty, or of different lengths.
    """
    from sklearn.metrics import normalized_mutual_info_score

    states, labels = _labellings(states, labels)
    return float(normalized_mutual_info_score(labels, states))


def _nearest(
    samples: np.ndarray, modes: np.ndarray, scale: float, radius: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (distance to the nearest mode, its index); NaN distance for non-finite rows."""
    samples, modes = np.asarray(samples, dtype=np.float64), np.asarray(modes, dtype=np.float64)
    if samples.ndim != 2 or modes.ndim != 2 or samples.shape[1] != modes.shape[1]:
        raise DataError(f"samples (n, d) and modes (K, d) are needed, got {samples.shape}, {modes.shape}")
    if not len(samples) or not len(modes):
        raise DataError(f"{len(samples)} samples and {len(modes)} modes given; need at least one of each")
    if not (scale > 0 and radius > 0):
        raise ConfigError(f"scale={scale} and radius={radius} must be positive")
    for start in range(0, len(samples), _BLOCK):
        block = samples[start : start + _BLOCK]
        finite = np.isfinite(block).all(1)
        safe = np.where(finite[:, None], block, 0.0)
        squared = np.stack([((safe - m) ** 2).sum(1) for m in modes], axis=1)
        index = squared.argmin(1)
        distance = np.sqrt(squared[np.arange(len(block)), index])
        yield np.where(finite, distance, np.nan), index
