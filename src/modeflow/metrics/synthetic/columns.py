"""Columns and pairs of columns of synthetic tables: Shape, Trend, weighted mutual information."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from modeflow.errors import DataError
from modeflow.metrics.synthetic.coding import CodedTables, Rows, code_tables

__all__ = ["MutualInformation", "Shape", "Trend", "mutual_information", "shape", "trend"]

Pair = tuple[str, str]
#: Bins of a numeric column.
BINS = 10


@dataclass(frozen=True)
class Shape:
    """Agreement of columns.

    Attributes:
        score: mean over columns; 1 where all agree.
        columns: 1 - KS of a numeric, 1 - TV of a categorical column.
    """

    score: float
    columns: dict[str, float]

    def worst(self, n: int = 5) -> list[tuple[str, float]]:
        """The columns that agree least, worst first."""
        return sorted(self.columns.items(), key=lambda item: item[1])[:n]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"score": self.score, "columns": dict(self.columns)}


@dataclass(frozen=True)
class _OfPairs:
    """Agreement of pairs of columns."""

    score: float
    pairs: dict[Pair, float]

    def worst(self, n: int = 5) -> list[tuple[Pair, float]]:
        """The pairs that agree least, worst first."""
        return sorted(self.pairs.items(), key=lambda item: item[1])[:n]

    def _pairs(self) -> list[list[Any]]:
        return [[first, second, value] for (first, second), value in self.pairs.items()]


@dataclass(frozen=True)
class Trend(_OfPairs):
    """Agreement of pairs of columns.

    Attributes:
        score: mean over pairs; 1 where all agree.
        pairs: 1 - |difference of correlations| / 2, or 1 - TV of the contingency tables.
        undefined: pairs without a correlation (a constant column), left out of the mean as in the protocol.
    """

    undefined: tuple[Pair, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a pair is [first, second, value]."""
        return {"score": self.score, "pairs": self._pairs(), "undefined": [list(p) for p in self.undefined]}


@dataclass(frozen=True)
class MutualInformation(_OfPairs):
    """Agreement of normalized mutual informations.

    Attributes:
        score: 1 - weighted mean of |differences|: the field's wNMIS, nmi_l1_weighted_complement.
        pairs: 1 - |difference|.
        unweighted: mean of these (nmi_l1_complement).
    """

    unweighted: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a pair is [first, second, value]."""
        return {"score": self.score, "unweighted": self.unweighted, "pairs": self._pairs()}


# -- columns ------------------------------------------------------------------------------------------


def shape(real: Any, synthetic: Any, categorical: Iterable[str] | None = None) -> Shape:
    r"""Mean over columns of the agreement of their distributions (SDMetrics' "Column Shapes").

    .. math:: 1 - \sup_x |F_r(x) - F_s(x)| \text{ (numeric)}, \qquad
        1 - \tfrac12 \textstyle\sum_l |p_r(l) - p_s(l)| \text{ (categorical)}

    Missing cells are left out of numeric columns, and are a level of categorical ones.

    Arguments:
        real, synthetic: pandas or polars frames or dicts of columns. categorical: columns whose numbers are
            categories; text, booleans and the type "category" are without being named.

    Raises:
        DataError, ConfigError: tables that do not go together, see `code_tables`.
    """
    return shape_of(code_tables({"real": real, "synthetic": synthetic}, categorical))


def shape_of(coded: CodedTables) -> Shape:
    """`shape` of the first table and the second."""
    real, synthetic = coded.tables
    found = {
        name: 1 - _kolmogorov_smirnov(real.numbers[:, i], synthetic.numbers[:, i])
        for i, name in enumerate(coded.numeric)
    }
    for i, name in enumerate(coded.categorical):
        size = len(coded.levels[i])
        p, q = (np.bincount(rows.codes[:, i], minlength=size) / len(rows) for rows in (real, synthetic))
        found[name] = 1 - float(np.abs(p - q).sum()) / 2
    columns = {name: found[name] for name in coded.names}
    return Shape(float(np.mean(list(columns.values()))), columns)


def _kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (np.sort(values[~np.isnan(values)]) for values in (first, second))
    if not len(a) or not len(b):
        return 0.0 if len(a) == len(b) else 1.0
    points = np.concatenate([a, b])
    above = np.searchsorted(a, points, side="right") / len(a)
    return float(np.abs(above - np.searchsorted(b, points, side="right") / len(b)).max())


# -- pairs --------------------------------------------------------------------------------------------


def trend(
    real: Any,
    synthetic: Any,
    categorical: Iterable[str] | None = None,
    max_rows: int = 50_000,
    seed: int = 0,
) -> Trend:
    r"""Mean over pairs of columns of the agreement of their dependence ("Column Pair Trends").

    .. math:: 1 - |\rho_r - \rho_s| / 2 \text{ (both numeric)}, \qquad
        1 - \tfrac12 \textstyle\sum_{l,m} |p_r(l, m) - p_s(l, m)| \text{ (else)}

    Warning:
        As in the protocol, a numeric column meets a categorical one cut in ten bins of equal width whose
        edges are taken separately from each table, the largest value having a bin to itself: a wrong
        synthetic minimum or maximum shifts all bins. Pairs of which a column is constant in one of the
        tables have no correlation and are left out of the mean; `Trend.undefined` names them.

    Arguments:
        real, synthetic, categorical: as for `shape`. max_rows: contingency tables are of a random part of so
            many rows where a table has more, drawn by `seed`.

    Raises:
        DataError: fewer than two columns, or as `shape`.
    """
    coded = code_tables({"real": real, "synthetic": synthetic}, categorical)
    return trend_of(coded, max_rows, seed)


def trend_of(coded: CodedTables, max_rows: int = 50_000, seed: int = 0) -> Trend:
    """`trend` of the first table and the second."""
    _check_pairs(coded)
    real, synthetic = coded.tables
    apart = np.abs(_correlations(real.numbers) - _correlations(synthetic.numbers)) / 2
    rng = np.random.default_rng(seed)
    few = real, synthetic
    if max(len(real), len(synthetic)) > max_rows:
        few = tuple(t.take(rng.permutation(len(t))[:max_rows]) for t in few)  # type: ignore[assignment]
    first, second = (
        {
            **{name: _own_bins(rows.numbers[:, i]) for i, name in enumerate(coded.numeric)},
            **{name: rows.codes[:, i] for i, name in enumerate(coded.categorical)},
        }
        for rows in few
    )
    place = {name: i for i, name in enumerate(coded.numeric)}
    pairs: dict[Pair, float] = {}
    undefined = []
    for a, b in combinations(coded.names, 2):
        if a in place and b in place:
            value = 1 - float(apart[place[a], place[b]])
        else:
            p, q = _joint((first[a], first[b]), (second[a], second[b]))
            value = 1 - float(np.abs(p / p.sum() - q / q.sum()).sum()) / 2
        if np.isnan(value):
            undefined.append((a, b))
        else:
            pairs[a, b] = value
    score = float(np.mean(list(pairs.values()))) if pairs else float("nan")
    return Trend(score, pairs, tuple(undefined))


def _check_pairs(coded: CodedTables) -> None:
    if len(coded.names) < 2:
        raise DataError("pairs of columns are compared; the tables have one column")


def _own_bins(values: np.ndarray) -> np.ndarray:
    """Bins 1 to 10, 11 for the largest value, 12 for missing cells."""
    missing = np.isnan(values)
    if missing.all():
        return np.full(len(values), BINS + 2)
    edges = np.histogram_bin_edges(values[~missing], bins=BINS)
    return np.where(missing, BINS + 2, np.digitize(values, edges))


def _correlations(values: np.ndarray) -> np.ndarray:
    """Pearson's correlations, over the rows in which both cells are there; NaN where one is constant."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    count = known.sum(0)
    # Sums of squares of centred and scaled columns keep their digits.
    filled = np.where(known, filled - filled.sum(0) / np.maximum(count, 1), 0.0)
    scale = np.abs(filled).max(0, initial=0.0)
    filled = filled / np.where(scale > 0, scale, 1.0)
    mask = known.astype(np.float64)
    together = np.maximum(mask.T @ mask, 1)
    sums = filled.T @ mask
    squares = (filled**2).T @ mask / together - (sums / together) ** 2
    products = filled.T @ filled / together - sums / together * (sums.T / together)
    varies = (squares > 1e-14) & (squares.T > 1e-14)
    product = np.where(varies, squares * squares.T, 1.0)
    return np.where(varies, np.clip(products / np.sqrt(product), -1, 1), np.nan)


def _joint(*tables: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """Counts of the pairs of codes of each table, over the same pairs."""
    size = 1 + max(int(second.max()) for _, second in tables)
    keys = [first * size + second for first, second in tables]
    cells = 1 + max(int(key.max()) for key in keys)
    if cells > 4 * sum(map(len, keys)) + 4096:
        # Columns of many levels: most of their pairs never occur.
        together, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        cells = len(together)
        keys = np.split(inverse, np.cumsum([len(key) for key in keys])[:-1])
    return [np.bincount(key, minlength=cells).astype(np.float64) for key in keys]


# -- mutual information -------------------------------------------------------------------------------


def mutual_information(
    real: Any, synthetic: Any, categorical: Iterable[str] | None = None
) -> MutualInformation:
    r"""Agreement of the normalized mutual informations of all pairs of columns, strong ones counting more.

    .. math:: 1 - \frac{\sum w |\mathrm{NMI}_r - \mathrm{NMI}_s|}{\sum w}, \quad
        w = \mathrm{NMI}_r + \mathrm{NMI}_s, \quad \mathrm{NMI} = \frac{2\,I(a; b)}{H(a) + H(b)}

    Numeric columns are cut in ten bins of equal width, open to the left, whose edges are those of the real
    table; what lies outside is one bin more. As in the protocol, a column of at most eleven different values
    (told for each table by itself) keeps them. Where no pair has any information the score is 1.

    Arguments:
        real, synthetic, categorical: as for `shape`.

    Raises:
        DataError: fewer than two columns, or as `shape`.

    Reference:
        TabPC (april-tools/tabpc), 2026: wNMIS, nmi_l1_weighted_complement.
    """
    return mutual_information_of(code_tables({"real": real, "synthetic": synthetic}, categorical))


def mutual_information_of(coded: CodedTables) -> MutualInformation:
    """`mutual_information` of the first table and the second."""
    _check_pairs(coded)
    real, synthetic = coded.tables
    a, b = (np.array(list(_informations(coded, rows, real))) for rows in (real, synthetic))
    apart, weight = np.abs(a - b), a + b
    score = 1 - float((weight * apart).sum() / weight.sum()) if weight.sum() > 0 else 1.0
    pairs = dict(zip(combinations(coded.names, 2), (1 - apart).tolist(), strict=True))
    return MutualInformation(score, pairs, float(1 - apart.mean()))


def _informations(coded: CodedTables, rows: Rows, real: Rows) -> Iterator[float]:
    """Normalized mutual information of every pair of columns."""
    codes = {name: rows.codes[:, i] for i, name in enumerate(coded.categorical)}
    for i, name in enumerate(coded.numeric):
        codes[name] = _common_bins(rows.numbers[:, i], real.numbers[:, i])
    entropy = {name: _entropy(np.bincount(values)) for name, values in codes.items()}
    for a, b in combinations(coded.names, 2):
        whole = entropy[a] + entropy[b]
        shared = whole - _entropy(_joint((codes[a], codes[b]))[0])
        yield max(0.0, 2 * shared / whole) if whole > 0 else 0.0


def _entropy(counts: np.ndarray) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def _common_bins(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Bins of the real column; 0 is outside, the last are missing cells."""
    missing, known = np.isnan(values), real[~np.isnan(real)]
    distinct, inverse = np.unique(values[~missing], return_inverse=True)
    codes = np.full(len(values), max(BINS, len(distinct)) + 1)
    if len(distinct) > BINS + 1 and len(known):
        edges = np.histogram_bin_edges(known, bins=BINS)
        places = np.searchsorted(edges, values[~missing], side="left")
        places[values[~missing] == edges[0]] = 1
        codes[~missing] = np.where(places > BINS, 0, places)
    else:
        codes[~missing] = inverse
    return codes
