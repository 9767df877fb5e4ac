"""Islands that are no ellipses: a mixture of shapes in the plane with an exact density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modeflow.data.toy_base import Toy, require_positive

__all__ = ["Shapes"]

Draw = Callable[[np.random.Generator, int], np.ndarray]
LogProb = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Part:
    """One island around the origin."""

    draw: Draw
    log_prob: LogProb
    place: tuple[float, float]


def _normal(value: np.ndarray, scale: float) -> np.ndarray:
    return -0.5 * (value / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))


def _arc(
    radius: float, width: float, middle: float, spread: float | None, place: tuple[float, float]
) -> _Part:
    r"""A bent band: radius ``R exp(width ε)``, angle N(middle, spread²) wrapped, or uniform (a ring).

    .. math:: p(x) = \frac{N(\log(r/R); 0, w^2)}{r} \cdot \frac{p(\theta)}{r}
    """

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi, n) if spread is None else middle + spread * rng.normal(size=n)
        r = radius * np.exp(width * rng.normal(size=n))
        return r[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    def log_prob(x: np.ndarray) -> np.ndarray:
        r = np.maximum(np.linalg.norm(x, axis=1), 1e-300)
        if spread is None:
            angular = np.full(len(x), -np.log(2 * np.pi))
        else:
            away = np.arctan2(x[:, 1], x[:, 0]) - middle
            turns = away[:, None] + 2 * np.pi * np.arange(-3, 4)
            angular = np.logaddexp.reduce(_normal(turns, spread), axis=1)
        return _normal(np.log(r / radius), width) - 2 * np.log(r) + angular

    return _Part(draw, log_prob, place)


def _wave(length: float, height: float, width: float, place: tuple[float, float]) -> _Part:
    """``x ~ N(0, length²)``, ``y = height sin(2x) + N(0, width²)``; without height an upright ellipse."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        x = length * rng.normal(size=n)
        return np.stack([x, height * np.sin(2 * x) + width * rng.normal(size=n)], 1)

    def log_prob(x: np.ndarray) -> np.ndarray:
        return _normal(x[:, 0], length) + _normal(x[:, 1] - height * np.sin(2 * x[:, 0]), width)

    return _Part(draw, log_prob, place)


class Shapes(Toy):
    """Six islands of equal weight: a ring around a blob, two interlocked crescents, a wave and a needle.

    Each is an exact density in closed form, so that likelihood, states and what lies between the islands can
    be judged. Labels are the islands.

    Arguments:
        width: thickness of the bands, as a share of their radius.
    """

    name = "shapes"
    has_density = True

    def __init__(self, width: float = 0.06) -> None:
        require_positive(width=width)
        super().__init__(2)
        self.width = float(width)
        self.parts = (
            _arc(2.1, width, 0.0, None, (-3.2, 2.2)),
            _wave(0.3, 0.0, 0.3, (-3.2, 2.2)),
            _arc(1.6, width, np.pi / 2, 0.6, (2.0, 1.8)),
            _arc(1.6, width, -np.pi / 2, 0.6, (3.6, 2.6)),
            _wave(1.3, 0.7, 0.1, (-2.4, -2.8)),
            _wave(0.08, 0.0, 1.0, (3.6, -3.4)),
        )

    def sample_with_labels(self, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, len(self.parts), size=n)
        rows = np.zeros((n, 2))
        for k, part in enumerate(self.parts):
            mine = labels == k
            rows[mine] = part.draw(rng, int(mine.sum())) + part.place
        return rows, labels

    def log_joint(self, x: np.ndarray) -> np.ndarray:
        """``log p(x, island = k)``, shape ``(n, 6)``."""
        columns = [part.log_prob(x - part.place) for part in self.parts]
        return np.stack(columns, 1) - np.log(len(self.parts))

    def _log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.logaddexp.reduce(self.log_joint(x), axis=1))
