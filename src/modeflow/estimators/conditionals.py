r"""What some columns say of others: missing cells filled, rows drawn given cells, conditional densities.

.. math:: p(x_a \mid x_b) = \frac{p(x_a, x_b)}{p(x_b)}

Both marginals are those of the model: a cell that is missing is summed or integrated out, which a tree of
states does exactly (`LatentModel.marginals`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from modeflow.domains import MixedDomain
from modeflow.errors import ConfigError, DataError
from modeflow.estimators.fitted import FittedDensity
from modeflow.estimators.settings import latent_model
from modeflow.progress import showing, track
from modeflow.training import shield

__all__ = ["Conditionals", "Prediction", "conditionals_of"]

#: Draws that a mean or a distribution of a number is taken over.
_DRAWS = 100
#: Rows completed at once.
_ROWS = 4096


@dataclass(frozen=True)
class Prediction:
    """The distribution of one column in every row, given the other cells of the row.

    Attributes:
        name: of the column. levels: its values, where they are few; else None.
        probabilities: of the levels, ``(N, L)``; None for numbers.
        draws: of numbers, ``(N, draws)``, in the units of the data; None for levels.
    """

    name: str
    levels: tuple[Any, ...] | None
    probabilities: np.ndarray | None
    draws: np.ndarray | None

    def mode(self) -> np.ndarray:
        """The likeliest level of every row; of numbers the median."""
        if self.probabilities is not None and self.levels is not None:
            return np.array(self.levels, dtype=object)[self.probabilities.argmax(1)]
        assert self.draws is not None
        return np.asarray(np.median(self.draws, axis=1))


class Conditionals(FittedDensity):
    """Conditionals of the columns of a mixed table; not for direct use."""

    @shield()
    def impute(self, X: Any, m: int = 1, *, how: str = "draw", random_state: Any = None) -> list[Any]:
        """Fill the missing cells of rows from the model; other cells stay as they are.

        Arguments:
            X: rows with missing cells. m: how many tables are made (multiple imputation).
            how: ``"draw"`` (from the joint conditional of a row's missing cells, exactly), or ``"mean"``: of
                numbers the mean, of levels the likeliest, over 100 draws (m is then 1).
            random_state: seed of the drawing; the estimator's own if None.

        Returns:
            m tables of the kind that was fitted.

        Raises:
            ConfigError: a model whose marginals are not known, or a `how` or m that is not allowed.
            DataError: other columns than those fitted, or a value that a column cannot have.
        """
        if how not in ("draw", "mean"):
            raise ConfigError(f"how='{how}' is not known: use 'draw' or 'mean'")
        if not isinstance(m, (int, np.integer)) or m < 1 or (how == "mean" and m > 1):
            raise ConfigError(f"m must be 1 or more (1 with how='mean'), received {m!r}")
        domain = self._mixed()
        values = domain.validate(self, X)
        generator = self._generator(random_state)
        if how == "draw":
            return [domain.schema.decode(self._completed(values, generator)) for _ in range(int(m))]
        holes = np.isnan(values).any(1)
        filled = values.copy()
        if holes.any():
            draws = np.stack([self._completed(values[holes], generator) for _ in range(_DRAWS)])
            for j, feature in enumerate(domain.schema.features()):
                some = draws[:, :, j]
                coded = feature.levels or feature.circular
                filled[holes, j] = _likeliest(some) if coded else some.mean(0)
        return [domain.schema.decode(filled)]

    @shield()
    def sample_given(self, given: Mapping[str, Any], n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draw rows that have these cells, from the exact conditional.

        Arguments:
            given: values by column, such as ``{"age": 40, "city": "Rome"}``.
            n_samples: how many. random_state: seed of the drawing; the estimator's own if None.

        Returns:
            rows of the kind that was fitted.

        Raises:
            ConfigError: an unknown column, or a model whose marginals are not known.
            DataError: a value that its column cannot have.
        """
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        domain = self._mixed()
        row = domain.given(given)
        values = np.repeat(row[None], int(n_samples), 0)
        return domain.schema.decode(self._completed(values, self._generator(random_state)))

    def log_prob_given(self, X: Any, of: Sequence[str], given: Sequence[str] | None = None) -> np.ndarray:
        """``log p(x_of | x_given)`` of every row, nats, ``(N,)``; other columns are summed out.

        Arguments:
            X: rows. of: names of columns. given: names of others; all others if None, none if empty.

        Raises:
            ConfigError: an unknown name, one that is in both, or a model whose marginals are not known.
        """
        domain = self._mixed()
        names = domain.schema.names
        given = [n for n in names if n not in of] if given is None else list(given)
        for name in (*of, *given):
            domain.check_name(name)
        if both := sorted(set(of) & set(given)):
            raise ConfigError(f"column '{both[0]}' cannot be given and asked for at once")
        values = domain.validate(self, X)
        hidden = np.array([name not in of and name not in given for name in names])
        asked = np.array([name in of for name in names])
        joint = np.where(hidden, np.nan, values)
        return self._score(joint) - self._score(np.where(asked, np.nan, joint))

    @shield()
    def predict_column(self, name: str, X: Any, *, random_state: Any = None) -> Prediction:
        """The distribution of a column in every row, given the row's other cells; its own are not looked at.

        Arguments:
            name: of the column. X: rows. random_state: seed of the draws of numbers.

        Raises:
            ConfigError: an unknown column, or a model whose marginals are not known.
        """
        domain = self._mixed()
        j = domain.check_name(name)
        values = domain.validate(self, X)
        feature = domain.schema.features()[j]
        values[:, j] = np.nan
        if not feature.levels:
            generator = self._generator(random_state)
            draws = np.stack([self._completed(values, generator)[:, j] for _ in range(_DRAWS)], 1)
            decoded = domain.schema[name].decode(draws.ravel()).reshape(draws.shape)
            return Prediction(name, None, None, decoded)
        scores = np.empty((len(values), feature.levels))
        for level in range(feature.levels):
            values[:, j] = level
            scores[:, level] = self._score(values)
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        levels = domain.schema[name].decode(np.arange(feature.levels, dtype=np.float64))
        return Prediction(name, tuple(levels.tolist()), share / share.sum(1, keepdims=True), None)

    # -- inside ---------------------------------------------------------------------------------

    def _mixed(self) -> MixedDomain:
        domain = conditionals_of(self).domain_
        assert isinstance(domain, MixedDomain)
        return domain

    def _generator(self, random_state: Any) -> torch.Generator:
        rng = check_random_state(self.random_state if random_state is None else random_state)
        return torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))

    def _completed(self, values: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Rows with every missing cell drawn given the others."""
        if np.isinf(values).any():
            row = int(np.isinf(values).any(1).argmax())
            raise DataError(f"row {row + 1} has a value that its column cannot have: nothing follows from it")
        full, model = values.copy(), self._scorer()
        holes = np.flatnonzero(np.isnan(values).any(1))
        with torch.no_grad(), showing(bool(self.verbose)):
            for start in track(range(0, len(holes), _ROWS), "fill"):
                rows = holes[start : start + _ROWS]
                u = model.encode_drawn(self.domain_.to_tensor(values[rows]))[0]
                drawn = model.decode(latent_model(model).complete(u, generator)).cpu().numpy()
                full[rows] = np.where(np.isnan(values[rows]), drawn, values[rows])
        return full

    def _score(self, values: np.ndarray) -> np.ndarray:
        """Log-density of encoded rows, nats; a tree is one state to an estimator."""
        return self._joint_of(values)[:, 0]


def _likeliest(draws: np.ndarray) -> np.ndarray:
    """The most frequent value of every column of ``(draws, N)``."""
    out = np.empty(draws.shape[1])
    for i, column in enumerate(draws.T):
        values, counts = np.unique(column, return_counts=True)
        out[i] = values[counts.argmax()]
    return out


def conditionals_of(estimator: FittedDensity) -> Conditionals:
    """A fitted estimator as one that has conditionals.

    Raises:
        ConfigError: a model whose marginals are not known.
    """
    check_is_fitted(estimator)
    if (
        isinstance(estimator, Conditionals)
        and isinstance(estimator.domain_, MixedDomain)
        and estimator.latent_.marginals
    ):
        return estimator
    raise ConfigError(
        "filled cells and conditionals need the marginals of a model, which a tree of states without a flow "
        "has: fit with latent='tree' and latent_options.likelihood='leaves'"
    )
