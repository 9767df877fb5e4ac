r"""What some columns say of others: missing cells filled, rows drawn given cells, conditional densities.

.. math:: p(x_a \mid x_b) = \frac{p(x_a, x_b)}{p(x_b)}

Both marginals are those of the model: a cell that is missing is summed or integrated out, which a tree of
states does exactly, and a latent flow by a bound; a flow over a tree where no number of the row is there, the
flow integrating to one whatever it is told (`LatentModel.sums_out`), and elsewhere by draws of a proposal
(`LatentModel.marginals`): a quotient of two bounds, and a draw from among some, are estimates.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.domains import MixedDomain
from modeflow.errors import ConfigError
from modeflow.estimators.fitted import FittedDensity, log_sum_exp
from modeflow.estimators.settings import latent_model
from modeflow.estimators.surprises import surprises_of, without
from modeflow.progress import showing, track
from modeflow.training import shield
from modeflow.transforms.base import Exactness

__all__ = ["Conditionals", "Prediction", "conditionals_of"]

#: Draws that a mean or a distribution of a number is taken over.
_DRAWS = 100
#: Standard units beyond which a number that is given is far from all rows.
_FAR = 8.0
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
    def impute(
        self, X: Any, m: int = 1, *, how: str = "draw", random_state: Any = None, unseen: str = "error"
    ) -> list[Any]:
        """Fill the missing cells of rows from the model; other cells stay as they are.

        Arguments:
            X: rows with missing cells. m: how many tables are made (multiple imputation).
            how: ``"draw"`` (from the joint conditional of a row's missing cells, see `conditional_kind_`), or
                ``"mean"``: of numbers the mean (the nearest value that the column can have; of angles the
                mean direction), of levels the likeliest, over 100 draws (m is then 1).
            random_state: seed of the drawing; the estimator's own if None.
            unseen: what is done with a cell that its column cannot have: ``"error"``, or ``"missing"``, which
                fills it too, and warns.

        Returns:
            m tables of the kind that was fitted; of rows of that kind with their dropped columns, and in
            pandas with their index.

        Raises:
            ConfigError: no tree, or a `how`, m or `unseen` that is not allowed.
            DataError: other columns than those fitted, a value that a column cannot have (row and column are
                named), or cells missing beside numbers under a flow.
        """
        return self.fill(self._mixed().known(X, unseen), X, m, how=how, random_state=random_state)

    @shield()
    def fill(
        self, values: np.ndarray, X: Any, m: int = 1, *, how: str = "draw", random_state: Any = None
    ) -> list[Any]:
        """`impute` of rows that were encoded before (`MixedDomain.known`); X is their table."""
        if how not in ("draw", "mean"):
            raise ConfigError(f"how='{how}' is not known: use 'draw' or 'mean'")
        if not isinstance(m, (int, np.integer)) or m < 1 or (how == "mean" and m > 1):
            raise ConfigError(f"m must be 1 or more (1 with how='mean'), received {m!r}")
        domain = self._mixed()
        self._check_missing(values)
        generator = self._generator(random_state)
        if how == "draw":  # one after the other: each has points of its own in the cells of lattices
            drawn = (self._completions(values, 1, generator)[0] for _ in range(int(m)))
            return [domain.schema.filled(rows, X) for rows in drawn]
        missing = np.isnan(values)
        holes = np.flatnonzero(missing.any(1))
        filled = values.copy()
        if len(holes):
            draws = self._completions(values[holes], _DRAWS, generator)
            for j, name in enumerate(domain.schema.names):
                empty = missing[holes, j]
                filled[holes[empty], j] = domain.schema[name].middle(draws[:, empty, j])
        return [domain.schema.filled(filled, X)]

    @shield()
    def sample_given(self, given: Mapping[str, Any], n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draw rows that have these cells, from the conditional (see `conditional_kind_`).

        Arguments:
            given: values by column, such as ``{"age": 40, "city": "Rome"}``; one for all rows, or a list of
                one for each.
            n_samples: how many. random_state: seed of the drawing; the estimator's own if None.

        Returns:
            rows of the kind that was fitted.

        Raises:
            ConfigError: an unknown column, another number of values, or no tree.
            DataError: a value that its column cannot have, or a number under a flow, which takes levels and
                angles as given.
        """
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        domain = self._mixed()
        values = domain.given(given, int(n_samples))
        self._check_missing(values, given=True)
        self._warn_far(values, given)
        return domain.schema.decode(self._completions(values, 1, self._generator(random_state))[0])

    def log_prob_given(self, X: Any, of: Sequence[str], given: Sequence[str] | None = None) -> np.ndarray:
        """``log p(x_of | x_given)`` of every row, nats, ``(N,)``; other columns are summed out. NaN where a
        column given cannot have its value, of which nothing follows.

        As the difference of two log-densities: where these are bounds, an estimate (`conditional_kind_`).
        Of one column given all others, where the model has no marginal, by quadrature, right to a few
        thousandths of a nat: under every flow, of complete rows (`modeflow.estimators.surprises`).

        Arguments:
            X: rows. of: names of columns. given: names of others; all others if None, none if empty.

        Raises:
            ConfigError: an unknown name, one that is in both, or no tree.
            DataError: under a flow without a proposal columns summed out beside numbers that are not.
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
        if len(set(of)) == 1 and not hidden.any():
            self._check_missing(values)
            column = int(asked.argmax())
            surprises = surprises_of(*without(self, values, [column]))[:, column]
            return np.where(np.isnan(values[:, column]), 0.0, -surprises)
        joint = np.where(hidden, np.nan, values)
        alone = self._score(np.where(asked, np.nan, joint))
        return self._score(joint) - np.where(np.isneginf(alone), np.nan, alone)

    @shield()
    def predict_column(
        self, name: str, X: Any, *, random_state: Any = None, unseen: str = "error"
    ) -> Prediction:
        r"""The distribution of a column in every row, given the row's other cells; its own are not looked at.

        Of levels it is known exactly, with a flow too:

        .. math:: p(x_j = l \mid x_{-j}) = \frac{p(x_j = l, x_{-j})}{\sum_{l'} p(x_j = l', x_{-j})}

        Arguments:
            name: of the column. X: rows. random_state: seed of the draws of numbers.
            unseen: what is done with another cell that its column cannot have, see `impute`.

        Raises:
            ConfigError: an unknown column, or no tree.
            DataError: a value that another column cannot have; under a flow a column of numbers, or cells
                missing beside numbers.
        """
        domain = self._mixed()
        j = domain.check_name(name)
        values = domain.known(X, unseen, besides=name)
        feature = domain.schema.features()[j]
        values[:, j] = np.nan
        if not feature.levels:
            self._check_missing(values)
            generator = self._generator(random_state)
            draws = self._completions(values, _DRAWS, generator)[:, :, j].T
            decoded = domain.schema[name].decode(draws.ravel()).reshape(draws.shape)
            return Prediction(name, None, None, decoded, self.conditional_kind_)
        scores = self._level_scores(values, j)
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        levels = domain.schema[name].decode(np.arange(feature.levels, dtype=np.float64))
        share /= share.sum(1, keepdims=True)
        return Prediction(name, tuple(levels.tolist()), share, None, self.conditional_kind_)

    @shield()
    def level_scores(self, name: str, X: Any = None) -> np.ndarray:
        """``log p(x_j = l, x_-j)`` of every row and every level of a column, nats, ``(N, levels)``.

        All levels of a row are averaged over the same offsets of its lattices, so that these add no noise to
        what one level has more than another.

        Arguments:
            name: of the column. X: rows, whose cells in the column are not looked at; without, the others
                are summed out, which leaves the probabilities of the levels: ``(1, levels)``.

        Raises:
            ConfigError: an unknown column, one without levels, or no tree.
            DataError: under a flow cells missing beside numbers.
        """
        domain = self._mixed()
        j = domain.check_name(name)
        if not domain.schema.features()[j].levels:
            raise ConfigError(f"column '{name}' has no levels: it is {domain.schema[name].kind}")
        return self._level_scores(domain.given({}) if X is None else domain.validate(self, X), j)

    # -- inside ---------------------------------------------------------------------------------

    def _mixed(self) -> MixedDomain:
        domain = conditionals_of(self).domain_
        assert isinstance(domain, MixedDomain)
        return domain

    def _warn_far(self, values: np.ndarray, given: Mapping[str, Any]) -> None:
        """Warn of a number given where no row can be expected: what follows from it is a guess."""
        domain, model = self._mixed(), self._scorer()
        with torch.no_grad():
            u = model.encode_drawn(domain.to_tensor(values).to(model.device))[0].abs().cpu().numpy()
        for name in given:
            j = domain.check_name(name)
            far = np.flatnonzero(u[:, j] > _FAR)
            if len(far) and not domain.schema.features()[j].levels:
                value = domain.schema[name].decode(values[far[:1], j])[0]
                warnings.warn(
                    f"{name}={value} lies far from all rows that the model was fitted to: what is drawn "
                    "given it says little",
                    UserWarning,
                    stacklevel=4,
                )

    def _generator(self, random_state: Any) -> torch.Generator:
        rng = check_random_state(self.random_state if random_state is None else random_state)
        return torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))

    def _completions(self, values: np.ndarray, n: int, generator: torch.Generator) -> np.ndarray:
        """Rows, checked before, with every missing cell drawn given the others, n times, ``(n, N, D)``."""
        full, model = np.repeat(values[None], n, 0), self._scorer()
        holes, size = np.flatnonzero(np.isnan(values).any(1)), max(1, _ROWS // n)
        with torch.no_grad(), showing(bool(self.verbose)):
            for start in track(range(0, len(holes), size), "fill"):
                rows = holes[start : start + size]
                u = model.encode_drawn(self.domain_.to_tensor(values[rows]).to(model.device))[0]
                drawn = latent_model(model).completions(u, n, generator)
                back = model.decode(drawn.flatten(0, 1)).cpu().numpy().reshape(n, len(rows), -1)
                full[:, rows] = np.where(np.isnan(values[rows]), back, values[rows])
        return full

    def _score(self, values: np.ndarray) -> np.ndarray:
        """Log-density of encoded rows, nats."""
        self._check_missing(values)
        return log_sum_exp(self._joint_of(values))

    def _level_scores(self, values: np.ndarray, column: int) -> np.ndarray:
        """`level_scores` of encoded rows."""
        levels = self._mixed().schema.features()[column].levels
        values = values.copy()
        values[:, column] = 0.0
        self._check_missing(values)
        scorer = self._scorer()
        inner = latent_model(scorer)

        def of_levels(u: Tensor) -> Tensor:
            found, u = [], u.clone()
            for level in range(levels):
                u[:, column] = level
                found.append(inner.log_prob(u))
            return torch.stack(found, 1)

        result = np.empty((len(values), levels))
        with torch.no_grad():
            for rows in self._blocks(len(values), levels * scorer.evaluations, "score"):
                x = self.domain_.to_tensor(values[rows]).to(scorer.device)
                result[rows] = scorer.averaged(of_levels, x).cpu().numpy()
        return result


def conditionals_of(estimator: FittedDensity) -> Conditionals:
    """A fitted estimator as one that has conditionals.

    Raises:
        ConfigError: a model whose marginals are not known.
    """
    check_is_fitted(estimator)
    if (
        isinstance(estimator, Conditionals)
        and isinstance(estimator.domain_, MixedDomain)
        and estimator.latent_.fills
    ):
        return estimator
    raise ConfigError(
        "filled cells and conditionals need the marginals of a model, which a tree of states has: fit with "
        "latent='tree' (and latent_options={'likelihood': 'leaves'} for those of numbers too, or "
        "{'likelihood': 'flow', 'proposal': True} for estimates of them), or model='latent-flow'"
    )
