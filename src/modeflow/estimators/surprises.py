r"""Which columns make a row odd: how improbable each cell is given the others.

.. math:: s_j(x) = -\log p(x_j \mid x_{-j}) = \log p(x_{-j}) - \log p(x), \qquad
    p(x_{-j}) = \int p(x_j', x_{-j})\, dx_j'

Where the model knows this marginal as well as the density (leaves on a tree of states; a flow that is told
nothing but levels; chains that leave out what is missing, by which both are bounds) a missing cell is all it
takes. Elsewhere it is a sum over the levels of the column, or an integral
over its numbers by quadrature, in the units of the model: about 270 densities for a cell, right to a few
thousandths of a nat. One way for all densities of tables.

A surprise is in nats in the units of the column: that of a length in kilometres is less by log 1000 than in
metres. What it exceeds the expected one by has no units, and tells columns apart:

.. math:: e_j(x) = s_j(x) - E_{x' \sim p}\, s_j(x') = s_j(x) - H(X_j \mid X_{-j})
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from modeflow.densities import Feature, Preprocessed
from modeflow.densities.bounded import log_mean_of_draws
from modeflow.densities.slices import slice_of
from modeflow.domains import MixedDomain, TableDomain
from modeflow.errors import ConfigError
from modeflow.estimators.fitted import FittedDensity
from modeflow.estimators.settings import latent_model, model_features
from modeflow.latents import LatentModel
from modeflow.progress import showing, track
from modeflow.training import shield
from modeflow.transforms.noise import even_streams

__all__ = ["Surprises", "expected", "is_score", "left_out", "surprises_of", "without"]

#: Offsets of lattices that a surprise is averaged over, where a score has more.
_DRAWS = 4
#: Rows whose columns are looked at, at once: where a density is integrated fewer.
_ROWS, _INTEGRATED = 1024, 64
#: Rows drawn for what surprises are expected.
_DRAWN = 200


class Surprises(FittedDensity):
    """What each column of a row says beside the others; not for direct use."""

    @shield()
    def surprises(self, X: Any) -> np.ndarray:
        r"""``-log p(x_j | x_-j)`` of every cell given the other cells of its row, nats, shape ``(N, D)``.

        Exact where the model has this marginal, else by quadrature; see `modeflow.estimators.surprises`. NaN
        of a missing cell; infinite of one that its column cannot have, beside which the others say nothing
        (NaN).

        Arguments:
            X: rows; D counts the columns that are modelled.

        Raises:
            DataError: as of `score_samples`.
        """
        joint, rest = left_out(self, X)
        return surprises_of(joint, rest)

    @shield()
    def expected_surprises(self, n_samples: int = _DRAWN, *, random_state: Any = 0) -> np.ndarray:
        """Mean of `surprises` over rows drawn from the model, nats, ``(D,)``: the conditional entropies.

        Arguments:
            n_samples: how many are drawn. random_state: seed of the drawing.
        """
        return expected(self.surprises(self.sample(n_samples, random_state=random_state)[0]))


def expected(surprises: np.ndarray) -> np.ndarray:
    """The mean of every column of surprises ``(N, D)`` over the rows that have one; 0 where none has."""
    there = np.isfinite(surprises)
    return np.asarray(np.where(there, surprises, 0.0).sum(0) / np.maximum(there.sum(0), 1))


def surprises_of(joint: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Surprises from ``log p(x)``, ``(N,)``, and ``log p(x_-j)``, ``(N, D)``."""
    possible = np.where(np.isneginf(rest), np.nan, rest)
    return np.asarray(possible - joint[:, None])


def left_out(estimator: FittedDensity, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """``log p(x)``, ``(N,)``, and of every column ``log p(x_-j)``, ``(N, D)``, NaN where its cell is missing.

    Both by the same points of the cells of lattices, so that these add little to their difference.

    Raises:
        ConfigError: rows that are no table's. DataError: as of `score_samples`.
    """
    if not isinstance(estimator.domain_, (TableDomain, MixedDomain)):
        raise ConfigError(f"{estimator.domain_.word}s have no columns to be told apart: fit a table")
    return without(estimator, estimator._values(X))


def is_score(estimator: FittedDensity) -> bool:
    """Whether ``log p(x)`` of `left_out` is what `score_samples` returns, to rounding: on lattices that is
    over more points of the cells."""
    return estimator.model_.evaluations <= _DRAWS


def without(
    estimator: FittedDensity, values: np.ndarray, columns: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`left_out` of rows of a table as the domain has them, checked before.

    Arguments:
        values: ``(N, D)``. columns: places of those that are left out; all if None, NaN of others.
    """
    assert isinstance(estimator.domain_, (TableDomain, MixedDomain))
    model = estimator._scorer()
    features = model_features(estimator.domain_)
    which = range(values.shape[1]) if columns is None else columns
    joint, rest = np.empty(len(values)), np.full(values.shape, np.nan)
    with torch.no_grad(), showing(bool(estimator.verbose)):
        pairs = _pairs(model, estimator.domain_.to_tensor(values), which)
        for rows, column in track(pairs, "explain"):
            x = estimator.domain_.to_tensor(values[rows]).to(model.device)
            if column is None:
                joint[rows] = _averaged(model, x, x, features, None).cpu().numpy()
                continue
            there = ~np.isnan(values[rows, column])
            if not there.any():
                continue
            x = x[torch.from_numpy(there).to(x.device)]
            hidden = x.clone()
            hidden[:, column] = torch.nan
            found = _averaged(model, x, hidden, features, column).cpu().numpy()
            rest[rows[there], column] = found
    return joint, rest


def _pairs(model: Preprocessed, x: Tensor, columns: Sequence[int]) -> list[tuple[np.ndarray, int | None]]:
    """Rows and columns that are looked at together, ``None`` for all columns: pieces of work of like size."""
    inner, few = latent_model(model), x[:1].to(model.device)
    found: list[tuple[np.ndarray, int | None]] = []
    for column in (None, *columns):
        if column is None:
            size = _ROWS
        else:
            hidden = few.clone()
            hidden[:, column] = torch.nan
            known = _is_known(inner, model.encode(hidden)[0], model.encode(few)[0])
            size = _ROWS if known else _INTEGRATED
        found += [(np.arange(i, min(i + size, len(x))), column) for i in range(0, len(x), size)]
    return found


def _averaged(
    model: Preprocessed, x: Tensor, hidden: Tensor, features: Sequence[Feature], column: int | None
) -> Tensor:
    """Log-density of rows, one column of which is hidden, over points of cells that are a function of the
    whole row."""
    draws = min(model.draws, _DRAWS)
    one_way = model.transform.exactness == "exact"
    inner = latent_model(model)
    near = None if column is None else model.encode(x)[0][:, column]

    def one() -> Tensor:
        u, logabsdet = model.encode(hidden)
        if column is None or near is None:
            return model.lift(u, inner.log_prob(u)) + logabsdet
        found = _marginal(inner, u, column, features, near)
        beside = model.beside
        other = None if beside is None or beside.other is None else cast(LatentModel, beside.other)
        aside = None if other is None else _marginal(other, u, column, features, near)
        return model.lift(u, found, without=column, other=aside) + logabsdet

    streams: Iterator[AbstractContextManager[None]]
    streams = iter([nullcontext()]) if one_way else even_streams(x, draws, model)
    return log_mean_of_draws(streams, one)


def _is_known(inner: LatentModel, u: Tensor, whole: Tensor) -> bool:
    """Whether the model sums out what is missing in rows u as exactly as it knows the density of whole."""
    return bool(inner.sums_out(u).all()) and inner.exactness_of(u) == inner.exactness_of(whole)


def _marginal(
    inner: LatentModel, u: Tensor, column: int, features: Sequence[Feature], near: Tensor
) -> Tensor:
    """Log-density of rows in the units of the model without a column, which is missing there, ``(B,)``; near:
    what it is in the rows."""
    whole = u.clone()
    whole[:, column] = near
    if _is_known(inner, u, whole):
        return inner.log_prob(u)
    return slice_of(inner.log_prob, u, column, features, near).log_total()
