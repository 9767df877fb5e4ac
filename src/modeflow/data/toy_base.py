"""What every toy distribution offers: samples, labels and, where it is known, the exact density."""

from __future__ import annotations

import numpy as np

from modeflow.errors import ConfigError, DataError

__all__ = ["Toy", "require_positive"]

# Rows per block when an entropy is estimated: bounds memory at any dimension.
_BLOCK = 50_000


class Toy:
    """A distribution to learn, of which the truth is known.

    Subclasses implement `sample_with_labels` and, where a closed form exists, `_log_prob`.

    Attributes:
        name: short name, as in ``toy("ring")``.
        dim: number of columns d.
        has_density: whether `log_prob` and `entropy` exist.
        modes: centres (K, d) of isolated isotropic modes, or None where modes are no points.
        scale: standard deviation of every mode, or None.
    """

    name: str = "toy"
    has_density: bool = False

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ConfigError(f"a toy needs at least one dimension, got {dim}")
        self.dim = int(dim)
        self.modes: np.ndarray | None = None
        self.scale: float | None = None

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows with the part each comes from.

        Returns:
            Rows (n, d) and labels (n,): the component's number, or a continuous position along the
            shape where that is what a latent variable should find (the swiss roll's angle).
        """
        raise NotImplementedError

    def sample(self, n: int, seed: int = 0) -> np.ndarray:
        """Draw rows, shape (n, d)."""
        return self.sample_with_labels(n, seed)[0]

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """Exact log-density in nats of rows (n, d), shape (n,).

        Raises:
            ConfigError: the toy has no closed-form density.
            DataError: `x` has another shape.
        """
        if not self.has_density:
            raise ConfigError(f"the toy '{self.name}' has no closed-form density; compare samples")
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise DataError(f"the toy '{self.name}' needs rows (n, {self.dim}), got {x.shape}")
        return self._log_prob(x)

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def entropy(self, n: int = 200_000, seed: int = 0) -> tuple[float, float]:
        """Differential entropy -E log p in nats, with its standard error.

        No model's test log-likelihood can exceed minus this value beyond sampling error. It is the
        mean of the exact -log p over `n` samples, unless a subclass knows a closed form (standard
        error 0).
        """
        if n < 2:
            raise ConfigError(f"n={n} samples give no standard error; use at least 2")
        # One seed sequence, many independent streams: blocks never repeat each other.
        streams = np.random.SeedSequence(seed).spawn(-(-n // _BLOCK))
        blocks, left = [], n
        for stream in streams:
            size = min(_BLOCK, left)
            left -= size
            rows = self.sample(size, int(stream.generate_state(1)[0]))
            blocks.append(-self.log_prob(rows))
        values = np.concatenate(blocks)
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(n))

    def __repr__(self) -> str:
        return f"<toy {self.name}, {self.dim}-d>"


def require_positive(**values: float) -> None:
    """ConfigError naming the first argument that is not a positive finite number."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ConfigError(f"{name}={value} must be a positive number")
