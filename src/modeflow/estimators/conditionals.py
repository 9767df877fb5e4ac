r"""What some columns say of others: missing cells filled, rows drawn given cells, conditional densities.

.. math:: p(x_a \mid x_b) = \frac{p(x_a, x_b)}{p(x_b)}

Both marginals are those of the model: a cell that is missing is summed or integrated out, which a tree of
states does exactly, and a flow over it by draws of a proposal (`LatentModel.marginals`): a quotient of two
bounds, and a draw from among some, are estimates.
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
from modeflow.transforms.base import Exactness

__all__ = ["Conditionals", "Prediction"]

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
        kind: whether they are those of the model exactly, or an ``"estimate"``.
    """

    name: str
    levels: tuple[Any, ...] | None
    probabilities: np.ndarray | None
    draws: np.ndarray | None
    kind: Exactness = "exact"

    def mode(self) -> np.ndarray:
        """The likeliest level of every row; of numbers the median."""
        if self.probabilities is not None and self.levels is not None:
            return np.array(self.levels, dtype=object)[self.probabilities.argmax(1)]
        assert self.draws is not None
        return np.asarray(np.median(self.draws, axis=1))


class Conditionals(FittedDensity):
    """Conditionals of the columns of a mixed table; not for direct use."""

    @property
    def conditional_kind_(self) -> Exactness:
        """What conditionals are: ``exact``, or an ``estimate`` where marginals are bounds (a flow with a
        proposal) or cells are drawn from (columns on lattices)."""
        self._mixed()
        parts = (self.model_.transform.exactness, self.latent_.marginals)
        return "exact" if parts == ("exact", "exact") else "estimate"

    @shield()
    def impute(self, X: Any, m: int = 1, *, how: str = "draw", random_state: Any = None) -> list[Any]:
        """Fill the missing cells of rows from the model; other cells stay as they are.

        Arguments:
            X: rows with missing cells. m: how many tables are made (multiple imputation).
            how: ``"draw"`` (from the joint conditional of a row's missing cells, see `conditional_kind_`), or
                ``"mean"``: of numbers the mean, of levels the likeliest, over 100 draws (m is then 1).
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
            draws = self._completions(values[holes], _DRAWS, generator)
            for j, feature in enumerate(domain.schema.features()):
                some = draws[:, :, j]
                coded = feature.levels or feature.circular
                filled[holes, j] = _likeliest(some) if coded else some.mean(0)
        return [domain.schema.decode(filled)]

    @shield()
    def sample_given(self, given: Mapping[str, Any], n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draw rows that have these cells, from the conditional (see `conditional_kind_`).

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

        As the difference of two log-densities: where these are bounds, an estimate (`conditional_kind_`).

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
            draws = self._completions(values, _DRAWS, generator)[:, :, j].T
            decoded = domain.schema[name].decode(draws.ravel()).reshape(draws.shape)
            return Prediction(name, None, None, decoded, self.conditional_kind_)
        scores = np.empty((len(values), feature.levels))
        for level in range(feature.levels):
            values[:, j] = level
            scores[:, level] = self._score(values)
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        levels = domain.schema[name].decode(np.arange(feature.levels, dtype=np.float64))
        share /= share.sum(1, keepdims=True)
        return Prediction(name, tuple(levels.tolist()), share, None, self.conditional_kind_)

    # -- inside ---------------------------------------------------------------------------------

    def _mixed(self) -> MixedDomain:
        check_is_fitted(self)
        if not isinstance(self.domain_, MixedDomain) or self.latent_.marginals is None:
            raise ConfigError(
                "conditionals need the marginals of the model: fit with latent='tree' and latent_options="
                "{'likelihood': 'leaves'} (exact), or {'likelihood': 'flow', 'proposal': True} (estimates)"
            )
        return self.domain_

    def _generator(self, random_state: Any) -> torch.Generator:
        rng = check_random_state(self.random_state if random_state is None else random_state)
        return torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))

    def _completed(self, values: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Rows with every missing cell drawn given the others."""
        return self._completions(values, 1, generator)[0]

    def _completions(self, values: np.ndarray, n: int, generator: torch.Generator) -> np.ndarray:
        """`_completed`, n times, ``(n, N, D)``."""
        if np.isinf(values).any():
            row = int(np.isinf(values).any(1).argmax())
            raise DataError(f"row {row + 1} has a value that its column cannot have: nothing follows from it")
        full, model = np.repeat(values[None], n, 0), self._scorer()
        holes, size = np.flatnonzero(np.isnan(values).any(1)), max(1, _ROWS // n)
        with torch.no_grad(), showing(bool(self.verbose)):
            for start in track(range(0, len(holes), size), "fill"):
                rows = holes[start : start + size]
                u = model.encode_drawn(self.domain_.to_tensor(values[rows]))[0]
                drawn = latent_model(model).completions(u, n, generator)
                back = model.decode(drawn.flatten(0, 1)).cpu().numpy().reshape(n, len(rows), -1)
                full[:, rows] = np.where(np.isnan(values[rows]), back, values[rows])
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
