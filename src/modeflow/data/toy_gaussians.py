"""Gaussian mixtures with isolated modes: the density, the modes and the entropy are all known."""

from __future__ import annotations

import numpy as np

from modeflow.data.toy_base import Toy, require_positive
from modeflow.errors import ConfigError

__all__ = ["GaussianModes", "gaussian_grid", "gaussian_pair", "gaussian_ring", "gaussians"]


class GaussianModes(Toy):
    """Equal mixture of K isotropic Gaussians: p(x) = (1/K) Σ_k N(x; m_k, s² I).

    Arguments:
        name: short name.
        centres: means m_k, shape (K, d).
        sigma: standard deviation s of every component.
    """

    has_density = True

    def __init__(self, name: str, centres: np.ndarray, sigma: float) -> None:
        centres = np.asarray(centres, dtype=np.float64)
        require_positive(sigma=sigma)
        super().__init__(centres.shape[1])
        self.name = name
        self.modes: np.ndarray = centres
        self.scale: float = float(sigma)

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, len(self.modes), size=n)
        return self.modes[labels] + self.scale * rng.standard_normal((n, self.dim)), labels

    def component_log_prob(self, x: np.ndarray) -> np.ndarray:
        """log N(x; m_k, s² I), shape (n, K)."""
        x = np.asarray(x, dtype=np.float64)
        # |x - m|² by expansion loses digits far from the origin; K is small, so subtract.
        squared = np.stack([((x - m) ** 2).sum(1) for m in self.modes], axis=1)
        log_norm = self.dim * np.log(self.scale * np.sqrt(2 * np.pi))
        return -0.5 * squared / self.scale**2 - log_norm

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import logsumexp

        return np.asarray(logsumexp(self.component_log_prob(x), axis=1)) - np.log(len(self.modes))

    def posterior(self, x: np.ndarray) -> np.ndarray:
        """True p(component | x), shape (n, K)."""
        from scipy.special import softmax

        return np.asarray(softmax(self.component_log_prob(x), axis=1))


def gaussian_ring(k: int = 8, d: int = 2, radius: float = 1.0, sigma: float = 0.1) -> GaussianModes:
    """K Gaussians evenly on a circle.

    For d > 2 the circle lies in the plane of the first two columns; every column has noise of
    standard deviation `sigma`, so the other columns are pure noise.
    """
    _check_count(k, d, least_d=2)
    require_positive(radius=radius)
    angle = 2 * np.pi * np.arange(k) / k
    centres = np.zeros((k, d))
    centres[:, 0], centres[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    return GaussianModes("ring", centres, sigma)


def gaussian_grid(k: int = 25, d: int = 2, separation: float = 2.0, sigma: float = 0.2) -> GaussianModes:
    """K Gaussians on a cubic grid centred at the origin, neighbours `separation` apart.

    Raises:
        ConfigError: k is not a d-th power.
    """
    _check_count(k, d)
    require_positive(separation=separation)
    side = round(k ** (1 / d))
    if side**d != k:
        raise ConfigError(f"a grid in {d} dimensions needs a {d}-th power, got k={k}; try {side**d}")
    axis = separation * (np.arange(side) - (side - 1) / 2)
    centres = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), axis=-1).reshape(k, d)
    return GaussianModes("grid", centres, sigma)


def gaussians(
    k: int = 8, d: int = 10, separation: float = 10.0, sigma: float = 1.0, seed: int = 0
) -> GaussianModes:
    """K Gaussians at random centres in d dimensions.

    The centres are a draw from N(0, I), scaled so that the closest two are exactly
    ``separation * sigma`` apart: modes stay isolated whatever k, d and seed are.
    """
    _check_count(k, d)
    require_positive(separation=separation, sigma=sigma)
    centres = np.random.default_rng(seed).standard_normal((k, d))
    if k > 1:
        gaps = [np.linalg.norm(centres[i + 1 :] - centres[i], axis=1).min() for i in range(k - 1)]
        centres *= separation * sigma / min(gaps)
    return GaussianModes("gaussians", centres, sigma)


def gaussian_pair(mu: float = 2.0, sigma: float = 0.5, d: int = 1) -> GaussianModes:
    """½ N(-μ, σ²) + ½ N(μ, σ²) in the first column, noise of the same σ in any others.

    The one-dimensional case is the classical example: the monotone map from N(0, 1) to it has the
    slope σ exp(μ² / 2σ²) at 0, so a flow without a latent variable must be that steep.
    """
    _check_count(2, d)
    require_positive(mu=mu)
    centres = np.zeros((2, d))
    centres[:, 0] = (-mu, mu)
    return GaussianModes("pair", centres, sigma)


def _check_count(k: int, d: int, least_d: int = 1) -> None:
    if k < 1:
        raise ConfigError(f"k={k} must be at least 1")
    if d < least_d:
        raise ConfigError(f"d={d} must be at least {least_d}")
