"""Fitting: start the states on the islands of the data, train, switch off what died."""

from __future__ import annotations

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
from modeflow.latents import ContinuousLatentModel, DiscreteLatentModel
from modeflow.latents.initialise import initialise, initialise_continuous
from modeflow.training import History, Trainer, seeded
from modeflow.transforms import Columns
from modeflow.transforms.noise import open_uniform

__all__ = ["Fit", "FitData", "prune_dead_states"]

#: Encoder mass left out when validation is scored during training (a tight lower bound, one state a row).
_VALIDATION_EPSILON = 1e-4
#: Most validation rows whose posterior the encoder is calibrated by.
_CALIBRATION_ROWS = 4096
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
            columns = self.model.transform
            assert isinstance(columns, Columns)
            fit_columns(columns, noisy, weight, data.schema, self.settings)
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
