"""Nearest rows, in blocks: α-precision and β-recall, and distances to training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.errors import DataError
from modeflow.metrics.synthetic.coding import CodedTables, Rows, code_tables
from modeflow.progress import track

__all__ = [
    "NearCopies",
    "NearestRow",
    "PrecisionRecall",
    "TrainShare",
    "near_copies",
    "nearest_rows",
    "precision_recall",
    "train_share",
]

#: Distances that are held at once.
_HELD = 2**20
_ROUNDING = 1e-9
#: Columns of more levels are compared cell by cell; of others a matrix product counts the agreements.
_FEW_LEVELS = 64
#: Levels of all columns together that are encoded one-hot.
_MOST_LEVELS = 4096


def _blocks(rows: int, columns: int, what: str) -> Iterator[slice]:
    size = max(1, _HELD // columns)
    return track([slice(start, min(start + size, rows)) for start in range(0, rows, size)], what)


# -- alpha-precision, beta-recall ---------------------------------------------------------------------


@dataclass(frozen=True)
class PrecisionRecall:
    """How far synthetic rows lie within the real ones, and cover them.

    Attributes:
        alpha_precision, beta_recall: 1 where the curves are the diagonal.
        precision_curve, recall_curve: at 30 levels from 0 to 1.
    """

    alpha_precision: float
    beta_recall: float
    precision_curve: tuple[float, ...]
    recall_curve: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def precision_recall(
    real: Any, synthetic: Any, categorical: Iterable[str] | None = None, levels: int = 30
) -> PrecisionRecall:
    r"""α-precision and β-recall, in the variant without an embedding ("naive" in synthcity).

    At each level α the precision is the share of synthetic rows within the radius, about the mean of the real
    rows, that holds a share α of these; the recall is the share of real rows whose nearest synthetic row is
    at most as far as their nearest other real row, and within the radius, about the mean of the synthetic
    rows, that holds a share α of those nearest rows. Both scores are
    :math:`1 - \sum_\alpha |\alpha - c(\alpha)| / \sum_\alpha \alpha`, at least 0.

    Distances are Euclidean after one-hot encoding and scaling of each column by the real minimum and maximum.

    Warning:
        As in the protocol, the last encoded column is left out (synthcity takes it for a target): of the last
        categorical column, its last level. The recall of new draws of the truth is about 1/2, that of copies
        1; it depends on the numbers of rows: compare equal ones.

    Arguments:
        real, synthetic, categorical: as for `shape`. Missing numbers are the real mean, with a column that
            marks them; levels that real rows do not have are encoded as none. levels: number of α.

    Raises:
        DataError: a single real row, thousands of levels, or as `shape`.

    Reference:
        Alaa et al., *How Faithful is your Synthetic Data?*, 2022, https://arxiv.org/abs/2102.08921
    """
    return precision_recall_of(code_tables({"real": real, "synthetic": synthetic}, categorical), levels)


def precision_recall_of(coded: CodedTables, levels: int = 30) -> PrecisionRecall:
    """`precision_recall` of the first table and the second."""
    real, synthetic = _encoded(coded)
    if len(real) < 2:
        raise DataError("one real row has no nearest other; give two or more")
    alphas = np.linspace(0, 1, levels)
    centre = real.mean(0)
    radii = np.quantile(_norms(real - centre), alphas)
    precision = (_norms(synthetic - centre)[:, None] <= radii).mean(0)

    to_real, _ = _nearest(real, real, others=True)
    to_synthetic, which = _nearest(real, synthetic)
    outer = _norms(synthetic - synthetic.mean(0))[which]
    covered = to_synthetic <= to_real
    recall = (covered[:, None] & (outer[:, None] <= np.quantile(outer, alphas))).mean(0)

    def score(curve: np.ndarray) -> float:
        return max(0.0, float(1 - np.abs(alphas - curve).sum() / alphas.sum()))

    curves = tuple(precision.tolist()), tuple(recall.tolist())
    return PrecisionRecall(score(precision), score(recall), *curves)


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.sqrt((rows**2).sum(1))


def _encoded(coded: CodedTables) -> tuple[np.ndarray, np.ndarray]:
    """Both tables one-hot and scaled to [0, 1] by the first, without the last column."""
    real, synthetic = coded.tables
    kept = [np.unique(real.codes[:, i]) for i in range(len(coded.categorical))]
    if sum(map(len, kept)) > _MOST_LEVELS:
        most = max(zip(map(len, kept), coded.categorical, strict=True))
        raise DataError(
            f"{sum(map(len, kept))} levels are too many to encode ('{most[1]}' has {most[0]}); leave out"
            " columns that are like names"
        )
    least, spread, mean = _ranges(real.numbers)
    holes = np.isnan(real.numbers).any(0) | np.isnan(synthetic.numbers).any(0)
    parts = []
    for rows in (real, synthetic):
        missing = np.isnan(rows.numbers)
        numbers = (np.where(missing, mean, rows.numbers) - least) / spread
        hot = [rows.codes[:, i, None] == levels for i, levels in enumerate(kept)]
        # A table of one numeric column keeps it.
        whole = np.concatenate([missing[:, holes], numbers, *hot], axis=1).astype(np.float64)
        parts.append(whole[:, :-1] if whole.shape[1] > 1 else whole)
    return parts[0], parts[1]


def _ranges(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimum, range (1 of constant columns) and mean of every column, missing cells left out."""
    known = ~np.isnan(numbers)
    least = np.where(known, numbers, np.inf).min(0, initial=np.inf)
    most = np.where(known, numbers, -np.inf).max(0, initial=-np.inf)
    empty = ~known.any(0)
    least, most = np.where(empty, 0.0, least), np.where(empty, 0.0, most)
    mean = np.where(known, numbers, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return least, np.where(most > least, most - least, 1.0), mean


def _nearest(queries: np.ndarray, points: np.ndarray, others: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance to the nearest of the points, and which; `others`: but that of the same index."""
    # About their mean the squares are small, so that the product below loses few digits.
    centre = points.mean(0)
    a, b = (torch.from_numpy(np.ascontiguousarray(rows - centre)) for rows in (queries, points))
    squares = b.square().sum(1)
    # Written in place: results kept between the blocks' large arrays would hold these in memory.
    index = np.empty(len(a), dtype=np.int64)
    for block in _blocks(len(a), len(b), "nearest rows"):
        # |a - b|^2 but for |a|^2, which is the same for all b.
        distance = torch.addmm(squares, a[block], b.T, alpha=-2)
        if others:
            distance[torch.arange(block.stop - block.start), torch.arange(block.start, block.stop)] = (
                torch.inf
            )
        index[block] = distance.argmin(1).numpy()
    # Once more from the differences: equal rows are at distance 0, equal distances are equal.
    return _norms(queries - points[index]), index


# -- distances to training rows -----------------------------------------------------------------------


@dataclass(frozen=True)
class TrainShare:
    """Share of synthetic rows that are closer to a training row than to any held-out row.

    Attributes:
        share: of rows strictly closer: the protocol's DCR score.
        ties: share of rows as close to both.
        chance: what no memory gives, ties split: train / (train + held out).
        standard_error: of `share` under chance, as if rows were independent.
    """

    share: float
    ties: float
    chance: float
    standard_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def train_share(
    train: Any, synthetic: Any, held_out: Any, categorical: Iterable[str] | None = None
) -> TrainShare:
    r"""Share of synthetic rows whose nearest training row is closer than their nearest held-out row.

    The distance is :math:`\sum_j |a_j - b_j| / r_j + 2\,\#\{\text{categories that differ}\}`, with `r` the
    range in the training rows. The protocol trains a model anew on a half of the rows and compares it with
    the other half: 0.5 is ideal. Where there are more training than held-out rows, compare with
    `TrainShare.chance`.

    Arguments:
        train: rows the model was trained on. synthetic: its rows. held_out: rows it has not seen.
            categorical: as for `shape`.

    Raises:
        DataError, ConfigError: as `shape`.

    Reference:
        Zhang et al., *Mixed-Type Tabular Data Synthesis with Score-based Diffusion in Latent Space* (TabSyn),
        2024, https://arxiv.org/abs/2310.09656
    """
    tables = {"train": train, "synthetic": synthetic, "held_out": held_out}
    return train_share_of(code_tables(tables, categorical))


def train_share_of(coded: CodedTables) -> TrainShare:
    """`train_share` of training, synthetic and held-out rows."""
    train, synthetic, held_out = coded.tables
    _, spread, mean = _ranges(train.numbers)
    near, far = (_closest(coded, synthetic, rows, mean, spread)[0] for rows in (train, held_out))
    chance = len(train) / (len(train) + len(held_out))
    error = float(np.sqrt(chance * (1 - chance) / len(synthetic)))
    # Distances of whole numbers are often equal but for rounding.
    return TrainShare(
        float((near < far - _ROUNDING).mean()), float((abs(near - far) <= _ROUNDING).mean()), chance, error
    )


@dataclass(frozen=True)
class NearCopies:
    """How many synthetic rows lie unusually near training rows.

    Attributes:
        dcr002, dcr005: percent of synthetic rows nearer to a training row than the 2 % and 5 % quantile of
            the test rows: 2 and 5 are what new rows give.
        copies, test_copies: percent of synthetic and of test rows that equal a training row.
        distance, test_distance: means of the distances to the nearest training row.
    """

    dcr002: float
    dcr005: float
    copies: float
    test_copies: float
    distance: float
    test_distance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def near_copies(
    train: Any, synthetic: Any, test: Any, categorical: Iterable[str] | None = None
) -> NearCopies:
    """Synthetic rows nearer to training rows than 98 and 95 percent of the test rows are (dcr002, dcr005).

    The distance is that of `train_share` with the training rows' standard deviation for the range.

    Warning:
        Where 2 % of the test rows equal a training row the quantile is 0 and so is the score, whatever the
        synthetic rows are: look at `NearCopies.copies`. The protocol leaves the categories of beijing out.

    Arguments:
        train, synthetic, test: frames or dicts of columns. categorical: as for `shape`.

    Raises:
        DataError, ConfigError: as `shape`.

    Reference:
        TabDiff (Shi et al., 2025), https://arxiv.org/abs/2410.20626; quantiles as in TabPC, 2026.
    """
    return near_copies_of(code_tables({"train": train, "synthetic": synthetic, "test": test}, categorical))


def near_copies_of(coded: CodedTables) -> NearCopies:
    """`near_copies` of training, synthetic and test rows."""
    return copies_and_nearest_of(coded)[0]


def copies_and_nearest_of(coded: CodedTables, n: int = 0) -> tuple[NearCopies, list[NearestRow]]:
    """`near_copies` and `nearest_rows` of training, synthetic and test rows, by one pass over distances."""
    train, synthetic, test = coded.tables
    mean, scale = _deviations(train.numbers)
    ours, place = _closest(coded, synthetic, train, mean, scale)
    theirs, _ = _closest(coded, test, train, mean, scale)

    def percent(which: np.ndarray) -> float:
        return 100 * float(which.mean())

    copies = NearCopies(
        dcr002=percent(ours < np.quantile(theirs, 0.02)),
        dcr005=percent(ours < np.quantile(theirs, 0.05)),
        copies=percent(ours == 0),
        test_copies=percent(theirs == 0),
        distance=float(ours.mean()),
        test_distance=float(theirs.mean()),
    )
    return copies, _first(ours, place, n)


@dataclass(frozen=True)
class NearestRow:
    """A synthetic row and the training row that it lies nearest to.

    Attributes:
        synthetic, train: places of the rows. distance: between them, that of `near_copies`.
    """

    synthetic: int
    train: int
    distance: float


def nearest_rows(
    train: Any, synthetic: Any, n: int = 5, categorical: Iterable[str] | None = None
) -> list[NearestRow]:
    """The n synthetic rows nearest to a training row, the nearest first: to be looked at before sharing.

    Arguments:
        train, synthetic: frames or dicts of columns. n: how many. categorical: as for `shape`.

    Raises:
        DataError, ConfigError: as `shape`.
    """
    coded = code_tables({"train": train, "synthetic": synthetic}, categorical)
    known, drawn = coded.tables
    return _first(*_closest(coded, drawn, known, *_deviations(known.numbers)), n)


def _first(distance: np.ndarray, place: np.ndarray, n: int) -> list[NearestRow]:
    """The n nearest, by the distance of every synthetic row and the place of its training row."""
    first = np.argsort(distance, kind="stable")[:n]
    return [NearestRow(int(i), int(place[i]), float(distance[i])) for i in first]


def _deviations(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the known numbers of every column; one for a column of one value."""
    _, _, mean = _ranges(numbers)
    known = ~np.isnan(numbers)
    squares = np.where(known, numbers - mean, 0.0) ** 2
    deviation = np.sqrt(squares.sum(0) / np.maximum(known.sum(0), 1))
    return mean, np.where(deviation > 0, deviation, 1.0)


def _closest(
    coded: CodedTables, queries: Rows, points: Rows, mean: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each query to the nearest point, and its place: L1 of scaled numbers, 2 a category apart.

    A missing number counts as the mean, and is 1 farther from known ones.
    """
    holes = np.isnan(queries.numbers).any(0) | np.isnan(points.numbers).any(0)
    a, b = (_scaled((rows.numbers - mean) / scale, holes) for rows in (queries, points))
    few = [i for i, levels in enumerate(coded.levels) if len(levels) <= _FEW_LEVELS]
    many = [i for i in range(len(coded.levels)) if i not in few]
    # Agreements of one-hot rows, twice, are whole numbers that float32 holds exactly.
    sizes = [len(coded.levels[i]) for i in few]
    hot_a, hot_b = (_one_hot(rows.codes[:, few], sizes) for rows in (queries, points))
    code_a, code_b = (torch.from_numpy(rows.codes[:, many]) for rows in (queries, points))
    closest, place = np.empty(len(a)), np.empty(len(a), dtype=np.int64)
    for block in _blocks(len(a), len(b), "distances to training rows"):
        distance = torch.cdist(a[block], b, p=1.0)
        if few:
            distance += 2 * (len(few) - hot_a[block] @ hot_b.T)
        for j in range(len(many)):
            distance += 2.0 * (code_a[block, j, None] != code_b[:, j])
        least, where = distance.min(1)
        closest[block], place[block] = least.numpy(), where.numpy()
    return closest, place


def _scaled(numbers: np.ndarray, holes: np.ndarray) -> Tensor:
    missing = np.isnan(numbers)
    filled = np.where(missing, 0.0, numbers)
    return torch.from_numpy(np.concatenate([filled, missing[:, holes]], axis=1))


def _one_hot(codes: np.ndarray, sizes: list[int]) -> Tensor:
    hot = torch.zeros(len(codes), sum(sizes))
    starts = np.cumsum([0, *sizes[:-1]])[: len(sizes)]
    if sizes:
        hot.scatter_(1, torch.from_numpy(codes + starts), 1.0)
    return hot
