"""From the parameters of an estimator to the model and the training configuration they describe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from modeflow.densities import Feature, Preprocessed
from modeflow.densities.features import as_features
from modeflow.domains import Domain, MixedDomain
from modeflow.errors import ConfigError
from modeflow.flows import FLOWS, flow_recipe
from modeflow.latents import Ensemble, LatentModel
from modeflow.models import LATENTS, TREE_FLOW
from modeflow.options import Options
from modeflow.training import TrainConfig, Training

__all__ = ["Budget", "Settings", "check_count", "is_tree", "latent_model", "model_features"]

#: Numbers that may be "auto".
_AUTO = ("n_states", "max_epochs", "batch_size")
#: What `batch_size="auto"` may choose: about a hundred steps an epoch within these.
_BATCH_RANGE = (64, 1024)
#: Training rows beyond which weight decay falls, as their square; chosen on five tables of 300, 3,000 and
#: 10,000 rows, confirmed on others (benchmarks/variations.py). Columns from which on it is whole: islands in
#: the plane need steep maps, and few columns are hardly learned by heart.
_DECAY_ROWS, _DECAY_COLUMNS = 2_000, 5


@dataclass(frozen=True)
class Recipe:
    """What may be built where it is left open.

    Attributes:
        flow, flow_options: a flow. latent, latent_options: a latent; None says nothing of it.
    """

    flow: str
    flow_options: Mapping[str, Any] = field(default_factory=dict)
    latent: str | None = None
    latent_options: Mapping[str, Any] = field(default_factory=dict)


#: What stands for the flow of a likelihood without one.
NO_FLOW = "none"
#: What `flow="auto"` chooses from; the first where there is nothing to choose by.
FLOW_CHOICES: Mapping[str, Recipe] = {
    "nsf-autoregressive": Recipe("nsf-autoregressive"),
    "nsf-autoregressive, shallow": Recipe("nsf-autoregressive", {"layers": 3, "mixing": "reverse"}),
    "nsf-coupling": Recipe("nsf-coupling"),
}
#: What a tree of states may be: under a flow, which is shallow and of splines alone (`TREE_FLOW`), or alone.
TREE_CHOICES: Mapping[str, Recipe] = {
    "nsf-autoregressive over a tree": Recipe("nsf-autoregressive", TREE_FLOW, "tree", {"likelihood": "flow"}),
    "tree": Recipe("nsf-autoregressive", TREE_FLOW, "tree", {"likelihood": "leaves"}),
}
#: The same of training rows with missing cells. Leaves come first: what follows from them is exact.
HOLED_CHOICES: Mapping[str, Recipe] = {
    "tree": TREE_CHOICES["tree"],
    "nsf-autoregressive over a tree, with a proposal": Recipe(
        "nsf-autoregressive", TREE_FLOW, "tree", {"likelihood": "flow", "proposal": True}
    ),
}
#: The flow of mixed rows under flat states: shallow, and of splines alone, which reals that are absent pass.
MIXED_CHOICES: Mapping[str, Recipe] = {"flat states": Recipe("nsf-autoregressive", TREE_FLOW)}
_RECIPES = {**FLOW_CHOICES, **TREE_CHOICES, **HOLED_CHOICES, **MIXED_CHOICES}
#: Training of a candidate on half the rows: epochs, and steps, at the least; and steps that are enough.
_CANDIDATE_EPOCHS, _CANDIDATE_STEPS, _ENOUGH_STEPS = 10, 200, 600

#: Options in which the estimators' defaults differ from the recipes', which are those of the papers; chosen
#: by validation likelihood on real tables (benchmarks/defaults.py). What the user gives comes first.
FLOW_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "nsf-coupling": {"tail_bound": 5.0},
    "nsf-autoregressive": {"tail_bound": 5.0},
}


@dataclass(frozen=True)
class Budget:
    """How long an estimator trains where it is not told.

    Attributes:
        steps, epochs: what `max_epochs="auto"` is: so many steps, and at least so many epochs.
        between: fewest steps between two evaluations: where an epoch has fewer, several epochs pass.
        weight_decay: of few rows, where it is not given; see `Settings.weight_decay`.
    """

    steps: int
    epochs: int
    between: int = 1
    weight_decay: float = 0.0


class Configured(Protocol):
    """What is asked of an estimator before it is fitted."""

    budget: ClassVar[Budget]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Its parameters by name."""

    def groups(self) -> Mapping[str, type[Options]]:
        """The dataclass of every group of parameters."""

    def group(self, name: str) -> Options:
        """A group as an object."""

    @classmethod
    def build(cls, settings: Settings, domain: Domain, n_states: int, steps: int | None) -> LatentModel:
        """The untrained latent-variable model."""


@dataclass(frozen=True)
class Settings:
    """The parameters of an estimator, checked.

    Attributes:
        kind: its class. seed: the integer that `random_state` gave.
        params: those of `get_params`, with the default options of the flow filled in.
        groups: its groups of parameters, as objects.
        open_flow: whether the flow was left open, before a recipe was chosen.
    """

    kind: type[Configured]
    params: Mapping[str, Any]
    groups: Mapping[str, Any]
    seed: int
    open_flow: bool = False

    @classmethod
    def of(cls, estimator: Configured, seed: int) -> Settings:
        """Check the parameters of an estimator.

        Raises:
            ConfigError: for one that is not allowed.
        """
        p = estimator.get_params(deep=False)
        if not (isinstance(p["validation_fraction"], (int, float)) and 0 < p["validation_fraction"] < 1):
            raise ConfigError(
                f"validation_fraction must lie between 0 and 1, received {p['validation_fraction']!r}"
            )
        if p["flow_options"] is not None and not isinstance(p["flow_options"], Mapping):
            raise ConfigError(f"flow_options must be a mapping of options, received {p['flow_options']!r}")
        for name in (
            "score_draws",
            "n_states",
            "max_states",
            "max_epochs",
            "batch_size",
            "ensemble",
            "n_jobs",
        ):
            if name in p and (name, p[name]) != ("max_states", None):
                check_count(p[name], name)
        if p.get("latent") == "continuous" and p.get("ensemble", 1) > 1:
            raise ConfigError(
                "ensemble has no use for latent='continuous': z means something else in each member"
            )
        groups = {name: estimator.group(name) for name in estimator.groups()}
        options = flow_options(p["flow"], p["flow_options"])
        if "stacking" in p:
            check_stacking(p["stacking"])
        return cls(type(estimator), {**p, "flow_options": options}, groups, seed, p["flow"] == "auto")

    @property
    def trained(self) -> Training:
        """The group of the training."""
        trained: Training = self.groups["training"]
        return trained

    @property
    def flows(self) -> tuple[str, ...]:
        """The flows to choose from: one, unless ``flow="auto"``."""
        return (self.params["flow"],) if self.params["flow"] != "auto" else tuple(FLOW_CHOICES)

    def with_recipe(self, name: str, n_states: int = 1) -> Settings:
        """The same with what a recipe says (or a flow, of that name); what the user gave comes first.

        Arguments:
            name: of the recipe. n_states: K of every column of a tree, where that is left open.
        """
        recipe = _RECIPES.get(name, Recipe(name))
        params, groups = dict(self.params), dict(self.groups)
        if params["flow"] == "auto":
            given = {**recipe.flow_options, **params["flow_options"]}
            params |= {"flow": recipe.flow, "flow_options": flow_options(recipe.flow, given)}
        if recipe.latent is not None:
            given = options_given(params["latent_options"])
            given |= recipe.latent_options
            if is_tree(name) and isinstance(given.get("states", "auto"), str):
                given["states"] = n_states
            options = LATENTS[recipe.latent].of(given, "latent_options")
            params |= {"latent": recipe.latent, "latent_options": options.to_dict()}
            groups["latent_options"] = options
        elif params.get("latent") == "auto":
            params["latent"] = "discrete"
        return replace(self, params=params, groups=groups)

    def lengths(self, rows: int, some: int) -> float:
        """Of a training on all rows, in short ones on some of them."""
        return self.steps(rows) / (self._candidate_epochs(some) * self.batches(some))

    def _candidate_epochs(self, rows: int) -> int:
        """Of a short training."""
        batches = self.batches(rows)
        epochs = max(_CANDIDATE_EPOCHS, math.ceil(_CANDIDATE_STEPS / batches))
        return min(epochs, math.ceil(_ENOUGH_STEPS / batches))

    def candidate(self, flow: str, rows: int, length: int = 1, n_states: int = 1) -> Settings:
        """The settings of a short training on so many rows, annealed to its end, to be compared.

        Arguments:
            flow: or another recipe. rows: of the half. length: of the training, in short ones.
            n_states: K of every column of a tree.
        """
        epochs = length * self._candidate_epochs(rows)
        # Never much longer than the fit itself; an epoch of half the rows has half the steps.
        epochs = min(epochs, 2 * self.max_epochs(rows))
        chosen = self.with_recipe(flow, n_states)
        short = replace(self.trained, schedule="cosine", patience=None, tensorboard=False)
        return replace(
            chosen,
            params={**chosen.params, "max_epochs": epochs, "ensemble": 1},
            groups={**chosen.groups, "training": short},
        )

    @property
    def bare(self) -> bool:
        """Whether the flow is one of pixels, though its rows are those of a table."""
        return getattr(FLOWS.get(str(self.params["flow"]).lower()), "event", "") == "image"

    @property
    def many_valued(self) -> bool:
        """Whether z is continuous or a string of codes."""
        return self.params.get("latent") in ("continuous", "sequential")

    def stacks(self, domain: Domain) -> bool:
        """Whether other densities stand beside the model: unless said otherwise, where the flow is left open.

        Who names a flow, or a model without one, gets that.

        Raises:
            ConfigError: where it is asked for and cannot be.
        """
        asked = self.params.get("stacking", False)
        possible = domain.stacks and not self.bare
        possible &= not self.many_valued
        if not possible and asked != "auto" and asked:
            raise ConfigError(
                "stacking=True is for numbers with all cells there, under a flow and flat states, or where "
                "both are left to be chosen: leave stacking='auto'"
            )
        usual = self.open_flow and self.params.get("likelihood", "flow") == "flow"
        return possible and (usual if asked == "auto" else bool(asked))

    def batch_size(self, rows: int) -> int:
        """Rows a step, for so many training rows."""
        batch = self.params["batch_size"]
        if batch != "auto":
            return int(batch)
        low, high = _BATCH_RANGE
        return int(min(max(2 ** round(math.log2(max(rows / 100, 1))), low), high))

    def max_epochs(self, rows: int) -> int:
        """Epochs at most, for so many training rows."""
        epochs = self.params["max_epochs"]
        if epochs != "auto":
            return int(epochs)
        budget = self.kind.budget
        # What a network learns is a matter of steps: few rows make short epochs.
        return max(budget.epochs, math.ceil(budget.steps / self.batches(rows)))

    def batches(self, rows: int) -> int:
        """Steps an epoch."""
        return math.ceil(rows / self.batch_size(rows))

    def steps(self, rows: int) -> int:
        """Steps at most, of one stage."""
        return self.max_epochs(rows) * self.batches(rows)

    def weight_decay(self, rows: int, columns: int) -> float:
        r"""``w min(1, (2000 / N)²) min(1, (D - 2) / 3)`` of N training rows of D columns, w of the estimator.

        None of continuous latents and of codes, and of one or two columns.

        Few rows are learned by heart: what the networks say is drawn back to nothing, that is to one linear
        map after those of the columns. Of many rows even a little of that costs likelihood.
        """
        if self.many_valued:
            return 0.0
        wide = min(1.0, max(0, columns - 2) / (_DECAY_COLUMNS - 2))
        return self.kind.budget.weight_decay * min(1.0, (_DECAY_ROWS / rows) ** 2) * wide

    def training(self, rows: int, columns: int = 0) -> TrainConfig:
        """The training configuration for so many training rows and columns."""
        p, given = self.params, self.trained.get_params(deep=False)
        if given["weight_decay"] is None:
            given["weight_decay"] = self.weight_decay(rows, columns)
        return TrainConfig(
            max_epochs=self.max_epochs(rows),
            batch_size=self.batch_size(rows),
            evaluate_every=math.ceil(self.kind.budget.between / self.batches(rows)),
            learning_rate=p["learning_rate"],
            device=p["device"],
            seed=self.seed,
            **given,
        )

    def model(self, domain: Domain, n_states: int, rows: int | None) -> Preprocessed:
        """The untrained model: the preprocessing, then the latent-variable model (K = 1: the flow alone).

        Initial weights are drawn from torch's global generator; seed it beforehand.

        Arguments:
            domain: of the rows. n_states: K. rows: for training; None for a model that has been trained.
        """
        steps = None if rows is None else self.steps(rows)
        members = int(self.params.get("ensemble", 1))
        latents = [
            self.kind.build(self, domain, n_states // members if rows is None else n_states, steps)
            for _ in range(members)
        ]
        # One draw of the noise of whole numbers, until it is fitted.
        latent = latents[0] if members == 1 else Ensemble(latents)
        return Preprocessed(domain.preprocessing(), latent, draws=1)

    def of_member(self) -> Settings:
        """The same of one member of an ensemble."""
        return replace(self, params={**self.params, "ensemble": 1})


def is_tree(recipe: str) -> bool:
    """Whether a recipe is one of a tree of states."""
    return recipe in _RECIPES and _RECIPES[recipe].latent == "tree"


def options_given(given: Options | Mapping[str, Any] | None) -> dict[str, Any]:
    """A group of options, however it was given, as a mapping."""
    return given.to_dict() if isinstance(given, Options) else dict(given or {})


def flow_options(flow: Any, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of a flow: those given, and the estimators' defaults for the others."""
    try:
        key = flow_recipe(flow).key
    except ConfigError:  # said where the flow is built
        key = ""
    return {**FLOW_DEFAULTS.get(key, {}), **(given or {})}


def check_count(value: Any, name: str) -> None:
    """Raise `ConfigError` unless the value is a positive integer (or "auto", where `name` may be that)."""
    may_be_auto = name in _AUTO
    if may_be_auto and isinstance(value, str) and value == "auto":
        return
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < 1:
        auto = " or 'auto'" if may_be_auto else ""
        raise ConfigError(f"{name} must be an integer of 1 or more{auto}, received {value!r}")


def check_stacking(value: Any) -> None:
    """Raise `ConfigError` for a value of `stacking` that is not allowed."""
    if not (isinstance(value, (bool, np.bool_)) or (isinstance(value, str) and value == "auto")):
        raise ConfigError(f"stacking must be 'auto', True or False, received {value!r}")


def model_features(domain: Any) -> tuple[Feature, ...]:
    """What a model of rows of a table is told of each number that it sees: of the columns, then of the flags
    of those with atoms."""
    if not isinstance(domain, MixedDomain):
        return as_features(int(domain.schema.dim))
    layer = domain.preprocessing()
    pairs = enumerate(zip(layer.levels, layer.circular, strict=True))
    return tuple(Feature(levels, circular, flag=layer.flags.get(j)) for j, (levels, circular) in pairs)


def latent_model(model: Preprocessed) -> LatentModel:
    """The latent-variable model inside."""
    inner = model.model
    if not isinstance(inner, LatentModel):
        raise ConfigError(f"expected a latent-variable model, received {type(inner).__name__}")
    return inner
