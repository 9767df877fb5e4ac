"""What all estimators share, whatever a row is: fitting, in the manner of scikit-learn."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight

from modeflow.domains import Domain
from modeflow.domains.base import held_out
from modeflow.errors import ConfigError, DataError
from modeflow.estimators.ensembles import Order, fit_finalists
from modeflow.estimators.fitted import FittedDensity
from modeflow.estimators.fitting import START_STEPS, FitData, Peaks, mean_one, warn_if_trivial
from modeflow.estimators.selection import Selection
from modeflow.estimators.settings import Budget, Settings
from modeflow.estimators.trials import Choice, Choices
from modeflow.latents import LatentModel
from modeflow.progress import showing
from modeflow.training import StoredRows, shield, signals_held

__all__ = ["DensityEstimator"]

#: Most steps that a latent is started for where a signal waits to be given back.
_HURRIED_STEPS = 100
#: Random splits that are tried until no column is constant in the training part.
_SPLITS = 20
#: Training rows below which `flow="auto"` takes the first without a comparison.
_FEWEST_TO_CHOOSE = 100


class DensityEstimator(FittedDensity):
    """Base of the estimators; not for direct use.

    One names its `domain`, its `budget`, its groups of parameters (`groups`), and how its latent-variable
    model is built (`build`).
    """

    #: How long it trains where it is not told.
    budget: ClassVar[Budget]

    flow: str
    validation_fraction: float

    @classmethod
    def build(cls, settings: Settings, domain: Domain, n_states: int, steps: int | None) -> LatentModel:
        """The untrained latent-variable model.

        Arguments:
            settings: its parameters. domain: of the rows. n_states: K.
            steps: of the optimiser, for schedules; None for a model that has been trained.
        """
        raise NotImplementedError

    def _kind(self, X: Any) -> type[Domain]:
        """What the rows of X are."""
        return self.domain

    def _choices(self, settings: Settings, data: FitData) -> Choices:
        """What the parameters leave open, for these rows."""
        return Choices(settings.flows)

    @shield(grad=True)
    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        validation: Any = None,
        stratify: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        resume: bool = False,
        stored: StoredRows | None = None,
    ) -> Self:
        """Fit the density to the rows of X.

        Ctrl-C and SIGTERM end the training after the step under way. The estimator is then fitted, with the
        best weights so far (``training_["interrupted"]`` is true), a run folder holds a checkpoint, and the
        signal is given back: `fit` raises KeyboardInterrupt, or does what the caller's handler or the default
        does. A second signal ends it at once.

        Arguments:
            X: an array or data frame of numbers, shape ``(N, D)``; or images of whole numbers, ``(N, H, W)``
                or ``(N, H, W, C)``.
            y: ignored (`NVFClassifier` takes labels).
            sample_weight: non-negative weights, shape ``(N,)``; rows of weight zero are dropped.
            validation: rows for early stopping and selection; by default a random share of X,
                `validation_fraction`.
            stratify: of every row a group (a number or a word), ``(N,)``: the share is then that of each
                group, up to a row.
            run_dir: folder for `metrics.jsonl` and checkpoints; none are written without it.
            resume: go on from the checkpoint in `run_dir`, if there is one.
            stored: more rows to train on than there is memory for; X is then a sample of them, from which
                all but the training is found, and `validation` must be given.

        Returns:
            self.

        Raises:
            DataError: constant columns, missing or infinite values, too few rows (columns are named); images
                of another shape, or pixels that are no whole numbers of the range.
            ConfigError: a parameter that is not allowed.
            TrainingError: a loss that is not finite, or a checkpoint that does not fit.
            KeyboardInterrupt: after Ctrl-C, when the estimator is fitted.
        """
        with signals_held(), showing(bool(self.verbose)):
            self._fit(X, sample_weight, validation, stratify, run_dir, resume, stored)
        return self

    def _fit(
        self,
        X: Any,
        sample_weight: Any,
        validation: Any,
        stratify: Any,
        run_dir: str | os.PathLike[str] | None,
        resume: bool,
        stored: StoredRows | None,
    ) -> None:
        if stored is not None and (validation is None or sample_weight is not None):
            raise ConfigError("stored rows are fitted without weights, and with validation= given")
        rng = check_random_state(self.random_state)
        settings = Settings.of(self, int(rng.randint(2**31 - 1)))
        domain, values = self._kind(X).learn(self, X)
        settings.stacks(domain)  # refused before anything takes time
        weight = _weights(sample_weight, values)
        strata = _strata(stratify, len(values))
        if weight is not None:
            used = weight > 0
            values, weight = values[used], weight[used]
            strata = None if strata is None else strata[used]
        data = self._split(values, weight, validation, strata, domain, settings)
        if stored is not None:
            domain.confirm(stored.blocks())
            data = replace(data, stored=stored)
        domain.warn(data.train, settings.trained.precision, settings.bare)

        folder = None if run_dir is None else Path(run_dir)
        quiet = not self.verbose
        choices, peaks, selection, stopped = self._choose(settings, data, folder, quiet, resume)
        orders = [
            Order(
                settings.with_recipe(choice.flow, choice.n_states),
                data,
                choice.n_states,
                # A choice that was interrupted may end otherwise when it is resumed: no checkpoint is kept.
                None if stopped or folder is None else folder / place,
                quiet,
                resume,
                peaks,
                _HURRIED_STEPS if stopped else START_STEPS,
                stopped,
                place,
            )
            for choice, place in zip(choices, ("", "second"), strict=False)
        ]
        order, fitted = fit_finalists(orders, int(settings.params.get("n_jobs", 1)))
        if order is not orders[0] and selection is not None:
            selection.take(choices[-1])
        self.selection_ = [trial.to_dict() for trial in selection.trials.values()] if selection else []
        built = order.settings.params
        self.flow_, self.flow_options_ = str(built["flow"]), dict(built["flow_options"])
        left = [name for name in ("latent", "latent_options") if built.get(name) != settings.params.get(name)]
        self.chosen_ = {name: built[name] for name in left}
        if fitted.members < order.members:  # interrupted
            self.chosen_ = {**self.chosen_, "ensemble": fitted.members}
        self._set_fitted(fitted.model, domain)
        self.beside_ = fitted.aside
        self.dead_states_ = fitted.dead
        kind = self._density_kind_of(data.held)
        held = domain.summarise(fitted.score, kind, fitted.cost, data.validation_weight)
        self.validation_ = held.to_dict()
        warn_if_trivial(data, fitted.score)
        self.history_ = fitted.history.epochs
        second = {} if fitted.second is None else {"second": fitted.second}
        self.training_ = {**fitted.history.summary(), **second}

    def _choose(
        self, settings: Settings, data: FitData, folder: Path | None, quiet: bool, resume: bool
    ) -> tuple[list[Choice], Peaks | None, Selection | None, bool]:
        """The flow and the number of states, and what may yet be better; islands of the training rows;
        what compared them; whether interrupted."""
        left = self._choices(settings, data)
        few = len(data.train) < _FEWEST_TO_CHOOSE
        if few:
            left = replace(left, flows=left.flows[:1], rivals=(), other_trees=False)
        if left.only is not None:
            return [left.only], None, None, False
        selection = Selection(settings, data, folder, quiet, resume)
        choice = selection.run(left)
        peaks = selection.peaks_of_first(len(data.train))
        second = selection.second(choice)
        choices = [choice] if second is None else [choice, second]
        return choices, peaks, selection, selection.interrupted

    def _split(
        self,
        values: np.ndarray,
        weight: np.ndarray | None,
        validation: Any,
        strata: np.ndarray | None,
        domain: Domain,
        settings: Settings,
    ) -> FitData:
        if validation is not None:
            return FitData(values, domain.validation(validation), mean_one(weight), None, domain)
        for seed in range(settings.seed, settings.seed + _SPLITS):
            rest, held = held_out(len(values), self.validation_fraction, seed, domain.word, strata)
            try:
                domain.check_training(values[rest])
                break
            except DataError:  # all that is rare in a column is held out
                if seed == settings.seed + _SPLITS - 1:
                    raise
        parts = (None, None) if weight is None else (weight[rest], weight[held])
        return FitData(values[rest], values[held], mean_one(parts[0]), mean_one(parts[1]), domain)


def _strata(stratify: Any, rows: int) -> np.ndarray | None:
    """The groups of rows as numbers."""
    if stratify is None:
        return None
    found = np.unique(np.asarray(stratify), return_inverse=True)[1]
    if found.shape != (rows,):
        raise DataError(f"stratify has shape {np.shape(stratify)}; it needs a group for each of {rows} rows")
    return np.asarray(found)


def _weights(sample_weight: Any, values: np.ndarray) -> np.ndarray | None:
    if sample_weight is None:
        return None
    flat = values.reshape(len(values), -1)
    weight = np.asarray(_check_sample_weight(sample_weight, flat, dtype=np.float64))
    if (weight < 0).any():
        raise DataError(f"sample_weight must not be negative: row {int((weight < 0).argmax()) + 1} is")
    if not weight.sum() > 0:
        raise DataError("sample_weight is zero for every row")
    return weight
