r"""Islands of the data: dense regions of any shape with emptier space between them.

The rows are nodes of a graph that joins each to its k nearest. With r(x) the distance to the k-th neighbour
and m the intrinsic dimension of the data, :math:`\log \hat f(x) = -m \log r(x)` up to a constant. Rows enter
in order of falling density; where two connected parts meet, the sparser has the *prominence* :math:`\log
\hat f(\text{its peak}) - \log \hat f(\text{the meeting row})`. One dense region has ripples, of prominence
:math:`O(1/\sqrt{k})`: the estimate of a log-density from k neighbours has about that standard error. What
stands out by much more is an island, whatever its shape.

Reference:
    Chazal, Guibas, Oudot, Skraba, *Persistence-Based Clustering in Riemannian Manifolds*, J. ACM, 2013;
    Levina, Bickel, *Maximum Likelihood Estimation of Intrinsic Dimension*, 2004
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Islands", "Relief", "find_islands", "merge_islands", "numbered", "survey"]

#: Islands stand out by so many standard errors of a log-density at the least (ripples do not), and the
#: density between them is lower than theirs by so many nats (a twentieth; a fifth).
CLEAR, LIKELY = (8.0, math.log(20)), (5.5, math.log(5))
#: Neighbours at the least and at the most.
_NEIGHBOURS = (8, 20)
#: A distance to a neighbour counts as this share of the median at the least: rows may be repeated.
_FLOOR = 0.01
#: The prominence at the one place where two parts are nearest counts up to this often where no path joins
#: them: along the whole of their border there is none (of a line the border is a point, and it counts once).
_NO_PATH = 2.0


@dataclass(frozen=True)
class Islands:
    """Islands of some rows.

    Attributes:
        labels: island of each row, ``(N,)``; numbered by falling size.
        count: how many.
    """

    labels: np.ndarray
    count: int


@dataclass(frozen=True)
class Relief:
    """The peaks of the estimated density: what `survey` finds, to be cut at any level.

    Attributes:
        basin: number of the peak that each row belongs to, ``(N,)``; peaks are numbered by falling density.
        parent: the higher peak that each peak meets first (the first: itself).
        prominence: of each peak, nats; infinite for the first.
        size: rows around it until it meets the other.
        neighbours: k; an island has as many rows at the least, and a log-density a standard error of 1/√k.
    """

    basin: np.ndarray
    parent: np.ndarray
    prominence: np.ndarray
    size: np.ndarray
    neighbours: int

    @classmethod
    def of(cls, islands: Islands, neighbours: int) -> Relief:
        """Islands that are known, as peaks that stand out at any level."""
        size = np.bincount(islands.labels, minlength=islands.count)
        count = np.arange(islands.count)
        return cls(
            islands.labels, 0 * count, np.full(len(count), math.inf), size, min(neighbours, size.min())
        )

    def take(self, rows: np.ndarray) -> Relief:
        """The same peaks, for some of the rows."""
        return replace(self, basin=self.basin[rows])

    def cut(self, level: tuple[float, float] = CLEAR, most: int | None = None) -> Islands:
        """The islands that stand out by this much, at most so many (the most prominent)."""
        errors, nats = level
        threshold = max(errors / math.sqrt(max(self.neighbours, 1)), nats)
        stands = (self.prominence > threshold) & (self.size >= self.neighbours)
        stands[0] = True
        if most is not None and stands.sum() > most:
            order = np.argsort(-self.prominence, kind="stable")
            stands[order[stands[order]][most:]] = False
        island = np.arange(len(self.parent))
        for peak in range(1, len(island)):  # a parent has a smaller number
            if not stands[peak]:
                island[peak] = island[self.parent[peak]]
        return numbered(island[self.basin])  # of those that have rows


def survey(x: np.ndarray) -> Relief:
    """The peaks of the density of the (standardised) rows ``(N, D)`` and how they are joined.

    Costs O(N log N) in few dimensions, O(N²) in many: give a part of the rows where there are many.
    """
    n = len(x)
    k = min(int(np.clip(round(0.8 * n ** (1 / 3)), *_NEIGHBOURS)), n - 1)
    if k >= _NEIGHBOURS[0]:
        distance, neighbour = _neighbours(x, k)
        middle = float(np.median(distance[:, -1]))
        if middle > 0:
            return _relief(x, distance, neighbour, _FLOOR * middle)
    # Too few rows, or most are copies of others: no peaks to speak of.
    one = np.zeros(1, dtype=np.int64)
    return Relief(np.zeros(n, dtype=np.int64), one, np.full(1, math.inf), one + n, k)


def find_islands(x: np.ndarray, level: tuple[float, float] = CLEAR) -> Islands:
    """The islands of the (standardised) rows ``(N, D)``; one where nothing stands out."""
    return survey(x).cut(level)


def _neighbours(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k).fit(x).kneighbors()


def _relief(x: np.ndarray, distance: np.ndarray, neighbour: np.ndarray, floor: float) -> Relief:
    """Rows enter by rising distance to their k-th neighbour; parts that meet are joined, and recorded."""
    n, k = distance.shape
    reach = np.log(np.maximum(distance[:, -1], floor))
    # The mean log-ratio of distances is one over the dimension around a row (Levina and Bickel).
    inverse = (reach[:, None] - np.log(np.maximum(distance[:, :-1], floor))).sum(1) / (k - 1)
    adjacent: list[list[int]] = neighbour.tolist()
    back: list[list[int]] = [[] for _ in range(n)]
    for i, row in enumerate(adjacent):
        for j in row:
            back[j].append(i)
    order = np.argsort(reach, kind="stable").tolist()
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    ranks, low, flat = rank.tolist(), reach.tolist(), inverse.tolist()
    root_of, size, basin = list(range(n)), [1] * n, list(range(n))
    peaks: list[int] = []
    met: dict[int, tuple[float, int, int]] = {}

    def root(i: int) -> int:
        while root_of[i] != i:
            root_of[i] = root_of[root_of[i]]
            i = root_of[i]
        return i

    def join(other: int, first: int, level: float, path: bool = True) -> None:
        dimension = size[other] / max(flat[other], 1e-12)
        factor = 1.0 if path else min(max(1.5 * dimension - 0.5, 1.0), _NO_PATH)
        met[other] = (factor * dimension * (level - low[other]), first, size[other])
        root_of[other] = first
        size[first] += size[other]
        flat[first] += flat[other]

    for i in order:
        here = ranks[i]
        before = [j for j in (*adjacent[i], *back[i]) if ranks[j] < here]
        if not before:
            peaks.append(i)
            continue
        basin[i] = basin[min(before, key=ranks.__getitem__)]
        first, *others = sorted({root(j) for j in before}, key=ranks.__getitem__)  # a root is its part's peak
        root_of[i] = first
        size[first] += 1
        flat[first] += flat[i]
        for other in others:
            join(other, first, low[i])
    parts = [peak for peak in peaks if root(peak) == peak]
    if len(parts) > 1:  # the graph has no path between them: they meet half-way
        labels = np.array([ranks[root(i)] for i in range(n)])
        for half_way, one, two in _gaps(x, labels, k):
            first, other = sorted((root(order[one]), root(order[two])), key=ranks.__getitem__)
            if first != other:
                join(other, first, math.log(max(half_way, floor)), path=False)
    number = {peak: place for place, peak in enumerate(peaks)}
    ends = [met.get(peak, (math.inf, peak, size[peak])) for peak in peaks]
    return Relief(
        np.array([number[i] for i in basin]),
        np.array([number[parent] for _, parent, _ in ends]),
        np.array([prominence for prominence, _, _ in ends]),
        np.array([count for _, _, count in ends]),
        k,
    )


def _gaps(x: np.ndarray, labels: np.ndarray, k: int) -> list[tuple[float, int, int]]:
    """Where parts without a path are nearest to each other (Borůvka's steps of single linkage).

    Returns:
        for each such place the distance from half-way to its k-th row, and the two parts; the shortest first.
    """
    from sklearn.neighbors import NearestNeighbors

    found: list[tuple[float, int, int]] = []
    every = NearestNeighbors(n_neighbors=k).fit(x)
    merged = labels.copy()
    while len(parts := np.unique(merged)) > 1:
        step = []
        for part in parts:
            inside = np.flatnonzero(merged == part)
            outside = np.flatnonzero(merged != part)
            distance, nearest = NearestNeighbors(n_neighbors=1).fit(x[outside]).kneighbors(x[inside])
            best = int(distance.argmin())
            here, there = int(inside[best]), int(outside[nearest[best, 0]])
            half_way = every.kneighbors((x[here] + x[there])[None] / 2)[0][0, -1]
            step.append((float(half_way), here, there))
        for _, here, there in step:
            one, two = merged[here], merged[there]
            merged[merged == max(one, two)] = min(one, two)
        found += [(half_way, int(labels[here]), int(labels[there])) for half_way, here, there in step]
    return sorted(found)


def numbered(labels: np.ndarray) -> Islands:
    """Islands by their labels ``(N,)``, any numbers, told by falling size."""
    _, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    place = np.empty(len(counts), dtype=np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return Islands(place[labels], len(counts))


def merge_islands(x: np.ndarray, islands: Islands, count: int) -> Islands:
    """Merge the islands of the rows ``(N, D)`` until there are `count`: the small and near ones first.

    The cost of merging one into another is its number of rows times its distance to the other (between the
    nearest rows).
    """
    from scipy.spatial import cKDTree

    labels = islands.labels.copy()
    while labels.max() + 1 > count:
        k = int(labels.max()) + 1
        size = np.bincount(labels)
        trees = [cKDTree(x[labels == i]) for i in range(k)]
        best = (math.inf, 0, 0)
        for i in range(k):
            for j in range(k):
                if size[i] <= size[j] and i != j:
                    gap = float(trees[j].query(x[labels == i])[0].min())
                    best = min(best, (size[i] * gap, i, j))
        labels[labels == best[1]] = best[2]
        labels = numbered(labels).labels
    return Islands(labels, int(labels.max()) + 1)
