"""What both estimators share: fitting, scoring, sampling, saving, in the manner of scikit-learn."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from modeflow.data import Schema, check_fit_table
from modeflow.data.table import check_finite, default_columns
from modeflow.densities import Preprocessed
from modeflow.errors import ConfigError, DataError, ModelFileError
from modeflow.estimators.fitting import ENCODER_STEPS, Fit, FitData, Peaks, mean_one, warn_of_lost_digits
from modeflow.estimators.frames import as_frame, frame_kind, refuse_text
from modeflow.estimators.selection import Choice, Selection
from modeflow.estimators.settings import Settings, as_tensor, build_model, latent_model
from modeflow.estimators.storage import Stored, plain_value, save_estimator, stored_params
from modeflow.estimators.trivial import warn_worse_than_gaussians
from modeflow.flows import FLOWS
from modeflow.metrics import LogLikelihood, summarise
from modeflow.progress import showing, track
from modeflow.training import resolve_device, seeded, shield, signals_held
from modeflow.transforms.base import Exactness, weakest
from modeflow.transforms.ode import halve_steps, has_solver

__all__ = ["DensityEstimator", "blocks", "training_summary"]

# Rows scored at once: bounds memory. Fewer where each is evaluated in many states and at many offsets, so
# that a block is a progress bar's step.
_ROWS, _FEWEST_ROWS, _EVALUATIONS = 8192, 256, 131_072
#: Most steps that the encoder is fitted to the islands for where a signal waits to be given back.
_HURRIED_STEPS = 100
#: Training rows below which `flow="auto"` takes the first without a comparison.
_FEWEST_TO_CHOOSE = 100


class DensityEstimator(Stored, DensityMixin, BaseEstimator):
    """Base of `NVF` and `FlowDensity`; not for direct use."""

    #: Fixed K of the estimator; None where `n_states` is a parameter.
    _fixed_states: ClassVar[int | None] = None
    #: Library of the data frame that was fitted; None for an array.
    _frame_kind: str | None = None

    # -- fitting --------------------------------------------------------------------------------

    @shield(grad=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit the density to the rows of X.

        Ctrl-C and SIGTERM end the training after the step under way. The estimator is then fitted, with the
        best weights so far (``training_["interrupted"]`` is true), a run folder holds a checkpoint, and the
        signal is given back: `fit` raises KeyboardInterrupt, or does what the caller's handler or the default
        does. A second signal ends it at once.

        Arguments:
            X: array or data frame, shape ``(N, D)``; numbers only.
            y: ignored.
            sample_weight: non-negative weights, shape ``(N,)``; rows of weight zero are dropped.
            validation: rows for early stopping and selection; by default a random share of X,
                `validation_fraction`.
            run_dir: folder for `metrics.jsonl` and checkpoints; none are written without it.
            resume: go on from the checkpoint in `run_dir`, if there is one.

        Returns:
            self.

        Raises:
            DataError: constant columns, missing or infinite values, too few rows (columns are named).
            ConfigError: a parameter that is not allowed.
            TrainingError: a loss that is not finite, or a checkpoint that does not fit.
            KeyboardInterrupt: after Ctrl-C, when the estimator is fitted.
        """
        with signals_held(), showing(bool(self.verbose)):
            self._fit(X, sample_weight, validation, run_dir, resume)
        return self

    def _fit(
        self,
        X: Any,
        sample_weight: Any,
        validation: Any,
        run_dir: str | os.PathLike[str] | None,
        resume: bool,
    ) -> None:
        kind = frame_kind(X)
        rng = check_random_state(self.random_state)
        settings = Settings(self.get_params(deep=False), int(rng.randint(2**31 - 1)))
        values = self._matrix(X, reset=True)
        weight = _weights(sample_weight, values)
        if weight is not None:
            values, weight = values[weight > 0], weight[weight > 0]
        columns = self._columns()
        schema = Schema.infer(values, columns, self.dequantize)
        check_fit_table(values, columns, schema=schema)
        if getattr(FLOWS.get(str(self.flow).lower()), "event", "") == "image":
            _refuse_bare_pixels(values, schema)
        data = self._split(values, weight, validation, schema, settings)
        warn_of_lost_digits(data, settings)

        folder = None if run_dir is None else Path(run_dir)
        quiet = not self.verbose
        choice, peaks, self.selection_, stopped = self._choose(settings, data, folder, quiet, resume)
        # A choice that was interrupted may end otherwise when it is resumed: no checkpoint of it is kept.
        home = None if stopped else folder
        best = Fit(
            settings.with_flow(choice.flow),
            data,
            choice.n_states,
            home,
            quiet,
            resume,
            peaks,
            encoder_steps=_HURRIED_STEPS if stopped else ENCODER_STEPS,
        )
        history = best.run(0 if stopped else None)
        history.interrupted |= stopped
        best.settle()
        # Whoever ended the training early does not wait for a pass over all training rows.
        dead = best.finish(prune=not history.interrupted)
        score = best.validation_log_prob()
        self.flow_ = str(best.settings.params["flow"])
        self.flow_options_ = dict(best.settings.params["flow_options"])
        self._set_fitted(best.model, schema)
        self._frame_kind = kind
        self.dead_states_ = dead
        self.validation_ = summarise(score, self.density_kind_, data.validation_weight).to_dict()
        warn_worse_than_gaussians(data, settings.seed, score)
        self.history_ = history.epochs
        self.training_ = training_summary(history)

    def _choose(
        self, settings: Settings, data: FitData, folder: Path | None, quiet: bool, resume: bool
    ) -> tuple[Choice, Peaks | None, list[dict[str, Any]], bool]:
        """The flow and the number of states, islands of the training rows, trials, whether interrupted."""
        k = 1 if settings.continuous else self._fixed_states or self.n_states
        flows = settings.flows
        if settings.continuous or data.train.shape[1] == 1:  # no comparison; of one column all are the same
            flows = flows[:1]
        if k != "auto" and (len(flows) == 1 or len(data.train) < _FEWEST_TO_CHOOSE):
            return Choice(flows[0], int(cast(int, k))), None, [], False
        selection = Selection(settings, data, folder, quiet, resume)
        choice = selection.run(flows, k)
        peaks = selection.peaks(np.arange(len(data.train)))
        trials = [trial.to_dict() for trial in selection.trials.values()]
        return choice, peaks, trials, selection.interrupted

    def _split(
        self,
        values: np.ndarray,
        weight: np.ndarray | None,
        validation: Any,
        schema: Schema,
        settings: Settings,
    ) -> FitData:
        if validation is not None:
            held = schema.validate(*_plain(validation, "validation"))
            return FitData(values, held, mean_one(weight), None, schema)
        n = len(values)
        count = min(max(round(self.validation_fraction * n), 1), n - 2)
        order = np.random.default_rng(settings.seed).permutation(n)
        held_rows, rest = order[:count], np.sort(order[count:])
        parts = (None, None) if weight is None else (weight[rest], weight[held_rows])
        train = values[rest]
        constant = train.min(0) == train.max(0)
        if constant.any():  # differs in the held-out rows alone: no scale can be learned
            raise DataError(
                f"column '{schema.columns[int(constant.argmax())]}' is constant in the training part; "
                "drop it or pass validation="
            )
        return FitData(train, values[held_rows], mean_one(parts[0]), mean_one(parts[1]), schema)

    def _set_fitted(self, model: Preprocessed, schema: Schema) -> None:
        self.model_ = model.eval()
        self.schema_ = schema
        self.weights_ = latent_model(model).state_probs().double().cpu().numpy()
        self.n_states_ = len(self.weights_)
        # In double precision a score depends on its row alone, not on the batch around it.
        self._scorer_model = copy.deepcopy(model).double().eval()

    # -- using ----------------------------------------------------------------------------------

    @property
    def density_kind_(self) -> Exactness:
        """What `score_samples` returns: ``exact``, ``lower bound`` (columns on lattices) or ``estimate``."""
        return weakest(self.model_.exactness, "lower bound" if self.schema_.lattice_columns else "exact")

    @property
    def latent_features_(self) -> int:
        """Dimensions of a continuous latent; 0 where the latent is discrete."""
        latent = latent_model(self.model_).describe()
        return latent.count if latent.kind == "continuous" else 0

    @shield()
    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row, in nats and in the units of the data, shape ``(N,)``.

        With columns on a lattice (integers, cents) it is the logarithm of a probability (times a density in
        the others), as the average over `score_draws` evenly spread offsets of the row's own: a lower bound
        in expectation.

        Raises:
            DataError: other columns than those fitted, or values that are no finite numbers.
        """
        return _logsumexp(self._log_joint(X))

    def solver_differences(self, X: Any) -> np.ndarray | None:
        """How halving the steps of a solver changes `score_samples` of each row, nats, shape ``(N,)``.

        None for a density in which no solver takes part. Of a differential equation (`ffjord`, `score-sde`)
        the steps decide the number, which is hence an estimate; the difference is nearly its error.
        """
        check_is_fitted(self)
        if not has_solver(self.model_):
            return None
        return _logsumexp(self._log_joint(X, halve_steps(self._scorer()))) - self.score_samples(X)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples` over the rows, nats."""
        return float(self.score_samples(X).mean())

    def likelihood(self, X: Any) -> LogLikelihood:
        """Mean log-density with its standard error and its kind."""
        return summarise(self.score_samples(X), self.density_kind_)

    @shield()
    def predict_proba(self, X: Any) -> np.ndarray:
        """Posterior probability of each state, ``p(z = k | x)``, shape ``(N, n_states_)``.

        A row whose density is zero under every state says nothing of z: its posterior is the prior,
        `weights_`.
        """
        joint = self._informed(self._log_joint(X))
        proba = np.exp(joint - _logsumexp(joint)[:, None])
        return np.asarray(proba / proba.sum(1, keepdims=True))

    @shield()
    def predict(self, X: Any) -> np.ndarray:
        """The most probable state of each row, shape ``(N,)``."""
        return self._informed(self._log_joint(X)).argmax(1)

    def _informed(self, joint: np.ndarray) -> np.ndarray:
        """`_log_joint`, with the prior for rows that no state gives any density."""
        none = (joint == -np.inf).all(1, keepdims=True)
        return np.where(none, np.log(self.weights_), joint)

    @shield()
    def encode(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Where each row lies on a continuous latent: mean and standard deviation of q(z | x), ``(N, L)``.

        Raises:
            ConfigError: for a discrete latent, whose posterior is `predict_proba`.
        """
        check_is_fitted(self)
        values = self.schema_.validate(self._matrix(X, reset=False))
        scorer = self._scorer()
        inner = latent_model(scorer)
        if not self.latent_features_:
            raise ConfigError("the latent is discrete: use predict_proba or predict")
        parts = []
        with torch.no_grad():
            for rows in self._blocks(len(values)):
                both = inner.read_spread(scorer.encode(as_tensor(values[rows]).to(scorer.device))[0])
                parts.append(torch.stack(cast(tuple[torch.Tensor, torch.Tensor], both)))
        mean, spread = torch.cat(parts, 1).cpu().numpy()
        return mean, spread

    @shield()
    def bounds(self, X: Any) -> dict[str, Any]:
        """Both bounds of a continuous latent: the evidence lower bound and, tighter, IWAE with `score_draws`.

        Returns:
            ``elbo`` and ``iwae``, a `LogLikelihood` each, and ``draws``.

        Raises:
            ConfigError: for a discrete latent, whose density is a sum, or columns on lattices, whose score is
                an average over offsets as well.
        """
        check_is_fitted(self)
        if not self.latent_features_ or self.schema_.lattice_columns:
            raise ConfigError("bounds are of a continuous latent and continuous columns")
        values = self.schema_.validate(self._matrix(X, reset=False))
        scorer = self._scorer()
        inner = latent_model(scorer)
        parts = []
        with torch.no_grad():
            for rows in self._blocks(len(values)):
                u, logabsdet = scorer.encode(as_tensor(values[rows]).to(scorer.device))
                both = cast(tuple[torch.Tensor, torch.Tensor], inner.both_bounds(u))
                parts.append(torch.stack(both, 1) + logabsdet.unsqueeze(1))
        elbo, iwae = torch.cat(parts).cpu().numpy().T
        kind = self.density_kind_
        return {"elbo": summarise(elbo, kind), "iwae": summarise(iwae, kind), "draws": inner.n_draws}

    def fit_predict(self, X: Any, y: Any = None, **options: Any) -> np.ndarray:
        """Fit, then `predict` on the same rows."""
        return self.fit(X, y, **options).predict(X)

    @shield()
    def sample(
        self,
        n_samples: int = 1,
        *,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
        random_state: Any = None,
    ) -> tuple[Any, np.ndarray]:
        """Draw rows from the fitted density.

        Arguments:
            n_samples: how many.
            state: only from this state.
            temperature: of the flow's noise: 1 samples the density, less gives likelier rows.
            prior_temperature: of z: probabilities of states to its inverse's power.
            random_state: seed of the drawing; the estimator's own if None.

        Returns:
            rows ``(n_samples, D)`` in the units of the data, and the state that each came from. Rows are an
            array, or, where `fit` was given a data frame of pandas or polars, such a frame with the same
            columns, those of whole numbers as integers.

        Raises:
            ConfigError: fewer than one sample, no such state, or a temperature not allowed or of no use.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, (int, np.integer)) or n_samples < 1:
            raise ConfigError(f"n_samples must be an integer of 1 or more, received {n_samples!r}")
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        model = self.model_
        with showing(bool(self.verbose)):
            u, states = latent_model(model).sample_with_states(
                int(n_samples), generator, state, temperature, prior_temperature
            )
            rows = self.schema_.quantize(model.decode(u.double()).cpu().numpy())
        return as_frame(rows, self.schema_, self._frame_kind), states.cpu().numpy()

    # -- saving ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the fitted estimator to one safetensors file; returns its path.

        Equal estimators make equal files: of `history_` and `training_` the times are left out.

        Raises:
            DataError: if the path cannot be written.
            ModelFileError: if a parameter is not plain data.
        """
        check_is_fitted(self)
        content = {
            "class": type(self).__name__,
            "params": stored_params(self),
            "built": plain_value({"flow": self.flow_, "flow_options": self.flow_options_}),
            "schema": self.schema_.to_dict(),
            "named_columns": hasattr(self, "feature_names_in_"),
            "frame": self._frame_kind,
            "n_states": latent_model(self.model_).n_states,
            "fitted": {name: getattr(self, name) for name in _KEPT},
        }
        return save_estimator(path, content, self.model_.state_dict())

    @classmethod
    @shield()
    def _restore(cls, header: dict[str, Any], state: dict[str, torch.Tensor], path: str) -> Self:
        try:
            estimator = cls(**header["params"])
            schema = Schema.from_dict(header["schema"])
            params = estimator.get_params(deep=False)
            # What the parameters leave open; nothing in files of format 1, whose defaults were the recipe's.
            built = header.get("built", {})
            flow = built.get("flow") if params["flow"] == "auto" else params["flow"]
            options = {**built.get("flow_options", {}), **(params["flow_options"] or {})}
            with seeded(0):
                chosen = {**params, "flow": flow, "flow_options": options}
                model = build_model(chosen, schema.dim, int(header["n_states"]))
            estimator.flow_, estimator.flow_options_ = flow, options
            model.load_state_dict(state)
            estimator._set_fitted(model, schema)
            estimator._frame_kind = header.get("frame")
            for name in _KEPT:
                setattr(estimator, name, header["fitted"][name])
            if header["named_columns"]:
                estimator.feature_names_in_ = np.array(schema.columns, dtype=object)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"'{path}' is damaged or foreign: {reason}") from error
        estimator.n_features_in_ = schema.dim
        return estimator

    # -- inside ---------------------------------------------------------------------------------

    def _matrix(self, X: Any, reset: bool) -> np.ndarray:
        refuse_text(X, "X")
        values = validate_data(
            self,
            X,
            reset=reset,
            dtype=np.float64,
            ensure_all_finite=False,
            ensure_min_samples=2 if reset else 1,
        )
        check_finite(values, self._columns(), "X")
        return values

    def _columns(self) -> tuple[str, ...]:
        names = getattr(self, "feature_names_in_", None)
        return default_columns(self.n_features_in_) if names is None else tuple(map(str, names))

    def _scorer(self) -> Preprocessed:
        """The model in double precision, on the device asked for."""
        return self._scorer_model.to(resolve_device(self.device))

    def _log_joint(self, X: Any, model: Preprocessed | None = None) -> np.ndarray:
        """``log p(x, z = k)``, averaged over the offsets of lattices, shape ``(N, n_states_)``."""
        check_is_fitted(self)
        values = self.schema_.validate(self._matrix(X, reset=False))
        scorer = self._scorer() if model is None else model
        inner = latent_model(scorer)

        @torch.no_grad()
        def log_joint(rows: np.ndarray) -> np.ndarray:
            u, logabsdet = scorer.encode(as_tensor(rows).to(scorer.device))
            return np.asarray((inner.log_joint(u) + logabsdet.unsqueeze(-1)).cpu().numpy())

        result = np.empty((len(values), self.n_states_))
        draws = self.score_draws if self.schema_.lattice_columns else 1
        for rows in self._blocks(len(values), self.n_states_ * draws):
            result[rows] = self.schema_.averaged(log_joint, values[rows], self.score_draws)
        return result

    def _blocks(self, n: int, evaluations: int = 1) -> Iterator[slice]:
        """Slices of n rows, each of which takes so many evaluations; a progress bar where `verbose`."""
        size = min(_ROWS, max(_FEWEST_ROWS, _EVALUATIONS // evaluations))
        with showing(bool(self.verbose)):
            yield from blocks(n, size, "score")


def blocks(n: int, size: int, what: str) -> Iterator[slice]:
    """Slices of `size` out of n rows, with progress (`modeflow.progress`)."""
    for start in track(range(0, n, size), what):
        yield slice(start, start + size)


#: Fitted attributes that are stored with the model.
_KEPT = ("dead_states_", "validation_", "history_", "training_", "selection_")


def training_summary(history: Any) -> dict[str, Any]:
    """How a training ended."""
    if history is None:
        return {}
    names = ("best_epoch", "best_validation", "seconds", "steps", "stopped", "interrupted")
    return {name: getattr(history, name) for name in names}


def _refuse_bare_pixels(values: np.ndarray, schema: Schema) -> None:
    if not schema.lattice_columns and (values == np.floor(values)).all():
        raise DataError(
            "pixels are whole numbers, and with dequantize='none' they would be scored by a density that has "
            "no bound there: leave dequantize at 'auto', or use ImageDensity"
        )


def _weights(sample_weight: Any, values: np.ndarray) -> np.ndarray | None:
    if sample_weight is None:
        return None
    weight = np.asarray(_check_sample_weight(sample_weight, values, dtype=np.float64))
    if (weight < 0).any():
        raise DataError(f"sample_weight must not be negative: row {int((weight < 0).argmax()) + 1} is")
    if not weight.sum() > 0:
        raise DataError("sample_weight is zero for every row")
    return weight


def _plain(X: Any, what: str) -> tuple[np.ndarray, list[str] | None]:
    """Values and column names of an array or a data frame, as `fit` reads its X: missing values are NaN."""
    names = getattr(X, "columns", None)
    refuse_text(X, what)
    values = check_array(X, dtype=np.float64, ensure_all_finite=False, input_name=what)
    return values, None if names is None else [str(name) for name in names]


def _logsumexp(values: np.ndarray) -> np.ndarray:
    top = values.max(1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(top[:, 0] + np.log(np.exp(values - top).sum(1)))
