"""A fitted density: log-densities of rows, by blocks, in the precision and on the device of scores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.densities import Preprocessed
from modeflow.domains import Domain, Encoded
from modeflow.domains.base import Likelihood
from modeflow.errors import ConfigError, DataError
from modeflow.estimators.parameters import Grouped
from modeflow.estimators.settings import latent_model
from modeflow.estimators.stacking import Stacked, described
from modeflow.estimators.storage import Stored
from modeflow.latents import Gaps, LatentModel, Refinement, inference_gaps
from modeflow.progress import showing, track
from modeflow.training import resolve_device, shield
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.ode import halve_steps, has_solver

__all__ = ["ScoredDensity", "log_sum_exp"]

# Fewest rows scored at once, and evaluations that make a block: fewer rows where each is evaluated in many
# states and at many offsets, so that a block is a progress bar's step.
_FEWEST_ROWS, _EVALUATIONS = 256, 131_072


class ScoredDensity(Stored, DensityMixin, Grouped):
    """What an estimator says of rows once it is fitted; not for direct use."""

    #: What its rows are; of several kinds, the first where nothing speaks for another.
    domain: ClassVar[type[Domain]]
    domains: ClassVar[tuple[type[Domain], ...]] = ()

    device: str
    random_state: Any
    verbose: bool
    #: Offsets over which rows on lattices are averaged.
    score_draws: int = 1

    def _set_fitted(self, model: Preprocessed, domain: Domain) -> None:
        model.draws = self.score_draws
        self.model_ = model.eval()
        self.domain_ = domain
        self.latent_: LatentModel = latent_model(model)
        self.weights_ = self.latent_.state_probs().double().cpu().numpy()
        self.n_states_ = len(self.weights_)
        kind = domain.scored_in
        self._scorer_model = model if kind is None else copy.deepcopy(model).to(kind).eval()

    def coarse(self, score_draws: int) -> Self:
        """The same density, scored over fewer offsets of lattices: sooner, and a little less surely, as for
        pictures. It shares the model with this one.

        Arguments:
            score_draws: offsets; no more are taken than this one takes.
        """
        check_is_fitted(self)
        other, scorer = copy.copy(self), copy.copy(self._scorer_model)
        scorer.draws = min(score_draws, scorer.draws)
        other._scorer_model = scorer
        return other

    @property
    def stacking_(self) -> Stacked | None:
        """The weights of what stands beside the model; None where it is alone."""
        beside = self.model_.beside
        return None if beside is None else described(beside)

    # -- likelihoods ----------------------------------------------------------------------------

    @property
    def density_kind_(self) -> Exactness:
        """What `score_samples` returns: ``exact``, ``lower bound`` (columns on lattices, a flow of rows with
        missing cells) or ``estimate``; of some rows it may be more, see `density_kind_of`."""
        return self.model_.exactness

    def density_kind_of(self, X: Any, offsets: bool = True) -> Exactness:
        """What `score_samples` returns of these rows: under a flow with a proposal complete ones are exact.

        Arguments:
            X: rows. offsets: False to say it of the model alone, apart from the offsets of lattices.
        """
        return self._density_kind_of(self._tensors(X), offsets)

    def _density_kind_of(self, rows: Tensor, offsets: bool = True) -> Exactness:
        model, latent = self._scorer(), self.latent_
        of_offsets: Exactness = model.transform.exactness if offsets else "exact"
        if latent.exactness in ("exact", of_offsets):  # whatever the rows say
            return weakest(of_offsets, latent.exactness)
        with torch.no_grad():
            parts = rows.split(self.domain_.block_rows)
            kinds = [latent.exactness_of(model.encode(x.to(model.device))[0]) for x in parts]
        return weakest(of_offsets, *kinds)

    @shield()
    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row, in nats and in the units of the data, shape ``(N,)``.

        With columns on a lattice (integers, cents) it is the logarithm of a probability (times a density in
        the others), as the average over `score_draws` evenly spread offsets of the row's own: a lower bound
        in expectation. Of images it is the log-probability, what z costs included.

        Raises:
            DataError: other columns or shapes than those fitted, or values that are no finite numbers.
        """
        return log_sum_exp(self._log_joint(X))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples` over the rows, nats."""
        return float(self.score_samples(X).mean())

    @shield()
    def scores(self, X: Any) -> tuple[np.ndarray, np.ndarray | None, Exactness]:
        """`score_samples`, what z costs of every row where that is told (images), nats, and what these scores
        are (`density_kind_of`)."""
        values = self._values(X)
        rows = self.domain_.to_tensor(values)
        kind = self._density_kind_of(rows)
        if not self.domain_.costs:
            return log_sum_exp(self._joint_of(values)), None, kind
        return *self._log_prob_and_cost(rows), kind

    def likelihood_of(self, X: Any) -> Likelihood:
        """Mean likelihood with its standard error and its kind: nats a row, or bits per dimension."""
        log_prob, cost, kind = self.scores(X)
        return self.domain_.summarise(log_prob, kind, cost)

    @shield()
    def log_prob_and_cost(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """`score_samples` and what z costs of it, nats, from one pass; of rows on no lattice."""
        return self._log_prob_and_cost(self._tensors(X))

    def _log_prob_and_cost(self, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        def both(model: Preprocessed, x: Tensor) -> Tensor:
            u, logabsdet = model.encode(x)
            log_prob, cost = latent_model(model).log_prob_and_cost(u)
            return torch.stack([model.lift(u, log_prob) + logabsdet, cost], 1)

        log_prob, cost = self._each_of(rows, "score", both).astype(np.float64).T
        return log_prob, cost

    @shield()
    def solver_differences(self, X: Any) -> np.ndarray | None:
        """How halving the steps of a solver changes `score_samples` of each row, nats, shape ``(N,)``.

        None for a density in which no solver takes part. Of a differential equation (`ffjord`, `score-sde`)
        the steps decide the number, which is hence an estimate; the difference is nearly its error.
        """
        check_is_fitted(self)
        if not has_solver(self.model_):
            return None
        values = self._values(X)
        finer = self._joint_of(values, halve_steps(self._scorer()))
        return log_sum_exp(finer) - log_sum_exp(self._joint_of(values))

    @shield()
    def bounds(self, X: Any) -> dict[str, Any]:
        """Both bounds of a continuous latent: the evidence lower bound and, tighter, IWAE with its draws.

        Returns:
            ``elbo`` and ``iwae``, as `likelihood` each, and ``draws``.

        Raises:
            ConfigError: for another latent, whose density is a sum, or columns on lattices, whose score is
                an average over offsets as well.
        """
        check_is_fitted(self)
        self._check_bounded()

        def both(model: Preprocessed, x: Tensor) -> Tensor:
            u, logabsdet = model.encode(x)
            inner = latent_model(model)
            found = inner.both_bounds(u)
            assert found is not None
            return torch.stack([*(bound + logabsdet for bound in found), inner.latent_cost(u)], 1)

        elbo, iwae, cost = self._each(X, "bounds", both).astype(np.float64).T
        kind = self.density_kind_
        found = {name: self.domain_.summarise(b, kind, cost) for name, b in (("elbo", elbo), ("iwae", iwae))}
        return {**found, "draws": self.latent_.n_draws}

    @shield()
    def gaps(self, X: Any, steps: int = 200, draws: int = 128) -> Gaps:
        """Where the evidence lower bound of a continuous latent is lost: to the family of q, to the encoder.

        Arguments:
            X: rows; a hundred say as much as is needed, for each takes `steps` steps of its own.
            steps: to the best q of a row. draws: of z, for every mean.

        Returns:
            both gaps and the bounds that they are between, with standard errors, nats.

        Raises:
            ConfigError: as `bounds`.
        """
        check_is_fitted(self)
        self._check_bounded()
        model = self._placed()
        inner = latent_model(model)
        with torch.no_grad():
            parts = [model.encode(x.to(model.device)) for x in self._tensors(X).split(1024)]
            u, logabsdet = (torch.cat(each) for each in zip(*parts, strict=True))
            # A continuous latent is one that `inference_gaps` knows: `_check_bounded` has asked.
            return inference_gaps(cast(Any, inner), u, Refinement(steps=steps), draws, logabsdet)

    def _check_bounded(self) -> None:
        if self.latent_.describe().kind != "continuous" or self.model_.transform.exactness != "exact":
            raise ConfigError("bounds are of a continuous latent, and of rows that are on no lattice")

    # -- inside ---------------------------------------------------------------------------------

    def _scorer(self) -> Preprocessed:
        """The model in the precision of scores, on the device asked for."""
        return self._scorer_model.to(resolve_device(self.device))

    def _placed(self) -> Preprocessed:
        """The model as it was trained, on the device asked for."""
        check_is_fitted(self)
        return self.model_.to(resolve_device(self.device))

    def _tensors(self, X: Any) -> Tensor:
        return self.domain_.to_tensor(self._values(X))

    def _values(self, X: Any) -> np.ndarray:
        """Rows as the domain has them.

        Raises:
            DataError: missing cells that the model has no marginals for.
        """
        check_is_fitted(self)
        values = X.values if isinstance(X, Encoded) else self.domain_.validate(self, X)
        self._check_missing(values)
        return values

    def _check_missing(self, values: np.ndarray) -> None:
        """Refuse rows of the domain with missing cells that the model does not sum out (`DataError`)."""
        if values.dtype.kind != "f":
            return
        holes = np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(1))
        if not len(holes):
            return
        model = self._scorer()
        with torch.no_grad():
            u = model.encode(self.domain_.to_tensor(values[holes]).to(model.device))[0]
            summed = latent_model(model).sums_out(u).cpu().numpy()
        if not summed.all() and not self.domain_.of_tables:
            raise DataError(
                f"image {holes[int(summed.argmin())] + 1} has hidden pixels (NaN), which this model does not "
                "leave out: fit with model='latent-flow'"
            )
        if not summed.all():
            raise DataError(
                f"row {holes[int(summed.argmin())] + 1} has a missing cell, which the flow cannot sum out "
                "beside numbers that are there: fit with latent='tree' and latent_options={'likelihood': "
                "'leaves'} (exact) or {'likelihood': 'flow', 'proposal': True} (a lower bound), or leave "
                "such rows out"
            )

    def _log_joint(self, X: Any) -> np.ndarray:
        """``log p(x, z = k)``, averaged over the offsets of lattices, shape ``(N, n_states_)``."""
        return self._joint_of(self._values(X))

    def _joint_of(self, values: np.ndarray, model: Preprocessed | None = None) -> np.ndarray:
        """`_log_joint` of rows as the domain has them, in which cells may be missing."""
        scorer = self._scorer() if model is None else model
        inner = latent_model(scorer)
        result = np.empty((len(values), self.n_states_))
        with torch.no_grad():
            for rows in self._blocks(len(values), self.n_states_ * scorer.evaluations, "score"):
                x = self.domain_.to_tensor(values[rows]).to(scorer.device)
                result[rows] = scorer.averaged(inner.log_joint, x, inner.state_probs()).cpu().numpy()
        return result

    @shield()
    def _each(self, X: Any, what: str, function: Callable[[Preprocessed, Tensor], Tensor]) -> np.ndarray:
        """A function of every row by the model that scores, block by block."""
        return self._each_of(self._tensors(X), what, function)

    def _each_of(
        self, rows: Tensor, what: str, function: Callable[[Preprocessed, Tensor], Tensor]
    ) -> np.ndarray:
        """`_each` of rows as the model is given them."""
        model = self._scorer()
        with torch.no_grad():
            parts = [
                function(model, rows[part].to(model.device)).cpu().numpy()
                for part in self._blocks(len(rows), 1, what)
            ]
        return np.concatenate(parts)

    def _blocks(self, n: int, evaluations: int, what: str) -> Iterator[slice]:
        """Slices of n rows, each of which takes so many evaluations; a progress bar where `verbose`."""
        size = min(self.domain_.block_rows, max(_FEWEST_ROWS, _EVALUATIONS // evaluations))
        with showing(bool(self.verbose)):
            for start in track(range(0, n, size), what):
                yield slice(start, start + size)


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of the exponentials of every row, ``(N,)``; minus infinity of none."""
    top = values.max(1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(top[:, 0] + np.log(np.exp(values - top).sum(1)))
