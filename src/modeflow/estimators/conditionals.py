r"""What some columns say of others: missing cells filled, rows drawn given cells, conditional densities.

.. math:: p(x_a \mid x_b) = \frac{p(x_a, x_b)}{p(x_b)}

Both marginals are those of the model: a cell that is missing is summed or integrated out, which a tree of
states does exactly, and a latent flow by a bound; a flow over a tree where no number of the row is there, the
flow integrating to one whatever it is told (`LatentModel.sums_out`), and elsewhere by draws of a proposal
(`LatentModel.marginals`): a quotient of two bounds, and a draw from among some, are estimates.

A model that has no such marginals, flat states of numbers or a plain flow, is given them: one missing column
by quadrature, several by draws of a proposal that is fitted, when it is first needed, to rows which the model
draws itself (`modeflow.latents.Conditioned`, `modeflow.estimators.proposing`). It lives in memory alone:
neither the model nor its file change.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.densities import Preprocessed
from modeflow.domains.rows import RowDomain
from modeflow.errors import ConfigError
from modeflow.estimators.fitted import FittedDensity, log_sum_exp
from modeflow.estimators.predictions import Prediction
from modeflow.estimators.proposing import propose
from modeflow.estimators.settings import latent_model, model_features
from modeflow.estimators.surprises import surprises_of, without
from modeflow.latents import Conditioned
from modeflow.progress import showing, track
from modeflow.training import shield
from modeflow.transforms.base import Exactness

__all__ = ["Conditionals", "Prediction", "conditionals_of"]

#: Draws that a mean or a distribution of a number is taken over.
_DRAWS = 100
#: Standard units beyond which a number that is given is far from all rows.
_FAR = 8.0
#: Rows completed at once; by quadrature or a proposal.
_ROWS, _INTEGRATED = 4096, 256
#: Offsets of lattices that densities are averaged over where they are found by quadrature or a proposal.
_OFFSETS = 4


class Conditionals(FittedDensity):
    """Conditionals of the columns of a table; not for direct use."""

    @property
    def conditional_kind_(self) -> Exactness:
        """What conditionals are: ``exact``, or an ``estimate`` where marginals are bounds (a flow with a
        proposal), by quadrature or by draws (flat states, a flow), or cells are drawn from (columns on
        lattices); of some rows they may be more, see `conditional_kind_of`."""
        width = len(self._rows().names)
        alone = np.zeros((width, width))
        np.fill_diagonal(alone, np.nan)
        return self.conditional_kind_of(alone)

    def conditional_kind_of(self, values: np.ndarray) -> Exactness:
        """What conditionals are given the cells of encoded rows ``(N, D)``, NaN where missing: under a flow
        over a tree they are exact where no number is there."""
        self._rows()
        if self.model_.transform.exactness != "exact" or self.latent_.marginals != "exact":
            return "estimate"
        holes = values[np.isnan(values).any(1)]
        if not len(holes):
            return "exact"
        model = self._completing(holes, propose_too=False)
        return "estimate" if isinstance(latent_model(model), Conditioned) else "exact"

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
            ConfigError: rows that are no table's, or a `how`, m or `unseen` that is not allowed.
            DataError: other columns than those fitted, or a value that a column cannot have (row and column
                are named).
        """
        return self.fill(self._rows().known(X, unseen), X, m, how=how, random_state=random_state)

    @shield()
    def fill(
        self, values: np.ndarray, X: Any, m: int = 1, *, how: str = "draw", random_state: Any = None
    ) -> list[Any]:
        """`impute` of rows that were encoded before (`RowDomain.known`); X is their table."""
        if how not in ("draw", "mean"):
            raise ConfigError(f"how='{how}' is not known: use 'draw' or 'mean'")
        if not isinstance(m, (int, np.integer)) or m < 1 or (how == "mean" and m > 1):
            raise ConfigError(f"m must be 1 or more (1 with how='mean'), received {m!r}")
        domain = self._rows()
        generator = self._generator(random_state)
        if how == "draw":  # one after the other: each has points of its own in the cells of lattices
            drawn = (self._completions(values, 1, generator)[0] for _ in range(int(m)))
            return [domain.filled(rows, X) for rows in drawn]
        missing = np.isnan(values)
        holes = np.flatnonzero(missing.any(1))
        filled = values.copy()
        if len(holes):
            draws = self._completions(values[holes], _DRAWS, generator)
            for j in range(values.shape[1]):
                empty = missing[holes, j]
                filled[holes[empty], j] = domain.middle(j, draws[:, empty, j])
        return [domain.filled(filled, X)]

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
            ConfigError: an unknown column, another number of values, or rows that are no table's.
            DataError: a value that its column cannot have.
        """
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        domain = self._rows()
        values = domain.given(given, int(n_samples))
        self._warn_far(values, given)
        drawn = self._completions(values, 1, self._generator(random_state))[0]
        return domain.completed(drawn, values)

    def log_prob_given(
        self, X: Any, of: str | Sequence[str], given: str | Sequence[str] | None = None
    ) -> np.ndarray:
        """``log p(x_of | x_given)`` of every row, nats, ``(N,)``; other columns are summed out. NaN where a
        column given cannot have its value, of which nothing follows.

        As the difference of two log-densities: where these are bounds, an estimate (`conditional_kind_`).
        Where the model has no marginal, one column is integrated out by quadrature, right to a few
        thousandths of a nat, and several by draws of a proposal: each such marginal is a lower bound in
        expectation, their difference an estimate.

        Arguments:
            X: rows. of: a name or names of columns. given: of others; all others if None, none if empty.

        Raises:
            ConfigError: an unknown name, one that is in both, or rows that are no table's.
            DataError: as of `score_samples`.
        """
        domain = self._rows()
        names = domain.names
        of = [of] if isinstance(of, str) else list(of)
        given = [given] if isinstance(given, str) else given
        given = [n for n in names if n not in of] if given is None else list(given)
        for name in (*of, *given):
            domain.check_name(name)
        if both := sorted(set(of) & set(given)):
            raise ConfigError(f"column '{both[0]}' cannot be given and asked for at once")
        values = domain.validate(self, X)
        hidden = np.array([name not in of and name not in given for name in names])
        asked = np.array([name in of for name in names])
        if len(set(of)) == 1 and not hidden.any() and not np.isnan(values).any():
            column = int(asked.argmax())
            return -surprises_of(*without(self, values, [column]))[:, column]
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
            ConfigError: an unknown column, or rows that are no table's.
            DataError: a value that another column cannot have.
        """
        domain = self._rows()
        j = domain.check_name(name)
        values = domain.known(X, unseen, besides=name)
        feature = domain.features()[j]
        values[:, j] = np.nan
        if not feature.levels:
            generator = self._generator(random_state)
            draws = self._completions(values, _DRAWS, generator)[:, :, j].T
            decoded = domain.cells(j, draws.ravel()).reshape(draws.shape)
            return Prediction(name, None, None, decoded, self.conditional_kind_of(values))
        scores = self._level_scores(values, j)
        scores -= scores.max(1, keepdims=True)
        share = np.exp(scores)
        levels = domain.cells(j, np.arange(feature.levels, dtype=np.float64))
        share /= share.sum(1, keepdims=True)
        values[:, j] = 0.0  # a sum over levels is as exact as what it is of
        return Prediction(name, tuple(levels.tolist()), share, None, self.conditional_kind_of(values))

    @shield()
    def level_scores(self, name: str, X: Any = None) -> np.ndarray:
        """``log p(x_j = l, x_-j)`` of every row and every level of a column, nats, ``(N, levels)``.

        All levels of a row are averaged over the same offsets of its lattices, so that these add no noise to
        what one level has more than another.

        Arguments:
            name: of the column. X: rows, whose cells in the column are not looked at; without, the others
                are summed out, which leaves the probabilities of the levels: ``(1, levels)``.

        Raises:
            ConfigError: an unknown column, one without levels, or rows that are no table's.
            DataError: as of `score_samples`: under a flow cells missing beside numbers.
        """
        domain = self._rows()
        j = domain.check_name(name)
        if not domain.features()[j].levels:
            raise ConfigError(f"column '{name}' has no levels: it is {domain.features()[j].kind}")
        values = domain.given({}) if X is None else domain.validate(self, X)
        values[:, j] = 0.0
        self._check_missing(values)  # these are scores, of which none is an estimate unasked
        return self._level_scores(values, j)

    # -- inside ---------------------------------------------------------------------------------

    def _rows(self) -> RowDomain:
        domain = conditionals_of(self).domain_
        assert isinstance(domain, RowDomain)
        return domain

    def _completing(self, values: np.ndarray, propose_too: bool = True) -> Preprocessed:
        """The model that sums out and fills what these encoded rows lack: the one that scores where it can do
        that itself, else the same with conditionals.

        Arguments:
            propose_too: whether it has a proposal, where rows need one.
        """
        scorer = self._scorer()
        holes = values[np.isnan(values).any(1)]
        if not len(holes):
            return scorer
        with torch.no_grad():
            u = scorer.encode_drawn(self.domain_.to_tensor(holes).to(scorer.device))[0]
            inner = latent_model(scorer)
            if scorer.beside is None and inner.fills and bool(inner.sums_out(u).all()):
                return scorer
            found = self._with_conditionals(scorer)
            density = found.model
            assert isinstance(density, Conditioned)
            if propose_too and density.proposal is None and bool(density.asks(u).any()):
                with showing(bool(self.verbose)):
                    density.proposal = propose(density)
        return found

    def _with_conditionals(self, scorer: Preprocessed) -> Preprocessed:
        """The model that scores as one with conditionals, made when it is first asked for; kept in memory."""
        kept: tuple[Preprocessed, Preprocessed] | None = getattr(self, "_conditioned", None)
        if kept is None or kept[0] is not scorer:
            density = Conditioned(latent_model(scorer), model_features(self.domain_), scorer.beside)
            made = Preprocessed(scorer.transform, density, min(scorer.draws, _OFFSETS))
            kept = self._conditioned = scorer, made.eval()
        return kept[1]

    def _warn_far(self, values: np.ndarray, given: Mapping[str, Any]) -> None:
        """Warn of a number given where no row can be expected: what follows from it is a guess."""
        domain, model = self._rows(), self._scorer()
        with torch.no_grad():
            u = model.encode_drawn(domain.to_tensor(values).to(model.device))[0].abs().cpu().numpy()
        for name in given:
            j = domain.check_name(name)
            far = np.flatnonzero(u[:, j] > _FAR)
            if len(far) and not domain.features()[j].levels:
                value = given[name]  # as it was given: what is drawn keeps to a range, which it may not
                if isinstance(value, (list, tuple, np.ndarray)):
                    value = value[int(far[0]) if len(value) > 1 else 0]
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
        full, model = np.repeat(values[None], n, 0), self._completing(values)
        with torch.no_grad(), showing(bool(self.verbose)):
            pieces = self._pieces(values, n, model)
            total = float(sum(rows.size for rows, _ in pieces))
            for rows, times in track(pieces, "fill", total, lambda each: each[0].size):
                part = self.domain_.to_tensor(values[rows[:, 0]])
                u = model.encode_drawn(part.to(model.device))[0]
                drawn = latent_model(model).completions(u, n * times, generator)
                back = model.decode(drawn.flatten(0, 1)).cpu().numpy().reshape(times, n, len(rows), -1)
                for i in range(times):
                    there = rows[:, i]
                    full[:, there] = np.where(np.isnan(values[there]), back[i], values[there])
        return full

    def _pieces(self, values: np.ndarray, n: int, model: Preprocessed) -> list[tuple[np.ndarray, int]]:
        """Rows with missing cells that are filled together, ``(R, T)``, those of a line being equal, and T.

        Where cells come from quadrature or a proposal, rows that are equal share what is found of one.
        """
        holes = np.flatnonzero(np.isnan(values).any(1))
        if not isinstance(model.model, Conditioned):
            size = max(1, _ROWS // n)
            return [(holes[i : i + size, None], 1) for i in range(0, len(holes), size)]
        _, first, counts = np.unique(
            np.nan_to_num(values[holes], nan=np.inf), axis=0, return_inverse=True, return_counts=True
        )
        order, found = holes[np.argsort(first.ravel(), kind="stable")], []
        ends, size = counts.cumsum(), max(1, _INTEGRATED // n)
        for times in np.unique(counts):
            starts = (ends - counts)[counts == times]
            lines = order[starts[:, None] + np.arange(times)]
            found += [(lines[i : i + size], int(times)) for i in range(0, len(lines), size)]
        return found

    def _score(self, values: np.ndarray) -> np.ndarray:
        """Log-density of encoded rows, nats; missing cells are summed out."""
        model = self._completing(values)
        if not isinstance(model.model, Conditioned):
            return log_sum_exp(self._joint_of(values))
        found = np.empty(len(values))
        with torch.no_grad(), showing(bool(self.verbose)):
            for start in track(range(0, len(values), _INTEGRATED), "score"):
                rows = slice(start, start + _INTEGRATED)
                x = self.domain_.to_tensor(values[rows]).to(model.device)
                found[rows] = model.log_prob(x).cpu().numpy()
        return found

    def _level_scores(self, values: np.ndarray, column: int) -> np.ndarray:
        """`level_scores` of encoded rows."""
        levels = self._rows().features()[column].levels
        values = values.copy()
        values[:, column] = 0.0
        scorer = self._completing(values)
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
        ConfigError: rows that are no table's.
    """
    check_is_fitted(estimator)
    if isinstance(estimator, Conditionals) and isinstance(estimator.domain_, RowDomain):
        return estimator
    raise ConfigError(
        f"filled cells and conditionals are of tables, and the model is one of {estimator.domain_.word}s: "
        "hidden pixels are filled by modeflow inpaint, of a fit with model='latent-flow'"
    )
