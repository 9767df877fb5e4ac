"""One model on its way from parameters to a trained density."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeflow.densities import Preprocessed
from modeflow.densities.base import Density
from modeflow.domains import Domain
from modeflow.estimators.settings import Settings, latent_model
from modeflow.estimators.stacking import Companions, anywhere, tail_of
from modeflow.latents import LatentModel
from modeflow.latents.discrete import Relief, Survey, look
from modeflow.metrics import summarise
from modeflow.training import History, StoredRows, Trainer, seeded
from modeflow.training.state import copy_state

__all__ = [
    "START_STEPS",
    "Fit",
    "FitData",
    "Peaks",
    "companions_of",
    "encoded",
    "mean_one",
    "repeated",
    "stand_beside",
    "standardised",
    "warn_if_trivial",
]

#: Which rows were looked at, and the peaks of the density there.
Peaks = tuple[np.ndarray, Relief]

#: Most steps that networks are fitted for where a latent starts; and those it may be started for, however
#: short the training.
START_STEPS, _LEAST_START_STEPS = 2000, 200
#: Standard errors by which a density is called worse than what anybody can write down (by chance: 2 %).
_ERRORS = 2.0


@dataclass(frozen=True)
class FitData:
    """Training and validation rows in the units of the data, with weights of mean one, and their domain.

    Attributes:
        stored: all rows to train on, in a file; those of `train` are then a sample of them, by which all else
            is done.
    """

    train: np.ndarray
    validation: np.ndarray
    weight: np.ndarray | None
    validation_weight: np.ndarray | None
    domain: Domain
    stored: StoredRows | None = None

    @property
    def count(self) -> int:
        """Rows that are trained on."""
        return len(self.train) if self.stored is None else len(self.stored)

    @property
    def rows(self) -> Tensor:
        """The training rows as a model is given them."""
        return self.domain.to_tensor(self.train)

    @property
    def held(self) -> Tensor:
        """The validation rows as a model is given them."""
        return self.domain.to_tensor(self.validation)

    @property
    def holed(self) -> bool:
        """Whether a row has a missing cell."""
        return any(bool(np.isnan(values).any()) for values in (self.train, self.validation))


@dataclass
class Fit:
    """One model being trained; can be paused at an epoch and continued.

    Arguments:
        settings: the estimator's parameters.
        data: the rows.
        n_states: K.
        run_dir: folder for the log and the checkpoints, or None.
        quiet: no progress bar.
        resume: go on from the checkpoint in `run_dir`.
        peaks: the islands of some of the training rows, where they are known: which rows, and the peaks.
        looked: what fits to the same rows found of their islands, where `peaks` are not known: the first that
            looks for them leaves it for the others.
        description: what the progress bar says.
        start_steps: most steps that networks are fitted for where the latent starts.
        member: of an ensemble, from 0. Members have the same maps of columns, and draw everything else anew.
    """

    settings: Settings
    data: FitData
    n_states: int
    run_dir: Path | None = None
    quiet: bool = True
    resume: bool = False
    peaks: Peaks | None = None
    looked: list[Survey] | None = None
    description: str = ""
    start_steps: int = START_STEPS
    member: int = 0
    model: Preprocessed = field(init=False)
    history: History | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        data, settings = self.data, self.settings
        rows, weight, self._seed = data.rows, _tensor(data.weight), settings.seed
        with seeded(settings.seed):
            self.model = settings.model(data.domain, self.n_states, data.count)
            with seeded(settings.seed):  # the same maps of columns, whatever the model drew
                data.domain.fit_preprocessing(self.model.transform, rows, weight, settings.bare)
            if not self.member:
                self._begin(rows, weight)
        if self.member:
            self._seed = int(np.random.default_rng([settings.seed, self.member]).integers(2**31 - 1))
            with seeded(self._seed):
                drawn = settings.model(data.domain, self.n_states, data.count)
                self.model = Preprocessed(self.model.transform, drawn.model, drawn.draws)
                self._begin(rows, weight)
        if settings.stacks(data.domain):
            # While training is stopped early; what is best there is found when it has ended.
            with seeded(self._seed):
                share = None if data.stored is None else 1 / data.count
                tail = tail_of(self.model.transform)
                self.model.beside = anywhere(self._standard(rows, weight), tail, share)
        self._start = copy_state(self.model)
        self._trainers: dict[int, Trainer] = {}

    def _begin(self, rows: Tensor, weight: Tensor | None) -> None:
        """Start the latent on the rows."""
        standard = self._standard(rows, weight)
        if standard.is_floating_point():
            standard = standard.to(self.model.dtype)
        # A start is never much longer than the training itself.
        steps = min(self.start_steps, max(self.settings.steps(self.data.count), _LEAST_START_STEPS))
        self.latent.start(self._islands(standard), self._seed % 2**32, steps)

    def _standard(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        """Training rows in the units of the model, repeated by their weights."""
        with torch.no_grad():
            return repeated(self.model.transform(rows)[0], weight)

    @property
    def latent(self) -> LatentModel:
        """The latent-variable model that is trained."""
        return latent_model(self.model)

    def _islands(self, standard: Tensor) -> Survey | Tensor:
        if self.peaks is None:
            looks = self.latent.n_states > 1 and getattr(self.latent.starter, "looks", False)
            if self.looked is None or not looks:
                return standard
            if not self.looked:
                self.looked.append(look(standard, self._seed % 2**32))
            return self.looked[0]
        index, relief = self.peaks
        return Survey(standard.double().cpu().numpy()[index], relief)

    def run(self, until_epoch: int | None = None) -> History:
        """Train, stage by stage (until the end, or pause after an epoch); the model then holds the best
        weights so far."""
        stages = self.latent.stages
        history: History | None = None
        for number, stage in enumerate(stages):
            self.latent.at_stage(stage, number)
            last = self._train(number, stage if len(stages) > 1 else "", until_epoch)
            history = last if history is None else history.followed_by(last)
            if last.interrupted or until_epoch is not None:
                break
        self.latent.at_stage()
        assert history is not None
        self.history = history
        return history

    def _train(self, number: int, stage: str, until_epoch: int | None) -> History:
        if number not in self._trainers:
            folder = self.run_dir
            if folder is not None and number:
                folder = folder / f"stage-{number + 1}"
            name = self.description or (f"fit, {self.n_states} states" if self.n_states > 1 else "fit")
            config = replace(
                self.settings.training(self.data.count, *self.data.train.shape[1:2]), seed=self._seed
            )
            self._trainers[number] = Trainer(config, folder, self.quiet, f"{name} {stage}".strip())
        history = self._trainers[number].fit(
            self.model,
            self.data.rows if self.data.stored is None else self.data.stored,
            self.data.held,
            _tensor(self.data.weight),
            _tensor(self.data.validation_weight),
            resume=self.resume,
            until_epoch=until_epoch,
            evaluate=_evaluate,
        )
        return history.labelled(stage) if stage else history

    def settle(self) -> bool:
        """Go back to the weights training started from, where those it found are not clearly better.

        The best of many epochs on some hundred validation rows is better there by chance. The start, islands
        or a mixture of Gaussians, is given up only if the paired difference on the validation rows is above
        its standard error.

        Returns:
            whether the start was restored.
        """
        if self.history is None or self.history.best_epoch == 0:
            return False
        trained = copy_state(self.model)
        after = self._log_prob(self.data.held)
        self.model.load_state_dict(self._start)
        before = self._log_prob(self.data.held)
        gain = summarise(after - before, "exact", self.data.validation_weight)
        if not gain.value <= gain.standard_error:
            self.model.load_state_dict(trained)
            return False
        self.history.best_epoch = 0
        self.history.best_validation = self.history.epochs[0].get("validation", math.nan)
        return True

    def finish(self) -> list[int]:
        """Switch off the states that hold nothing, and say so; bring q(z|x) in line with the posterior.

        Whoever ended the training early does not wait for a pass over all training rows.
        """
        if self.latent.n_states == 1:
            return []  # before all rows are encoded for nothing
        data = self.data
        weights = _tensor(data.weight), _tensor(data.validation_weight)
        hurried = self.history is not None and self.history.interrupted
        self.model.eval()
        held = self._encoded(self.data.held)
        rows = held if hurried else self._encoded(data.rows)
        dead = self.latent.finish(rows, held, *weights, prune=not hurried)
        if dead:
            plural = "s" if len(dead) > 1 else ""
            warnings.warn(
                f"state{plural} {', '.join(map(str, dead))} of {self.n_states} held no row and "
                f"{'were' if plural else 'was'} switched off: training and validation "
                "likelihood are no worse without",
                UserWarning,
                stacklevel=3,
            )
        return dead

    def validation_scores(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Log-density of every validation row under the best weights, by one draw of the noise that whole
        numbers need, nats; and what z costs of it where that is told."""
        if not self.data.domain.costs:
            return self._log_prob(self.data.held), None
        self.model.eval()
        parts = []
        with torch.no_grad():
            for x in self._blocks(self.data.held):
                u, logabsdet = self.model.encode_drawn(x)
                log_prob, cost = self.latent.log_prob_and_cost(u)
                parts.append(torch.stack([log_prob + logabsdet, cost]))
        log_prob, cost = torch.cat(parts, 1).double().cpu().numpy()
        return log_prob, cost

    def log_prob(self, values: np.ndarray) -> np.ndarray:
        """Log-density of other rows, nats (by one draw of the noise that whole numbers need)."""
        return self._log_prob(self.data.domain.to_tensor(values))

    def _log_prob(self, rows: Tensor) -> np.ndarray:
        return log_prob_of(self.model.eval(), rows, self.data.domain.block_rows)

    def _encoded(self, rows: Tensor) -> Tensor:
        return encoded(self.model, rows, self.data.domain.block_rows)

    def _blocks(self, rows: Tensor) -> tuple[Tensor, ...]:
        return rows.split(self.data.domain.block_rows)


@torch.no_grad()
def encoded(model: Preprocessed, rows: Tensor, block_rows: int) -> Tensor:
    """Rows in the units of the model, by one draw that is a function of the row where the transform draws."""
    return torch.cat([model.encode_drawn(x)[0] for x in rows.split(block_rows)])


@torch.no_grad()
def log_prob_of(density: Density, rows: Tensor, block_rows: int) -> np.ndarray:
    """Log-densities of rows, so many at a time, ``(N,)``, float64."""
    return torch.cat([density.log_prob(x) for x in rows.split(block_rows)]).double().cpu().numpy()


def companions_of(model: Preprocessed, data: FitData, seed: int) -> Companions:
    """What may stand beside this model, and any other of these rows with the same maps of columns."""
    rows, held = (encoded(model, each, data.domain.block_rows) for each in (data.rows, data.held))
    rows, tail = repeated(rows, _tensor(data.weight)), tail_of(model.transform)
    return Companions(rows, held, data.validation_weight, seed, tail)


def stand_beside(
    model: Preprocessed, companions: Companions, block_rows: int, other: LatentModel | None = None
) -> None:
    """Have the best of them stand beside the model, and another model where there is one."""
    own = log_prob_of(latent_model(model), companions.held, block_rows)
    of_other = None if other is None else log_prob_of(other, companions.held, block_rows)
    model.beside = companions.beside(own, other, of_other).to(model.device)


def warn_if_trivial(data: FitData, log_prob: np.ndarray) -> None:
    """Warn where validation rows are likelier under what anybody can write down than under a model.

    Arguments:
        data: the rows. log_prob: of the validation rows under the model, nats, ``(M,)``.
    """
    rival = data.domain.trivial(data.train, data.validation, data.weight)
    excess = (rival.log_prob - log_prob) / rival.per_unit
    mean = summarise(excess, "exact", data.validation_weight)
    error = mean.standard_error if math.isfinite(mean.standard_error) else 0.0
    if mean.value > max(_ERRORS * error, rival.least):
        warnings.warn(
            f"the fitted density is worse than {rival.name}, by {mean.value:.3g} ± {error:.1g} {rival.unit}",
            UserWarning,
            stacklevel=4,
        )


def standardised(data: FitData, settings: Settings) -> Tensor:
    """The training rows as a model sees them, repeated by their weights."""
    rows, weight = data.rows, _tensor(data.weight)
    transform = data.domain.preprocessing()
    with seeded(settings.seed), torch.no_grad():
        data.domain.fit_preprocessing(transform, rows, weight, settings.bare)
        return repeated(transform(rows)[0], weight)


def mean_one(weight: np.ndarray | None) -> np.ndarray | None:
    """Weights of mean one, in the same proportions."""
    return None if weight is None else weight / weight.mean()


def _tensor(weight: np.ndarray | None) -> Tensor | None:
    return None if weight is None else torch.from_numpy(np.asarray(weight, dtype=np.float32))


def repeated(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Rows each as often as its weight (of mean one) says: for a start that knows no weights."""
    if weight is None:
        return rows
    until = weight.double().cumsum(0)
    places = torch.arange(len(weight), dtype=until.dtype) + 0.5
    return rows[torch.searchsorted(until, places).clamp_max(len(weight) - 1)]


def _evaluate(model: Density, x: Tensor) -> Tensor:
    """Log-density per row for validation while training, by what is quick and what the stage fits."""
    assert isinstance(model, Preprocessed)
    parts = []
    for part in x.split(latent_model(model).chunk_rows):
        u, logabsdet = model.encode_drawn(part)
        parts.append(model.lift(u, latent_model(model).validation_log_prob(u)) + logabsdet)
    return torch.cat(parts)
