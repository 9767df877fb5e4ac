"""Fitting: start the states on the islands of the data, train, switch off what died."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.data import Schema
from modeflow.densities import Density, Preprocessed
from modeflow.estimators.settings import Settings, as_tensor, build_model, latent_model
from modeflow.latents import ContinuousLatentModel, DiscreteLatentModel
from modeflow.latents.initialise import initialise, initialise_continuous
from modeflow.training import History, Trainer, seeded

__all__ = ["Fit", "FitData", "prune_dead_states"]

#: Encoder mass left out when validation is scored during training (a tight lower bound, one state a row).
_VALIDATION_EPSILON = 1e-4
#: Most validation rows whose posterior the encoder is calibrated by.
_CALIBRATION_ROWS = 4096


@dataclass(frozen=True)
class Dequantise:
    """Adds u ~ U(-1/2, 1/2) to the columns given (a class, so that other processes can receive it)."""

    columns: tuple[int, ...]

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(len(batch), len(self.columns), dtype=batch.dtype, generator=generator) - 0.5
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
        """Fresh dequantisation noise for a batch; None where no column is integer."""
        names = self.schema.integer_columns
        return Dequantise(tuple(self.schema.columns.index(name) for name in names)) if names else None

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
    """

    settings: Settings
    data: FitData
    n_states: int
    run_dir: Path | None = None
    quiet: bool = True
    resume: bool = False
    model: Preprocessed = field(init=False)
    history: History | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        data, seed = self.data, self.settings.seed
        config = self.settings.training(len(data.train))
        noisy = as_tensor(data.schema.dequantize(data.train, np.random.default_rng(seed)))
        weight = _tensor(data.weight)
        with seeded(seed):
            options = self.settings.objective_options(len(data.train))
            self.model = build_model(self.settings.params, noisy.shape[1], self.n_states, options)
            standardize: Any = self.model.transform
            standardize.fit(noisy, weight)
            with torch.no_grad():
                standard = self.model.encode(noisy)[0]
                if weight is not None:
                    standard = standard[_repeated(weight)]
            inner = latent_model(self.model)
            if isinstance(inner, DiscreteLatentModel):
                initialise(inner, standard, seed % (2**32))
            elif isinstance(inner, ContinuousLatentModel):
                initialise_continuous(inner, standard.to(inner.dtype), seed % (2**32))
        name = f"fit, {self.n_states} states" if self.n_states > 1 else "fit"
        self.trainer = Trainer(config, self.run_dir, self.quiet, description=name)
        self._validation = data.noisy_validation(seed + 1)

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

    def calibrate(self) -> None:
        """Bring the encoder's confidence in line with the exact posterior on the validation rows."""
        weight = _tensor(self.data.validation_weight)
        self.model.eval()
        with torch.no_grad():
            rows = self._validation[:_CALIBRATION_ROWS]
            u = self.model.encode(rows)[0]
        latent_model(self.model).calibrate(u, None if weight is None else weight[:_CALIBRATION_ROWS])

    def validation_log_prob(self) -> np.ndarray:
        """Exact log-density of every (dequantised) validation row under the best weights, nats."""
        self.model.eval()
        with torch.no_grad():
            parts = [self.model.log_prob(x) for x in self._validation.split(8192)]
        return torch.cat(parts).double().cpu().numpy()


def _tensor(weight: np.ndarray | None) -> Tensor | None:
    return None if weight is None else torch.from_numpy(np.asarray(weight, dtype=np.float32))


def _repeated(weight: Tensor) -> Tensor:
    """Row numbers, each as often as its weight (of mean one) says: for a start that knows no weights."""
    until = weight.double().cumsum(0)
    places = torch.arange(len(weight), dtype=until.dtype) + 0.5
    return torch.searchsorted(until, places).clamp_max(len(weight) - 1)


def _evaluate(model: Density, x: Tensor) -> Tensor:
    """Log-density per row for validation while training: over the states that the encoder finds likely."""
    assert isinstance(model, Preprocessed)
    u, logabsdet = model.encode(x)
    return latent_model(model).quick_log_prob(u, _VALIDATION_EPSILON) + logabsdet


def prune_dead_states(model: Preprocessed, rows: np.ndarray, weight: np.ndarray | None) -> list[int]:
    """Switch off states that hold (nearly) no data, renormalise the prior, and say so.

    A state is dead if its share of the training rows, by the exact posterior, is below a hundredth of a
    fair share 1/K, or below three rows.

    Returns:
        the states switched off.

    Warns:
        UserWarning: naming them.
    """
    inner = latent_model(model)
    if not isinstance(inner, DiscreteLatentModel) or inner.n_states == 1:
        return []
    share = torch.zeros(inner.n_states, dtype=torch.float64)
    weights = np.ones(len(rows)) if weight is None else weight / weight.mean()
    with torch.no_grad():
        for start in range(0, len(rows), 8192):
            part = slice(start, start + 8192)
            u = model.encode(as_tensor(rows[part]))[0]
            w = torch.from_numpy(weights[part]).to(u)
            share += inner.usage(u, w).double().cpu() * len(u) / len(rows)
    dead = inner.prune(share, max(0.01 / inner.n_states, 3 / len(rows)))
    if dead:
        names = ", ".join(map(str, dead))
        plural = "s" if len(dead) > 1 else ""
        warnings.warn(
            f"state{plural} {names} of {inner.n_states} held no data and "
            f"{'were' if plural else 'was'} switched off; the density is renormalised. Fewer states "
            f"(n_states={inner.n_states - len(dead)}, or 'auto') would do",
            UserWarning,
            stacklevel=3,
        )
    return dead
