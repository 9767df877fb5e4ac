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
from modeflow.flows import flow_recipe
from modeflow.latents import ContinuousELBO, ContinuousOptions, DiscreteOptions, LatentModel, TableLatent
from modeflow.latents.discrete import check_options, option_names
from modeflow.models import TableModel
from modeflow.training import TrainConfig
from modeflow.transforms import Columns

__all__ = ["Settings", "build_model", "check_states"]

#: The default of `objective`, which a continuous latent has no use for.
_OBJECTIVE = "truncated"
LATENTS = ("discrete", "continuous")
#: Numbers that may be "auto".
_AUTO = ("n_states", "max_epochs", "batch_size")
#: What `batch_size="auto"` may choose: about a hundred steps an epoch within these.
_BATCH_RANGE = (64, 1024)
#: What `flow="auto"` chooses from, a flow and options each; the first where there is nothing to choose by.
FLOW_CHOICES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "nsf-autoregressive": ("nsf-autoregressive", {}),
    "nsf-autoregressive, shallow": ("nsf-autoregressive", {"layers": 3, "mixing": "reverse"}),
    "nsf-coupling": ("nsf-coupling", {}),
}
#: Training of a candidate on half the rows: epochs, and steps, at the least.
_CANDIDATE_EPOCHS, _CANDIDATE_STEPS = 10, 200
#: What `max_epochs="auto"` is: so many steps, and at least so many epochs.
_AUTO_STEPS, _LEAST_EPOCHS = 20_000, 30
#: Fewest steps between two evaluations: where an epoch has fewer, several epochs pass.
_EVALUATION_STEPS = 50
#: Options in which the estimators' defaults differ from the recipes', which are those of the papers; chosen
#: by validation likelihood on real tables (benchmarks/defaults.py). What the user gives comes first.
FLOW_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "nsf-coupling": {"tail_bound": 5.0},
    "nsf-autoregressive": {"tail_bound": 5.0},
}


@dataclass(frozen=True)
class Settings:
    """The parameters of an estimator, checked.

    `params` are those of `get_params`, with the default options of the flow filled in; `seed` is the integer
    that `random_state` gave.
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

        for name in ("max_epochs", "batch_size"):
            check_states(p[name], name)
        object.__setattr__(self, "params", {**p, "flow_options": flow_options(p["flow"], p["flow_options"])})

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
        return tuple(FLOW_CHOICES) if self.params["flow"] == "auto" else (self.params["flow"],)

    def with_flow(self, flow: str) -> Settings:
        """The same settings with one of `flows`; options that the user gave come first."""
        if self.params["flow"] != "auto":
            return self
        name, options = FLOW_CHOICES[flow]
        given = {**options, **self.params["flow_options"]}
        return replace(self, params={**self.params, "flow": name, "flow_options": given})

    def candidate(self, flow: str, rows: int, length: int = 1) -> Settings:
        """The settings of a short training on so many rows, annealed to its end, to be compared."""
        epochs = length * max(_CANDIDATE_EPOCHS, math.ceil(_CANDIDATE_STEPS / self.batches(rows)))
        # Never much longer than the fit itself; an epoch of half the rows has half the steps.
        epochs = min(epochs, 2 * self.max_epochs(rows))
        short = {"max_epochs": epochs, "schedule": "cosine", "patience": None, "tensorboard": False}
        chosen = self.with_flow(flow)
        return replace(chosen, params={**chosen.params, **short})

    @property
    def continuous(self) -> bool:
        """Whether the latent is continuous."""
        return bool(self.params.get("latent") == "continuous")

    def batch_size(self, rows: int) -> int:
        """Rows a step, for a table of so many training rows."""
        batch = self.params["batch_size"]
        if batch != "auto":
            return int(batch)
        low, high = _BATCH_RANGE
        return int(min(max(2 ** round(math.log2(max(rows / 100, 1))), low), high))

    def max_epochs(self, rows: int) -> int:
        """Epochs at most, for a table of so many training rows."""
        epochs = self.params["max_epochs"]
        if epochs != "auto":
            return int(epochs)
        return max(_LEAST_EPOCHS, math.ceil(_AUTO_STEPS / self.batches(rows)))

    def batches(self, rows: int) -> int:
        """Steps an epoch."""
        return math.ceil(rows / self.batch_size(rows))

    def training(self, rows: int) -> TrainConfig:
        """The training configuration for a table of so many training rows."""
        p = self.params
        return TrainConfig(
            max_epochs=self.max_epochs(rows),
            batch_size=self.batch_size(rows),
            evaluate_every=math.ceil(_EVALUATION_STEPS / self.batches(rows)),
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

    def latent_options(self, rows: int) -> TableLatent:
        """Options of the latent, schedules filled in from the number of steps."""
        return latent_options(self.params).for_steps(self.max_epochs(rows) * self.batches(rows))


def latent_options(params: Mapping[str, Any]) -> TableLatent:
    """Options of the latent, by the parameters of an estimator."""
    given = params.get("objective_options") or {}
    if params.get("latent") == "continuous":
        names = {"features": "latent_features", "draws": "score_draws"}
        names |= {name: name for name in ("posterior", "encoder_features")}
        own = {name: params[key] for name, key in names.items()}
        return ContinuousOptions.of({**own, **given}, "objective_options")
    own = {k: params[k] for k in ("prior", "objective", "encoder_features") if k in params}
    return DiscreteOptions.of({**own, **given}, "objective_options")


def flow_options(flow: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of a flow: those given, and the estimators' defaults for the others."""
    try:
        key = flow_recipe(flow).key
    except ConfigError:  # said where the flow is built
        key = ""
    return {**FLOW_DEFAULTS.get(key, {}), **(given or {})}


def check_states(n_states: Any, name: str = "n_states") -> None:
    """Raise `ConfigError` unless the value is a positive integer (or "auto", where `name` may be that)."""
    may_be_auto = name in _AUTO
    if may_be_auto and isinstance(n_states, str) and n_states == "auto":
        return
    whole = isinstance(n_states, (int, np.integer)) and not isinstance(n_states, bool)
    if not whole or n_states < 1:
        auto = " or 'auto'" if may_be_auto else ""
        raise ConfigError(f"{name} must be an integer of 1 or more{auto}, received {n_states!r}")


def build_model(
    params: Mapping[str, Any], features: int, n_states: int, options: TableLatent | None = None
) -> Preprocessed:
    """The untrained model: the maps of the columns, then the latent-variable model (K = 1: the flow alone).

    Initial weights are drawn from torch's global generator; seed it beforehand.
    """
    model = TableModel(
        features,
        params.get("latent", "discrete"),
        n_states,
        flow=params["flow"],
        flow_options=params["flow_options"],
        latent_options=latent_options(params) if options is None else options,
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
