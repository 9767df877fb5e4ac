"""From the parameters of an estimator to the model and the training configuration they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from modeflow.densities import Preprocessed
from modeflow.errors import ConfigError, nearest
from modeflow.latents import ContinuousELBO, LatentModel
from modeflow.latents.objectives import check_options, option_names
from modeflow.models import NVF as build_nvf
from modeflow.models import ContinuousNVF
from modeflow.training import TrainConfig
from modeflow.transforms import Columns

__all__ = ["Settings", "build_model", "check_states"]

#: The default of `objective`, which a continuous latent has no use for.
_OBJECTIVE = "truncated"
LATENTS = ("discrete", "continuous")
#: What `batch_size="auto"` may choose: about a hundred steps an epoch within these.
_BATCH_RANGE = (64, 1024)
#: What `flow="auto"` chooses from; the first where there is nothing to choose by.
FLOW_CHOICES = ("nsf-autoregressive", "nsf-coupling")
#: Training of a candidate on half the rows: epochs, and steps, at the least.
_CANDIDATE_EPOCHS, _CANDIDATE_STEPS = 10, 200
#: Steps for which rows keep the states they start in.
_HOLD_STEPS = 500


@dataclass(frozen=True)
class Settings:
    """The parameters of an estimator, checked.

    `params` are those of `get_params`; `seed` is the integer that `random_state` gave.
    """

    params: Mapping[str, Any]
    seed: int

    def __post_init__(self) -> None:
        p = self.params
        for name in ("validation_fraction",):
            if not (isinstance(p[name], (int, float)) and 0 < p[name] < 1):
                raise ConfigError(f"{name} must lie between 0 and 1, received {p[name]!r}")
        if not (isinstance(p["score_draws"], (int, np.integer)) and p["score_draws"] >= 1):
            raise ConfigError(f"score_draws must be an integer of 1 or more, received {p['score_draws']!r}")
        if p["flow_options"] is not None and not isinstance(p["flow_options"], Mapping):
            raise ConfigError(f"flow_options must be a mapping of options, received {p['flow_options']!r}")
        if "n_states" in p:
            if p["latent"] not in LATENTS:
                raise ConfigError(
                    f"latent must be 'discrete' or 'continuous', received {p['latent']!r}"
                    f"{nearest(p['latent'], LATENTS)}"
                )
            check_states(p["latent_features"], "latent_features")
            check_states(p["n_states"])
            check_states(p["max_states"], "max_states")
            self._check_objective()
            if not isinstance(p["encoder_features"], Sequence):
                raise ConfigError(
                    f"encoder_features must list the hidden widths, received {p['encoder_features']!r}"
                )

    def _check_objective(self) -> None:
        """Nothing that is asked of the objective may be dropped."""
        objective, options = self.params["objective"], self.params["objective_options"] or {}
        if not isinstance(options, Mapping):
            raise ConfigError(f"objective_options must be a mapping of options, received {options!r}")
        if not self.continuous:
            check_options(objective, options)
            return
        if objective != _OBJECTIVE:
            raise ConfigError(
                f"a continuous latent has one objective: leave objective out, received {objective!r}"
            )
        known = option_names(ContinuousELBO)
        for key in options:
            if key not in known:
                raise ConfigError(
                    f"objective_options: a continuous latent has no use for {key!r}{nearest(key, known)} "
                    f"(options: {', '.join(known)})"
                )

    @property
    def flows(self) -> tuple[str, ...]:
        """The flows to choose from: one, unless ``flow="auto"``."""
        return FLOW_CHOICES if self.params["flow"] == "auto" else (self.params["flow"],)

    def with_flow(self, flow: str) -> Settings:
        """The same settings with this flow."""
        return replace(self, params={**self.params, "flow": flow})

    def candidate(self, flow: str, rows: int, length: int = 1) -> Settings:
        """The settings of a short training on so many rows, annealed to its end, to be compared."""
        steps = math.ceil(rows / self.training(rows).batch_size)
        epochs = max(_CANDIDATE_EPOCHS, math.ceil(_CANDIDATE_STEPS / steps))
        short = {
            # An epoch of half the rows has half the steps.
            "max_epochs": min(length * epochs, 2 * self.params["max_epochs"]),
            "schedule": "cosine",
            "patience": None,
        }
        return replace(
            self.with_flow(flow), params={**self.params, "flow": flow, **short, "tensorboard": False}
        )

    @property
    def continuous(self) -> bool:
        """Whether the latent is continuous."""
        return bool(self.params.get("latent") == "continuous")

    def training(self, rows: int) -> TrainConfig:
        """The training configuration for a table of so many training rows."""
        p = self.params
        batch = p["batch_size"]
        if batch == "auto":
            low, high = _BATCH_RANGE
            batch = int(min(max(2 ** round(math.log2(max(rows / 100, 1))), low), high))
        return TrainConfig(
            max_epochs=p["max_epochs"],
            batch_size=batch,
            learning_rate=p["learning_rate"],
            weight_decay=p["weight_decay"],
            schedule=p["schedule"],
            ema=p["ema"],
            patience=p["patience"],
            device=p["device"],
            devices=p["devices"],
            precision=p["precision"],
            seed=self.seed,
            tensorboard=bool(p["tensorboard"]),
        )

    def objective_options(self, rows: int) -> dict[str, Any]:
        """Options of the objective, schedules filled in from the number of steps."""
        given = dict(self.params.get("objective_options") or {})
        config = self.training(rows)
        steps = config.max_epochs * math.ceil(rows / config.batch_size)
        if self.continuous or self.params.get("objective") in ("elbo", "elbo-sum"):
            given.setdefault("kl_warmup_steps", steps // (4 if self.continuous else 10))
        if self.params.get("objective") == "elbo" and not self.continuous:
            given.setdefault("anneal_steps", steps // 2)
        if self.params.get("objective") in ("truncated", "marginal") and not self.continuous:
            given.setdefault("hold_steps", min(_HOLD_STEPS, steps // 3))
        return given


def check_states(n_states: Any, name: str = "n_states") -> None:
    """Raise `ConfigError` unless `n_states` is a positive integer (or "auto", for `n_states` itself)."""
    if isinstance(n_states, str) and n_states == "auto" and name == "n_states":
        return
    whole = isinstance(n_states, (int, np.integer)) and not isinstance(n_states, bool)
    if not whole or n_states < 1:
        auto = " or 'auto'" if name == "n_states" else ""
        raise ConfigError(f"{name} must be an integer of 1 or more{auto}, received {n_states!r}")


def build_model(
    params: Mapping[str, Any],
    features: int,
    n_states: int,
    objective_options: Mapping[str, Any] | None = None,
) -> Preprocessed:
    """The untrained model: the maps of the columns, then the latent-variable model (K = 1: the flow alone).

    Initial weights are drawn from torch's global generator; seed it beforehand.
    """
    if params.get("latent") == "continuous":
        continuous = ContinuousNVF(
            features,
            int(params["latent_features"]),
            flow=params["flow"],
            flow_options=dict(params["flow_options"] or {}),
            encoder_features=params["encoder_features"],
            draws=int(params["score_draws"]),
            **(objective_options or {}),
        )
        return Preprocessed(Columns(features), continuous)
    options = {k: params[k] for k in ("prior", "objective", "encoder_features") if k in params}
    model = build_nvf(
        features,
        int(n_states),
        flow=params["flow"],
        flow_options=dict(params["flow_options"] or {}),
        **options,
        **(objective_options or {}),
    )
    return Preprocessed(Columns(features), model)


def latent_model(model: Preprocessed) -> LatentModel:
    """The latent-variable model inside."""
    inner = model.model
    if not isinstance(inner, LatentModel):
        raise ConfigError(f"expected a latent-variable model, received {type(inner).__name__}")
    return inner


def as_tensor(values: np.ndarray) -> torch.Tensor:
    """Rows in the units of the data, float64 (the model casts after standardising)."""
    return torch.from_numpy(np.require(values, dtype=np.float64, requirements=["C", "W"]))
