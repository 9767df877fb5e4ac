"""Curved islands in many dimensions whose density is known, and two-dimensional shapes with labels.

A part is a point, curve or sheet in q dimensions, blurred in all d by Gaussian noise of deviation s:

    p(x) = Σ_k w_k q_k(y) Π_{j>q} N(z_j; 0, s²),   (y, z) = R_k (x − m_k),

with a random rotation R_k and a place m_k. Parts of one place share both, and lie in one another's bends.
The density q_k of a curve is its integral along the curve, by panels of Gauss-Legendre nodes as long as s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, logsumexp

from common import data_file
from modeflow.data.manifest import SHAPES2D
from modeflow.errors import DataError

Rows = np.ndarray

#: Deviation of the noise, and how far apart places are.
NOISE, APART = 0.05, 6.0
_NODES = 8  # of Gauss-Legendre, in every panel


@dataclass(frozen=True)
class Part:
    """An island in its first `coordinates` dimensions.

    Attributes:
        draw: points without noise, from a generator and their number; ``(n, coordinates)``.
        log_density: of such points with noise, ``(n, coordinates)`` and its deviation.
    """

    coordinates: int
    draw: Callable[[np.random.Generator, int], Rows]
    log_density: Callable[[Rows, float], Rows]


def _normal(y: Rows, variance: float) -> Rows:
    """log N(y; 0, variance I) of rows."""
    return np.asarray(-0.5 * ((y**2).sum(1) / variance + y.shape[1] * math.log(2 * math.pi * variance)))


def _even(y: Rows, length: float, noise: float) -> Rows:
    """Logarithm of an even density on [0, length] with noise, without loss far away."""
    # By symmetry about the middle, so that both distribution functions are of negative arguments.
    near = length / 2 - np.abs(y - length / 2)
    high, low = log_ndtr(near / noise), log_ndtr((near - length) / noise)
    return np.asarray(high + np.log1p(-np.exp(low - high)) - math.log(length))


def ball(dimensions: int, deviation: float) -> Part:
    """A Gaussian in as many dimensions; of none, a point."""

    def draw(rng: np.random.Generator, n: int) -> Rows:
        return deviation * rng.normal(size=(n, dimensions))

    return Part(dimensions, draw, lambda y, noise: _normal(y, deviation**2 + noise**2))


def curve(
    along: Callable[[Rows], Rows], start: float, end: float, shift: tuple[float, float] = (0.0, 0.0)
) -> Part:
    """A plane curve, its parameter even on [start, end]."""

    def points(t: Rows) -> Rows:
        return np.asarray(along(t) + np.array(shift))

    def draw(rng: np.random.Generator, n: int) -> Rows:
        return points(rng.uniform(start, end, n))

    def log_density(y: Rows, noise: float) -> Rows:
        fine = points(np.linspace(start, end, 2001))
        length = float(np.linalg.norm(np.diff(fine, axis=0), axis=1).sum())
        panels = 2 * math.ceil(length / noise)  # of unequal lengths where the parameter is not the length
        node, weight = np.polynomial.legendre.leggauss(_NODES)
        edges = np.linspace(start, end, panels + 1)
        t = (edges[:-1, None] + (node + 1) / 2 * (edges[1] - edges[0])).ravel()
        nodes, log_weights = points(t), np.log(np.tile(weight / 2, panels) / panels)
        parts = []
        for rows in np.array_split(y, max(1, len(y) // 256)):
            squares = (rows**2).sum(1)[:, None] - 2 * rows @ nodes.T + (nodes**2).sum(1)
            parts.append(logsumexp(log_weights - squares / (2 * noise**2), axis=1))
        return np.concatenate(parts) - math.log(2 * math.pi * noise**2)

    return Part(2, draw, log_density)


def ring(radius: float) -> Part:
    """A circle."""
    return curve(lambda t: radius * np.c_[np.cos(t), np.sin(t)], 0.0, 2 * math.pi)


def moon(turn: int) -> Part:
    """One of the two half circles of scikit-learn's moons."""
    if turn:
        return curve(lambda t: np.c_[1 - np.cos(t), 0.5 - np.sin(t)], 0.0, math.pi)
    return curve(lambda t: np.c_[np.cos(t), np.sin(t)], 0.0, math.pi)


def high(flat: Part, height: float) -> Part:
    """A part with one dimension more, even along it."""

    def draw(rng: np.random.Generator, n: int) -> Rows:
        return np.c_[flat.draw(rng, n), rng.uniform(0, height, n)]

    def log_density(y: Rows, noise: float) -> Rows:
        return np.asarray(flat.log_density(y[:, :-1], noise) + _even(y[:, -1], height, noise))

    return Part(flat.coordinates + 1, draw, log_density)


def roll(arm: int, height: float = 2.0) -> Part:
    """One of two swiss rolls that lie in one another: an arm of a spiral, with a height."""

    def along(t: Rows) -> Rows:
        turn = t + arm * math.pi
        return np.asarray(0.25 * t[:, None] * np.c_[np.cos(turn), np.sin(turn)])

    return high(curve(along, math.pi, 3 * math.pi), height)


def sheet(side: float) -> Part:
    """A square."""
    point = Part(0, lambda rng, n: np.zeros((n, 0)), lambda y, noise: np.zeros(len(y)))
    return high(high(point, side), side)


#: Places, each with the parts that share it. The ball fills all dimensions: its radius grows with them.
PLACES: dict[str, Callable[[int], Sequence[Sequence[Part]]]] = {
    "rings": lambda d: 2 * [[ring(1.0), ring(2.0)]],
    "moons": lambda d: 2 * [[moon(0), moon(1)]],
    "swiss rolls": lambda d: 2 * [[roll(0), roll(1)]],
    "dimensions 0 to d": lambda d: [[ball(0, 0.0), ring(1.5)], [roll(0)], [sheet(2.0)], [ball(d, 0.4)]],
}


class CurvedIslands:
    """Islands of equal weight in `dim` dimensions, turned and placed by `seed`.

    Args:
        name: of `PLACES`. dim: dimensions of rows, at least those of the largest part and as many as places.
        noise: deviation of the noise in every dimension.
        turned: whether parts are turned, or lie along the axes.
    """

    def __init__(self, name: str, dim: int, seed: int, noise: float = NOISE, turned: bool = True) -> None:
        rng = np.random.default_rng([seed, dim])
        places = PLACES[name](dim)
        self.dim, self.noise = dim, noise
        axes = _rotation(rng, dim)  # places are at right angles, √2 APART from one another
        self.parts: list[tuple[Part, Rows, Rows]] = []
        for k, together in enumerate(places):
            turn = _rotation(rng, dim) if turned else np.eye(dim)
            self.parts += [(part, turn, APART * axes[k]) for part in together]

    @property
    def count(self) -> int:
        """Islands."""
        return len(self.parts)

    def sample(self, n: int, seed: int) -> tuple[Rows, Rows]:
        """Rows ``(n, dim)`` and their islands."""
        rng = np.random.default_rng([seed, 1])
        which = rng.integers(0, self.count, n)
        x = self.noise * rng.normal(size=(n, self.dim))
        for k, (part, turn, place) in enumerate(self.parts):
            mine = which == k
            x[mine, : part.coordinates] += part.draw(rng, int(mine.sum()))
            x[mine] = x[mine] @ turn + place
        return x, which

    def log_prob(self, x: Rows) -> Rows:
        """Log-density of rows, nats."""
        found = []
        for part, turn, place in self.parts:
            y, q = (x - place) @ turn.T, part.coordinates
            found.append(part.log_density(y[:, :q], self.noise) + _normal(y[:, q:], self.noise**2))
        return np.asarray(logsumexp(found, axis=0) - math.log(self.count))


def _rotation(rng: np.random.Generator, dim: int) -> Rows:
    """A random orthogonal matrix."""
    q, r = np.linalg.qr(rng.normal(size=(dim, dim)))
    return np.asarray(q * np.sign(np.diag(r)))


# -- two-dimensional shapes ---------------------------------------------------------------------------

#: Noise added to the shapes, in deviations of a column: some are curves without width, some are rounded.
JITTER = 0.005
#: The label of rows that belong nowhere.
NOWHERE = -1


@dataclass(frozen=True)
class Shape:
    """A split of a labelled set.

    Attributes:
        given, test: rows.
        labels: islands of the test rows, `NOWHERE` for noise; None where none are published.
        count: islands; None likewise.
    """

    given: Rows
    test: Rows
    labels: Rows | None
    count: int | None


def shape(name: str, given: int, test: int, seed: int = 0) -> Shape:
    """A set of ``shapes2d``: at most two thirds of its rows, and at most so many, are given.

    Points lie in ``shapes2d/shapes2d.npz`` of a data folder; their labels, as the ``.arff`` files of
    deric/clustering-benchmark have them in the same order, in ``shapes2d/labels.npz``, an array of strings
    for each set that has some.

    Raises:
        DataError: a file is not there.
    """
    x = _array("shapes2d.npz", name)
    labels = _array("labels.npz", name)
    if x is None:
        raise DataError(f"no set '{name}' in shapes2d/shapes2d.npz; it must hold {', '.join(SHAPES2D)}")
    rng = np.random.default_rng(seed)
    x = x.astype(float)
    x += JITTER * x.std(0) * rng.normal(size=x.shape)
    order = rng.permutation(len(x))
    n = min(given, 2 * len(x) // 3)
    first, others = order[:n], order[n : n + test]
    if labels is None:
        return Shape(x[first], x[others], None, None)
    names = sorted(set(labels.tolist()) - {"noise"})
    number = {each: k for k, each in enumerate(names)} | {"noise": NOWHERE}
    coded = np.array([number[each] for each in labels.tolist()])
    return Shape(x[first], x[others], coded[others], len(names))


def _array(file: str, name: str) -> Rows | None:
    """An array of a file of ``shapes2d``; None where the file lacks it."""
    hint = ", or take points and labels from deric/clustering-benchmark"
    with np.load(data_file(f"shapes2d/{file}", hint)) as arrays:
        return np.asarray(arrays[name]) if name in arrays.files else None
