"""The islands of `Shapes` as a mixed table: their names in a column of words, and cells that are missing."""

from __future__ import annotations

import numpy as np
import polars as pl

from modeflow.data.toy_islands import Shapes

__all__ = ["NamedShapes"]

#: What each island is called; the two crescents have one name.
_NAMES = ("ring", "blob", "crescent", "crescent", "wave", "needle")
#: Where a missing number is integrated over, by the trapezoidal rule: no island reaches the ends, and the
#: narrowest band has a standard deviation of two steps, where the rule has the digits of a double.
_LINE = np.linspace(-10.0, 10.0, 501)
#: Digits of the numbers after the point.
_DECIMALS = 4


class NamedShapes:
    r"""Rows (x, y, shape): a point of one of six islands, and its name; one name in ten is any of the five.

    .. math:: p(x, y, w) = \sum_k \tfrac16\, p_k(x, y)\, P(w \mid k)

    The density is known, of rows that lack a cell too: names are summed out, numbers integrated out.

    Arguments:
        slips: share of the names that are drawn at random.
    """

    columns = ("x", "y", "shape")

    def __init__(self, slips: float = 0.1) -> None:
        self.shapes = Shapes()
        self.names: tuple[str, ...] = tuple(sorted(set(_NAMES)))
        #: Probability of each name in each island, ``(6, 5)``.
        self.share = np.full((len(_NAMES), len(self.names)), slips / len(self.names))
        self.share[np.arange(len(_NAMES)), [self.names.index(name) for name in _NAMES]] += 1 - slips

    def sample(self, n: int, seed: int = 0) -> pl.DataFrame:
        """Draw n rows, all their cells there."""
        rows, islands = self.shapes.sample_with_labels(n, seed)
        chance = np.random.default_rng([seed, 1]).random(n)
        codes = (chance[:, None] > self.share.cumsum(1)[islands]).sum(1)
        words = np.array(self.names)[np.minimum(codes, len(self.names) - 1)]
        x, y = np.round(rows, _DECIMALS).T
        return pl.DataFrame({"x": x, "y": y, "shape": words.tolist()})

    @staticmethod
    def with_holes(frame: pl.DataFrame, share: float, seed: int = 0) -> pl.DataFrame:
        """The same rows, a share of them without one cell, each column's as often."""
        chance = np.random.default_rng([seed, 2]).random(frame.height) / share * frame.width
        return frame.with_columns(
            pl.when(pl.Series((chance >= j) & (chance < j + 1)))
            .then(None)
            .otherwise(pl.col(name))
            .alias(name)
            for j, name in enumerate(frame.columns)
        )

    def log_prob(self, frame: pl.DataFrame) -> np.ndarray:
        """Log-density of rows that may lack one cell each, nats, ``(N,)``."""
        return np.asarray(np.logaddexp.reduce(self._with_name(frame)[0], axis=1))

    def name_probs(self, frame: pl.DataFrame) -> np.ndarray:
        """Probability of every name given the numbers of a row, ``(N, 5)``."""
        joint = self._log_joint(frame)[0]
        island = np.exp(joint - joint.max(1, keepdims=True))
        return np.asarray(island / island.sum(1, keepdims=True) @ self.share)

    def means(self, frame: pl.DataFrame) -> np.ndarray:
        """x and y, those that are missing by their means given the other cells, ``(N, 2)``."""
        joint, mean = self._with_name(frame)
        weight = np.exp(joint - joint.max(1, keepdims=True))
        rows, weight = _numbers(frame), weight / weight.sum(1, keepdims=True)
        return np.where(np.isnan(rows), (weight * mean).sum(1)[:, None], rows)

    def _with_name(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """`_log_joint`, with the name where it is there."""
        joint, mean = self._log_joint(frame)
        codes = np.array([-1 if w is None else self.names.index(w) for w in frame["shape"].to_list()])
        return joint + np.log(np.where(codes[:, None] < 0, 1.0, self.share.T[codes])), mean

    def _log_joint(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """``log p(numbers that are there, island = k)``, and the mean of the other given both, ``(N, 6)``."""
        rows = _numbers(frame)
        joint, mean = self.shapes.log_joint(np.nan_to_num(rows)), np.zeros((len(rows), len(_NAMES)))
        some = np.flatnonzero(np.isnan(rows).any(1))
        points = np.where(np.isnan(rows[some])[:, None], _LINE[:, None], rows[some][:, None])
        density = np.exp(self.shapes.log_joint(points.reshape(-1, 2))).reshape(
            len(some), len(_LINE), len(_NAMES)
        )
        mass = np.maximum(density.sum(1), 1e-300)
        joint[some] = np.log(mass * (_LINE[1] - _LINE[0]))
        mean[some] = np.einsum("g,ngk->nk", _LINE, density) / mass
        return joint, mean


def _numbers(frame: pl.DataFrame) -> np.ndarray:
    return frame.select(pl.col("x", "y").fill_null(float("nan"))).to_numpy()
