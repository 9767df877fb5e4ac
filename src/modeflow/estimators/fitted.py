"""A fitted density: scores, states, samples, reconstructions, and the file it is kept in."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from modeflow.densities import Preprocessed
from modeflow.domains import Domain
from modeflow.domains.base import Likelihood
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.parameters import Grouped
from modeflow.estimators.settings import Settings, latent_model
from modeflow.estimators.storage import Stored, plain_value, save_estimator, stored_params
from modeflow.latents import LatentModel
from modeflow.progress import showing, track
from modeflow.training import resolve_device, seeded, shield
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.ode import halve_steps, has_solver

__all__ = ["FittedDensity", "content_of", "log_sum_exp"]

# Fewest rows scored at once, and evaluations that make a block: fewer rows where each is evaluated in many
# states and at many offsets, so that a block is a progress bar's step.
_FEWEST_ROWS, _EVALUATIONS = 256, 131_072
#: Fitted attributes that are stored with the model.
_KEPT = ("dead_states_", "validation_", "history_", "training_", "selection_")


class FittedDensity(Stored, DensityMixin, Grouped):
    """What an estimator offers once it is fitted; not for direct use."""

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
            return torch.stack([log_prob + logabsdet, cost], 1)

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
        if self.latent_.describe().kind != "continuous" or self.model_.transform.exactness != "exact":
            raise ConfigError("bounds are of a continuous latent, and of rows that are on no lattice")

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

    # -- z --------------------------------------------------------------------------------------

    @shield()
    def predict_proba(self, X: Any) -> np.ndarray:
        """Posterior probability of each state, ``p(z = k | x)``, shape ``(N, n_states_)``.

        A row whose density is zero under every state says nothing of z: its posterior is the prior,
        `weights_`.
        """
        joint = self._informed(self._log_joint(X))
        proba = np.exp(joint - log_sum_exp(joint)[:, None])
        return np.asarray(proba / proba.sum(1, keepdims=True))

    @shield()
    def predict(self, X: Any) -> np.ndarray:
        """The most probable state of each row, shape ``(N,)``."""
        return self._informed(self._log_joint(X)).argmax(1)

    def fit_predict(self, X: Any, y: Any = None, **options: Any) -> np.ndarray:
        """Fit, then `predict` on the same rows."""
        fitted: Any = self
        return np.asarray(fitted.fit(X, y, **options).predict(X))

    def _informed(self, joint: np.ndarray) -> np.ndarray:
        """`_log_joint`, with the prior for rows that no state gives any density."""
        none = (joint == -np.inf).all(1, keepdims=True)
        return np.where(none, np.log(self.weights_), joint)

    def encode(self, X: Any, return_std: bool = False) -> Any:
        """z of every row: means of q(z|x) ``(N, L)``, codes ``(N, L)``, or states ``(N,)``.

        Arguments:
            X: rows. return_std: of a continuous latent, also the standard deviation of q(z|x), ``(N, L)``.

        Raises:
            ConfigError: where `return_std` has no meaning.
        """
        check_is_fitted(self)
        if not return_std:
            return self._each(X, "encode", lambda model, x: latent_model(model).read(model.encode(x)[0]))
        if self.latent_.describe().kind != "continuous":
            raise ConfigError("the latent is not continuous: it has no standard deviation (predict_proba)")

        def moments(model: Preprocessed, x: Tensor) -> Tensor:
            found = latent_model(model).read_spread(model.encode(x)[0])
            assert found is not None
            return torch.stack(found, 1)

        both = self._each(X, "encode", moments)
        return both[:, 0], both[:, 1]

    def reconstruct(self, X: Any) -> Any:
        """Every row from its z alone: what z knows of it."""
        return self.domain_.from_tensor(
            torch.from_numpy(
                self._each(
                    X,
                    "reconstruct",
                    lambda model, x: model.decode(latent_model(model).reconstruct(model.encode(x)[0])),
                )
            )
        )

    @shield()
    def interpolate(self, a: Any, b: Any, steps: int = 8) -> np.ndarray:
        """Rows on the way from `a` to `b`, ``(N, steps, ...)``, by what z says of both.

        A continuous z moves on a line; of codes, what the encoder says of every place moves on a line, and is
        quantised; states, and rows without a latent, change at once.
        """
        if steps < 2:
            raise ConfigError(f"steps must be 2 or more, received {steps}")
        x, y = self._tensors(a), self._tensors(b)
        if len(x) != len(y):
            raise DataError(f"{len(x)} {self.domain_.word}s cannot go to {len(y)}: pass as many")
        model = self._placed()
        with torch.no_grad(), showing(bool(self.verbose)):
            u, v = (model.encode(part.to(model.device))[0] for part in (x, y))
            out = []
            for share in np.linspace(0, 1, steps).tolist():
                context = self.latent_.blend(u, v, share)
                generator = torch.Generator().manual_seed(0)
                drawn = self.latent_.decode(context, len(u), generator, temperature=0.0)
                out.append(np.asarray(self.domain_.from_tensor(model.decode(drawn))))
        return np.stack(out, 1)

    def measure_latent(self, X: Any) -> dict[str, Any]:
        """What there is to say of z on rows, as plain values; see `LatentModel.measure`."""
        model = self._placed()
        with torch.no_grad():
            u = torch.cat([model.encode(x.to(model.device))[0] for x in self._tensors(X).split(1024)])
            return latent_model(model).measure(u)

    # -- samples --------------------------------------------------------------------------------

    @shield()
    def sample(
        self,
        n_samples: int = 1,
        *,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
        like: Any = None,
        random_state: Any = None,
    ) -> tuple[Any, np.ndarray]:
        """Draw rows from the fitted density.

        Arguments:
            n_samples: how many.
            state: only from this state of a discrete latent.
            temperature: of the likelihood's noise: 1 samples the density, less gives likelier rows.
            prior_temperature: of z, where it is drawn: probabilities to its inverse's power, or the spread.
            like: rows whose z is used in the place of one drawn, in turns.
            random_state: seed of the drawing; the estimator's own if None.

        Returns:
            rows in the units of the data, and z of each (its state, numbers or codes). Rows are an array
            ``(n_samples, D)``, or, where `fit` was given a data frame of pandas or polars, such a frame with
            the same columns, those of whole numbers as integers; images are ``(n_samples, H, W, C)``, uint8.

        Raises:
            ConfigError: fewer than one sample, no such state, or a temperature not allowed or of no use.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        if prior_temperature != 1.0 and not (like is None and state is None):
            raise ConfigError("z is given, so that none is drawn: leave prior_temperature at 1")
        n, model = int(n_samples), self._placed()
        inner = latent_model(model)
        with torch.no_grad(), showing(bool(self.verbose)):
            if like is not None:
                given = model.encode(self._tensors(like).to(model.device))[0]
                rows = (torch.arange(n) % len(given)).to(model.device)
                inferred, z = inner.infer(given), inner.read(given)[rows]
                context = None if inferred is None else inferred[rows]
            elif state is not None:
                context, z = inner.draw_state(state, n)
            else:
                context, z = inner.draw(n, generator, prior_temperature)
            u = inner.decode(context, n, generator, temperature)
            # In double precision columns return to the units of their data.
            x = model.decode(u if self.domain_.scored_in is None else u.to(self.domain_.scored_in))
        return self.domain_.from_tensor(x), z.cpu().numpy()

    # -- saving ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted estimator to one safetensors file; returns its path.

        Equal estimators make equal files: of `history_` and `training_` the times are left out.

        Raises:
            DataError: if the path cannot be written.
            ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        return save_estimator(path, content_of(self), self.model_.state_dict())

    flow_: str
    flow_options_: dict[str, Any]

    def built(self) -> dict[str, Any]:
        """Parameters that say what was built, in the place of those that left it open."""
        built: dict[str, Any] = {"flow": self.flow_, "flow_options": self.flow_options_, **self.chosen_}
        if options := self.latent_.rebuild_options():
            built["latent_options"] = {**self.group("latent_options").to_dict(), **options}
        return built

    #: Other parameters that were left open, as they were chosen.
    chosen_: Mapping[str, Any] = {}

    @classmethod
    @shield()
    def _restore(cls, header: dict[str, Any], state: dict[str, Tensor], path: str) -> Self:
        try:
            estimator = cls(**header["params"])
            kinds = {kind.name: kind for kind in (*cls.domains, cls.domain)}
            domain = kinds[header["rows"]].from_dict(header["domain"])
            built = cls(**{**header["params"], **header["built"]})
            with seeded(0):
                model = Settings.of(built, 0).model(domain, int(header["n_states"]), None)
            estimator.flow_ = header["built"]["flow"]
            estimator.flow_options_ = header["built"]["flow_options"]
            own = ("flow", "flow_options")
            estimator.chosen_ = {k: v for k, v in header["built"].items() if k not in own}
            model.load_state_dict(state)
            estimator._set_fitted(model, domain)
            for name in _KEPT:
                setattr(estimator, name, header["fitted"][name])
            domain.remember(estimator)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"'{path}' is damaged or foreign: {reason}") from error
        return estimator

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
        values = self.domain_.validate(self, X)
        self._check_missing(values)
        return values

    def _check_missing(self, values: np.ndarray, given: bool = False) -> None:
        """Refuse rows of the domain with missing cells that the model does not sum out (`DataError`).

        Arguments:
            given: whether the cells that are there are those that a user gave, and the others are asked for.
        """
        holes = np.flatnonzero(np.isnan(values).any(1)) if values.dtype.kind == "f" else np.zeros(0, int)
        if not len(holes):
            return
        model = self._scorer()
        with torch.no_grad():
            u = model.encode(self.domain_.to_tensor(values[holes]).to(model.device))[0]
            summed = latent_model(model).sums_out(u).cpu().numpy()
        if not summed.all() and given:
            raise DataError(
                "under a flow rows are drawn given levels and angles, not given numbers: fit with "
                "latent='tree' and latent_options={'likelihood': 'leaves'} (exact) or {'likelihood': 'flow', "
                "'proposal': True} (an estimate)"
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
                result[rows] = scorer.averaged(inner.log_joint, x).cpu().numpy()
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


def content_of(fitted: FittedDensity) -> dict[str, Any]:
    """All of a fitted density but its tensors, as plain values for a file."""
    return {
        "class": type(fitted).__name__,
        "params": stored_params(fitted),
        "built": plain_value(fitted.built()),
        "rows": fitted.domain_.name,
        "domain": fitted.domain_.to_dict(),
        "n_states": fitted.latent_.n_states,
        "fitted": {name: getattr(fitted, name) for name in _KEPT},
    }


def log_sum_exp(values: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of the exponentials of every row, ``(N,)``; minus infinity of none."""
    top = values.max(1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(top[:, 0] + np.log(np.exp(values - top).sum(1)))
