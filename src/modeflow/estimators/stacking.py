r"""What stands beside a fitted model: a Gaussian mixture, rows from anywhere, and a model of another kind.

.. math:: p(u) = w_0\, p_\text{model}(u) + w_1 \sum_k \pi_k N(u; m_k, S_k) + w_2\, t_3(u;\, m, S)
    + w_3\, q(u)

in the units of the model (the t: before far tails are drawn in), exact. A flow that was fitted to few rows is
far too sure of where no row can lie: single new rows cost hundreds of nats, and decide its mean. One row in N
may therefore come from anywhere, a wide t about all rows, from the first step on: while training is stopped
early, too. After the training, and before candidates are compared, a mixture joins, of the size and the
regularisation that are best on the validation rows, and the weights w are those that make the validation rows
likeliest (EM, with a prior that leaves the model what the rows do not claim).

Where candidates differ, neither is right everywhere: a flow and a tree of states that are as good in the mean
are nats apart row by row, and their average is ahead of both. So the candidate that would add most to what is
chosen is fitted to the end, too, and stays beside it where validation rows are the likelier for it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from modeflow.densities.beside import Beside
from modeflow.latents import LatentModel
from modeflow.progress import busy
from modeflow.transforms.base import Composite, Transform
from modeflow.transforms.columns import Columns

__all__ = [
    "Companions",
    "Stacked",
    "anywhere",
    "best_mixture",
    "described",
    "share_of",
    "tail_of",
    "words_of",
]

#: Freedom of the t.
_FREEDOM = 3.0
#: Sizes of the mixture, tried in turn while they help; and what is added to its variances, of standardised
#: columns.
_SIZES, _RIDGES = (1, 2, 4, 8, 16, 32), (1e-3, 1e-6, 1e-2, 1e-1)
#: Rows that the mixture is fitted to at the most; and those that one more component takes.
_ROWS, _ROWS_A_COMPONENT = 10_000, 5
#: Columns beyond which covariances are too many numbers for a mixture.
_COLUMNS = 128
#: Rows for which the prior of the weights counts: as many for the model, a tenth for the mixture.
_PRIOR = (1.0, 0.1)
#: The same for another model: it was fitted as the first was.
_OTHER = 1.0
_STEPS = 200


@dataclass(frozen=True)
class Stacked:
    """Weights that were found.

    Attributes:
        model, mixture, anywhere, other: w_0, w_1, w_2 and w_3. components: of the mixture. fit: what
            the other model is.
    """

    model: float
    mixture: float
    anywhere: float
    components: int
    other: float = 0.0
    fit: str = ""

    @property
    def words(self) -> str:
        """For people."""
        plural = "s" if self.components > 1 else ""
        mixture = f"{self.mixture:.2%} of {self.components} Gaussian{plural} and " if self.components else ""
        other = f"{self.other:.2%} of another fit ({self.fit}), " if self.other else ""
        return f"{other}{mixture}{self.anywhere:.2%} of a wide t beside {self.model:.2%} of the model"

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def tail_of(transform: Transform) -> float:
    """Where maps of columns draw far tails in; infinite where they do not."""
    last = transform.transforms[-1] if isinstance(transform, Composite) else transform
    return float(last.tail) if isinstance(last, Columns) else math.inf


def anywhere(rows: Tensor, tail: float = math.inf, share: float | None = None) -> Beside:
    """A wide t about rows ``(N, D)`` in the units of the model, of weight 1/N unless it is given.

    Its scale is the covariance of the rows, tails drawn in, and shrunk by as much as they are few (OAS). Its
    own tails are not drawn in, so that it has a variance.
    """
    from sklearn.covariance import OAS

    values = _float64(rows)
    found = OAS().fit(values)
    factor = np.linalg.cholesky(found.covariance_ + 1e-9 * np.eye(values.shape[1]))
    weight = 1 / len(values) if share is None else share
    return _beside([weight], [found.location_], [np.linalg.inv(factor)], [_FREEDOM], tail)


class Companions:
    """What may stand beside models of some rows, whichever they are: a wide t, and the best mixture.

    Arguments:
        rows: training rows in the units of the models, ``(N, D)``, each as often as its weight says.
        held: validation rows, ``(M, D)``. weight: theirs, ``(M,)``. seed: of the mixture's start.
        tail: where the units draw far tails in.
    """

    def __init__(
        self, rows: Tensor, held: Tensor, weight: np.ndarray | None, seed: int, tail: float = math.inf
    ) -> None:
        self.held, self._weight, self._tail = held, weight, tail
        self._parts = [anywhere(rows, tail, 1.0)]
        self._counts = [_PRIOR[0], len(held) / len(rows)]
        mixture = best_mixture(_float64(rows), _float64(held), weight, seed)
        if mixture is not None:
            whiten = mixture.precisions_cholesky_.transpose(0, 2, 1)
            normal = np.full(len(whiten), math.inf)
            self._parts.append(_beside(mixture.weights_, mixture.means_, whiten, normal, tail))
            self._counts.append(_PRIOR[1])
        self._columns = [part.log_prob(held.double()).cpu().numpy() for part in self._parts]

    def beside(
        self, log_prob: np.ndarray, other: LatentModel | None = None, of_other: np.ndarray | None = None
    ) -> Beside:
        """What is best beside a model whose log-densities of the validation rows these are, ``(M,)``.

        Arguments:
            log_prob: theirs. other: a model that stands there, too. of_other: the same under that.
        """
        columns, counts = [log_prob, *self._columns], list(self._counts)
        if of_other is not None:
            columns, counts = [*columns, of_other], [*counts, _OTHER]
        w = share_of(np.stack(columns, 1), np.array(counts), self._weight)
        parts = list(zip(self._parts, w[1:], strict=False))
        shares = torch.cat([part.log_weights + math.log(share) for part, share in parts])
        means, whiten, freedom = (
            torch.cat([getattr(part, name) for part in self._parts])
            for name in ("means", "whiten", "freedom")
        )
        log_other = -math.inf if of_other is None else math.log(w[-1])
        return Beside(shares, means, whiten, freedom, self._tail, other, log_other)


def described(beside: Beside) -> Stacked:
    """What stands beside a model, in numbers."""
    w, normal = beside.log_weights.exp(), torch.isinf(beside.freedom)
    return Stacked(
        float(beside.log_rest.exp()),
        float(w[normal].sum()),
        float(w[~normal].sum()),
        int(normal.sum()),
        float(beside.log_other.exp()),
        "" if beside.other is None else words_of(cast(LatentModel, beside.other)),
    )


def words_of(model: LatentModel) -> str:
    """What a model is, for people."""
    said = model.describe()
    return "a flow" if said.kind == "none" else said.words


def best_mixture(rows: np.ndarray, held: np.ndarray, weight: np.ndarray | None, seed: int) -> Any:
    """The mixture of scikit-learn that is best on held-out rows; None of too many columns or too few rows."""
    if rows.shape[1] > _COLUMNS or len(rows) < 2 * _ROWS_A_COMPONENT:
        return None
    if len(rows) > _ROWS:
        rows = rows[np.random.default_rng(seed).permutation(len(rows))[:_ROWS]]
    best: tuple[float, Any] | None = None
    size, ridge = 1, _RIDGES[0]

    def better(size: int, ridge: float) -> bool:
        nonlocal best
        found = _mixture(rows, size, ridge, seed)
        if found is None:
            return False
        score = float(np.average(found.score_samples(held), weights=weight))
        if best is not None and not score > best[0]:
            return False
        best = score, found
        return True

    with busy("mixture beside it"):
        for tried in _SIZES:
            if tried * _ROWS_A_COMPONENT > len(rows) or not better(tried, ridge):
                break
            size = tried
        better(size, _RIDGES[1])
        for ridge in _RIDGES[2:]:
            if not better(size, ridge):
                break
    return None if best is None else best[1]


def _mixture(rows: np.ndarray, size: int, ridge: float, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: the validation rows say how good it is
        try:
            return GaussianMixture(size, reg_covar=ridge, max_iter=_STEPS, random_state=seed % 2**32).fit(
                rows
            )
        except ValueError:  # a covariance that is none
            return None


def share_of(columns: np.ndarray, counts: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """The weights of densities that make rows likeliest, by EM from the prior's ``counts``.

    Arguments:
        columns: their log-densities, ``(M, J)``. counts: rows that the prior gives to each, ``(J,)``.
        weight: of the rows, ``(M,)``.
    """
    top = columns.max(1, keepdims=True)
    known = np.isfinite(top[:, 0])
    p = np.exp(columns[known] - top[known])
    rows = np.ones(len(p)) if weight is None else weight[known]
    w = counts / counts.sum()
    for _ in range(_STEPS):
        shares = p * w
        w = rows @ (shares / shares.sum(1, keepdims=True)) + counts
        w /= w.sum()
    return np.asarray(w)


def _beside(weights: Any, means: Any, whiten: Any, freedom: Any, tail: float) -> Beside:
    def number(values: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))

    return Beside(number(np.log(weights)), number(means), number(whiten), number(freedom), tail)


def _float64(rows: Tensor) -> np.ndarray:
    return rows.detach().double().cpu().numpy()
