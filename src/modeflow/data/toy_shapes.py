"""Two-dimensional shapes: rings and checkerboard with exact densities, the others as samples
only."""

from __future__ import annotations

import numpy as np

from modeflow.data.toy_base import Toy, require_positive
from modeflow.errors import ConfigError

__all__ = ["Checkerboard", "Moons", "Pinwheel", "Rings", "Spirals", "SwissRoll"]


class Rings(Toy):
    """Concentric circles with Gaussian noise.

    The angle is uniform, the circle one of `k` with radii ``radius * (1..k) / k``, the noise N(0,
    s² I).
    Integrating the angle out gives a Bessel function:

        p(x) = (1/k) Σ_i exp(-(r² + R_i²) / 2s²) I_0(r R_i / s²) / (2π s²),      r = |x|.

    It is computed as exp(-(r - R_i)² / 2s²) with the exponentially scaled I_0, which cannot
    overflow.
    """

    name = "rings"
    has_density = True

    def __init__(self, k: int = 2, radius: float = 3.0, sigma: float = 0.1) -> None:
        if k < 1:
            raise ConfigError(f"k={k} must be at least 1")
        require_positive(radius=radius, sigma=sigma)
        super().__init__(2)
        self.radii = radius * np.arange(1, k + 1) / k
        self.sigma = float(sigma)

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, len(self.radii), size=n)
        angle = rng.uniform(0, 2 * np.pi, size=n)
        circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        noise = self.sigma * rng.standard_normal((n, 2))
        return self.radii[labels, None] * circle + noise, labels

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import ive, logsumexp

        r = np.linalg.norm(x, axis=1)[:, None]
        variance = self.sigma**2
        terms = -0.5 * (r - self.radii) ** 2 / variance + np.log(ive(0, r * self.radii / variance))
        log_norm = np.log(2 * np.pi * variance * len(self.radii))
        return np.asarray(logsumexp(terms, axis=1)) - log_norm


class Checkerboard(Toy):
    """Uniform density on the dark squares of a board of `cells` × `cells` squares, centred at 0.

    The entropy is the logarithm of the dark area. Outside the dark squares log p is -inf.
    """

    name = "checkerboard"
    has_density = True

    def __init__(self, cells: int = 4, side: float = 2.0) -> None:
        if cells < 2:
            raise ConfigError(f"cells={cells} must be at least 2")
        require_positive(side=side)
        super().__init__(2)
        self.cells = int(cells)
        self.side = float(side)
        board = np.indices((self.cells, self.cells)).reshape(2, -1).T
        self._dark = board[board.sum(1) % 2 == 0]

    @property
    def log_area(self) -> float:
        """Logarithm of the area that holds all mass."""
        return float(np.log(len(self._dark) * self.side**2))

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, len(self._dark), size=n)
        cell = self._dark[labels] + rng.uniform(size=(n, 2))
        return (cell - self.cells / 2) * self.side, labels

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        cell = np.floor(x / self.side + self.cells / 2)
        inside = ((cell >= 0) & (cell < self.cells)).all(1) & (cell.sum(1) % 2 == 0)
        return np.where(inside, -self.log_area, -np.inf)

    def entropy(self, n: int = 200_000, seed: int = 0) -> tuple[float, float]:
        return self.log_area, 0.0


class Moons(Toy):
    """Two interleaved half circles, as the NVF code draws them: sklearn's make_moons minus (.5,
    .25).

    The angles are evenly spaced, not random, so there is no density to compare with. The published
    experiment uses noise 0.01 and 1024 rows with seeds 2022 (training), 2021 (validation), 2023
    (test).
    """

    name = "moons"

    def __init__(self, noise: float = 0.01) -> None:
        if noise < 0:
            raise ConfigError(f"noise={noise} must not be negative")
        super().__init__(2)
        self.noise = float(noise)

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_moons

        rows, labels = make_moons(n, noise=self.noise, random_state=seed)
        return rows - np.array([0.5, 0.25]), labels


class Spirals(Toy):
    """Two spiral arms, each the other's mirror image through the origin.

    With t = sqrt(U)·3π: ((-cos t)·t + U/2, (sin t)·t + U/2)/3 + N(0, noise²), and its negative.
    """

    name = "spirals"

    def __init__(self, noise: float = 0.1) -> None:
        if noise < 0:
            raise ConfigError(f"noise={noise} must not be negative")
        super().__init__(2)
        self.noise = float(noise)

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        t = np.sqrt(rng.uniform(size=n)) * 3 * np.pi
        arm = np.stack([-np.cos(t) * t, np.sin(t) * t], axis=1)
        arm = (arm + 0.5 * rng.uniform(size=(n, 2))) / 3
        labels = rng.integers(0, 2, size=n)
        sign = np.where(labels == 0, 1.0, -1.0)[:, None]
        return sign * arm + self.noise * rng.standard_normal((n, 2)), labels


class Pinwheel(Toy):
    """`k` arms bent into a pinwheel: a Gaussian blob per arm, turned by rate·exp(radial
    coordinate)."""

    name = "pinwheel"

    def __init__(self, k: int = 5, radial: float = 0.3, tangential: float = 0.1, rate: float = 0.25) -> None:
        if k < 1:
            raise ConfigError(f"k={k} must be at least 1")
        require_positive(radial=radial, tangential=tangential)
        super().__init__(2)
        self.k, self.radial, self.tangential, self.rate = k, radial, tangential, rate

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, self.k, size=n)
        blob = rng.standard_normal((n, 2)) * (self.radial, self.tangential) + (1.0, 0.0)
        angle = 2 * np.pi * labels / self.k + self.rate * np.exp(blob[:, 0])
        cos, sin = np.cos(angle), np.sin(angle)
        x = cos * blob[:, 0] - sin * blob[:, 1]
        y = sin * blob[:, 0] + cos * blob[:, 1]
        return 2 * np.stack([x, y], axis=1), labels


class SwissRoll(Toy):
    """Columns x and z of sklearn's make_swiss_roll, divided by 5.

    The label is the roll's angle t: a continuous latent variable should follow it.
    """

    name = "swiss-roll"

    def __init__(self, noise: float = 1.0) -> None:
        if noise < 0:
            raise ConfigError(f"noise={noise} must not be negative")
        super().__init__(2)
        self.noise = float(noise)

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import make_swiss_roll

        rows, angle = make_swiss_roll(n, noise=self.noise, random_state=seed)
        return rows[:, [0, 2]] / 5, angle
