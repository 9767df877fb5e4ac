"""Fitting: start the states on the islands of the data, train, switch off what provably holds nothing."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modeflow.data import Schema
from modeflow.data.schema import listing
from modeflow.densities import Density, Preprocessed
from modeflow.estimators.settings import Settings, as_tensor, build_model, latent_model
from modeflow.flows import FLOWS
from modeflow.latents import Survey
from modeflow.latents.discrete import Relief
from modeflow.metrics import summarise
from modeflow.training import History, Trainer, seeded
from modeflow.training.state import copy_state
from modeflow.transforms import Columns
from modeflow.transforms.noise import open_uniform

__all__ = ["ENCODER_STEPS", "Fit", "FitData", "Peaks", "mean_one", "standardised"]

#: Which rows were looked at, and the peaks of the density there.
Peaks = tuple[np.ndarray, Relief]

#: Most steps that the encoder is fitted to the islands for.
ENCODER_STEPS = 2000
#: Steps that a latent may be started for, however short the training.
_LEAST_START_STEPS = 200
#: Training rows among which lost digits are looked for.
_DIGIT_ROWS = 20_000


@dataclass(frozen=True)
class Dequantise:
    """Adds s u, u ~ U(-1/2, 1/2), to the columns given (a class, so that other processes can receive it)."""

    columns: tuple[int, ...]
    steps: tuple[float, ...]

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        noise = (
            open_uniform((len(batch), len(self.columns)), batch.dtype, torch.device("cpu"), generator) - 0.5
        )
        noise = noise * torch.tensor(self.steps, dtype=batch.dtype)
        return batch.index_add(1, torch.tensor(self.columns, device=batch.device), noise.to(batch.device))


@dataclass(frozen=True)
class FitData:
    """Training and validation rows in the units of the data, with weights of mean one, and the schema."""

    train: np.ndarray
    validation: np.ndarray
    weight: np.ndarray | None
    validation_weight: np.ndarray | None
    schema: Schema

    @property
    def augment(self) -> Dequantise | None:
        """Fresh dequantisation noise for a batch; None where no column is on a lattice."""
        steps = self.schema.steps
        where = np.flatnonzero(steps)
        return Dequantise(tuple(where.tolist()), tuple(steps[where].tolist())) if len(where) else None

    def noisy_validation(self, seed: int) -> Tensor:
        """The validation rows, dequantised once."""
        return as_tensor(self.schema.dequantize(self.validation, np.random.default_rng(seed)))


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
        description: what the progress bar says.
        encoder_steps: most steps that the encoder is fitted to the islands for.
    """

    settings: Settings
    data: FitData
    n_states: int
    run_dir: Path | None = None
    quiet: bool = True
    resume: bool = False
    peaks: Peaks | None = None
    description: str = ""
    encoder_steps: int = ENCODER_STEPS
    model: Preprocessed = field(init=False)
    history: History | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        data, seed = self.data, self.settings.seed
        config = self.settings.training(len(data.train))
        noisy = as_tensor(data.schema.dequantize(data.train, np.random.default_rng(seed)))
        weight = _tensor(data.weight)
        with seeded(seed):
            options = self.settings.latent_options(len(data.train))
            self.model = build_model(self.settings.params, noisy.shape[1], self.n_states, options)
            columns = self.model.transform
            assert isinstance(columns, Columns)
            fit_columns(columns, noisy, weight, data.schema, self.settings)
            standard = _encoded(columns, noisy, weight).to(self.model.dtype)
            # A start is never much longer than the training itself.
            budget = max(config.max_epochs * self.settings.batches(len(data.train)), _LEAST_START_STEPS)
            steps = min(self.encoder_steps, budget)
            latent_model(self.model).start(self._islands(standard), seed % (2**32), steps)
        self._start = copy_state(self.model)
        name = self.description or (f"fit, {self.n_states} states" if self.n_states > 1 else "fit")
        self.trainer = Trainer(config, self.run_dir, self.quiet, description=name)
        self._validation = data.noisy_validation(seed + 1)

    def _islands(self, standard: Tensor) -> Survey | Tensor:
        if self.peaks is None:
            return standard
        index, relief = self.peaks
        return Survey(standard.double().cpu().numpy()[index], relief)

    def run(self, until_epoch: int | None = None) -> History:
        """Train (until the end, or pause after an epoch); the model then holds the best weights so far."""
        self.history = self.trainer.fit(
            self.model,
            as_tensor(self.data.train),
            self._validation,
            _tensor(self.data.weight),
            _tensor(self.data.validation_weight),
            resume=self.resume,
            augment=self.data.augment,
            until_epoch=until_epoch,
            evaluate=_evaluate,
        )
        return self.history

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
        after = self._log_prob(self._validation)
        self.model.load_state_dict(self._start)
        before = self._log_prob(self._validation)
        gain = summarise(after - before, "exact", self.data.validation_weight)
        if not gain.value <= gain.standard_error:
            self.model.load_state_dict(trained)
            return False
        self.history.best_epoch = 0
        self.history.best_validation = self.history.epochs[0].get("validation", math.nan)
        return True

    def finish(self, prune: bool = True) -> list[int]:
        """Switch off the states that hold nothing, and say so; then calibrate the posterior."""
        data = self.data
        rows = as_tensor(data.schema.dequantize(data.train, np.random.default_rng(self.settings.seed)))
        self.model.eval()
        with torch.no_grad():
            train, held = (self.model.encode(x)[0] for x in (rows, self._validation))
        weights = _tensor(data.weight), _tensor(data.validation_weight)
        dead = latent_model(self.model).finish(train, held, *weights, prune=prune)
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

    def validation_log_prob(self) -> np.ndarray:
        """Exact log-density of every (dequantised) validation row under the best weights, nats."""
        return self._log_prob(self._validation)

    def log_prob(self, values: np.ndarray) -> np.ndarray:
        """Exact log-density of other rows (dequantised once), nats."""
        seed = np.random.default_rng([self.settings.seed, 2])
        return self._log_prob(as_tensor(self.data.schema.dequantize(values, seed)))

    def _log_prob(self, rows: Tensor) -> np.ndarray:
        self.model.eval()
        with torch.no_grad():
            parts = [self.model.log_prob(x) for x in rows.split(8192)]
        return torch.cat(parts).double().cpu().numpy()


def fit_columns(
    columns: Columns, rows: Tensor, weight: Tensor | None, schema: Schema, settings: Settings
) -> None:
    """Set the maps of the columns by (dequantised) rows; pixels have no bounds, whose scales would differ."""
    bare = getattr(FLOWS.get(str(settings.params["flow"]).lower()), "event", "") == "image"
    low, high = schema.edges
    edges = None if bare else (torch.from_numpy(low), torch.from_numpy(high))
    offsets = torch.tensor([0.0 if each is None else each.offset for each in schema.lattices]).double()
    columns.fit(rows, weight, torch.from_numpy(schema.steps), edges, None if bare else offsets)


def warn_of_lost_digits(data: FitData, settings: Settings) -> None:
    """Name the continuous columns whose values float32, in which models are trained, cannot tell apart."""
    rows = as_tensor(data.schema.dequantize(data.train[:_DIGIT_ROWS], np.random.default_rng(0)))
    columns = Columns(rows.shape[1])
    fit_columns(columns, rows, None, data.schema, settings)
    lost = [data.schema.columns[j] for j in columns.lost(rows) if data.schema.lattices[j] is None]
    if lost and settings.params["precision"] != "64-true":
        warnings.warn(
            f"more than half of the distinct values are lost to float32 in {listing(lost)}: they lie too "
            "close for the range of the column. Train with precision='64-true', or split the column in parts",
            UserWarning,
            stacklevel=3,
        )


def standardised(data: FitData, settings: Settings) -> Tensor:
    """The (dequantised) training rows as a model sees them, repeated by their weights."""
    rows = as_tensor(data.schema.dequantize(data.train, np.random.default_rng(settings.seed)))
    weight = _tensor(data.weight)
    columns = Columns(rows.shape[1])
    fit_columns(columns, rows, weight, data.schema, settings)
    return _encoded(columns, rows, weight)


def _encoded(columns: Columns, rows: Tensor, weight: Tensor | None) -> Tensor:
    with torch.no_grad():
        standard: Tensor = columns(rows)[0]
    return standard if weight is None else standard[_repeated(weight)]


def mean_one(weight: np.ndarray | None) -> np.ndarray | None:
    """Weights of mean one, in the same proportions."""
    return None if weight is None else weight / weight.mean()


def _tensor(weight: np.ndarray | None) -> Tensor | None:
    return None if weight is None else torch.from_numpy(np.asarray(weight, dtype=np.float32))


def _repeated(weight: Tensor) -> Tensor:
    """Row numbers, each as often as its weight (of mean one) says: for a start that knows no weights."""
    until = weight.double().cumsum(0)
    places = torch.arange(len(weight), dtype=until.dtype) + 0.5
    return torch.searchsorted(until, places).clamp_max(len(weight) - 1)


def _evaluate(model: Density, x: Tensor) -> Tensor:
    """Log-density per row for validation while training, or a close bound."""
    assert isinstance(model, Preprocessed)
    u, logabsdet = model.encode(x)
    return latent_model(model).validation_log_prob(u) + logabsdet
