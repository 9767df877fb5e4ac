"""How to train: the group of settings that estimators offer, and all that the trainer is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from modeflow.errors import ConfigError
from modeflow.options import Options, check_choice
from modeflow.training.tail import Tail
from modeflow.transforms.activations import ACTIVATIONS

__all__ = ["TrainConfig", "Training"]

SCHEDULES = ("plateau", "cosine", "constant")
PRECISIONS = ("32-true", "64-true", "bf16-mixed")
STRATEGIES = ("auto", "ddp_spawn", "ddp_fork", "ddp_notebook")

#: May differ between a run and its resumption: they change where and how long, not what is computed.
FREE_ON_RESUME = (
    "max_epochs",
    "patience",
    "checkpoint_every_seconds",
    "checkpoint_every_steps",
    "device",
    "devices",
    "strategy",
    "tensorboard",
)


@dataclass(kw_only=True)
class Training(Options):
    """How a density is trained, beside how long and how fast.

    Arguments:
        weight_decay: decoupled (AdamW): every step multiplies the matrices of networks by one minus this
            times the rate; biases, tables of states and linear maps stay. Null: what the estimator has for
            its rows (`modeflow.estimators.settings.Settings.weight_decay`): of tables 2, less of more than
            2,000 rows and of fewer than five columns; of images none.
        schedule: of the learning rate, after a short linear rise: ``plateau``, constant until `patience` is
            used up, then from the best weights a linear decay to zero over half as many steps as there
            were, with which training ends (the decay ends with the last epoch where patience does not come
            first); ``cosine``, to zero over all epochs; or ``constant``.
        ema: decay of an exponential average of the weights, which is then what is evaluated and kept; at step
            t it is (1 + t) / (10 + t) where that is less; null for none.
        patience: evaluations (one an epoch, or where epochs are short, every 50 steps) without a better
            validation before the learning rate falls (``plateau``; during its decay they are counted anew)
            or training stops; null for never.
        gradient_clip: largest norm of the gradient; null for no limit.
        precision: ``32-true``, ``64-true`` (the model becomes float64) or ``bf16-mixed`` (training only:
            densities are never reported from bf16).
        devices: processes to train with.
        activations: what is stored for the gradient: ``keep`` all, ``recompute`` (segments of layers are run
            again), or ``invert`` (layers are inverted: memory hardly grows with depth). Less memory, up to
            twice the time.
        tensorboard: also write TensorBoard events into the run folder.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    weight_decay: float | None = None
    schedule: str = "plateau"
    ema: float | None = 0.995
    patience: int | None = 15
    gradient_clip: float | None = 5.0
    precision: str = "32-true"
    devices: int = 1
    activations: str = "keep"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        self._whole("devices", 1)
        if self.patience is not None:
            self._whole("patience", 1)
        if self.weight_decay is not None:
            self._real("weight_decay", least=0.0)
        if self.gradient_clip is not None:
            self._real("gradient_clip", above=0.0)
        if self.ema is not None:
            self._real("ema", above=0.0, below=1.0)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("activations", self.activations, ACTIVATIONS)
        if not isinstance(self.tensorboard, bool):
            raise ConfigError(f"tensorboard must be true or false, received {self.tensorboard!r}")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise ConfigError(f"{name} must be an integer of {least} or more, received {value!r}")
        setattr(self, name, int(value))  # NumPy's integers are not JSON

    def _real(
        self, name: str, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
    ) -> None:
        value = getattr(self, name)
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < least or value <= above or value >= below:
            limit = f"above {above:g}" if above > -math.inf else f"of {least:g} or more"
            limit += f" and below {below:g}" if below < math.inf else ""
            raise ConfigError(f"{name} must be a number {limit}, received {value!r}")
        setattr(self, name, float(value))


@dataclass(kw_only=True)
class TrainConfig(Training):
    """All settings of the trainer.

    Arguments:
        max_epochs: passes over the training rows.
        batch_size: rows a step, over all processes.
        learning_rate: of Adam, at its peak.
        warmup_steps: over which it rises at first (at most a tenth of all steps).
        evaluate_every: epochs between evaluations.
        checkpoint_every_seconds: how often a run folder gets a checkpoint, beside the one before the first
            step and the one at the end.
        checkpoint_every_steps: the same in steps, whichever comes first.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        strategy: how several processes are started, ``ddp_spawn`` (the same as ``auto``), ``ddp_fork`` or
            ``ddp_notebook``.
        seed: of batches, noise and everything else random.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    max_epochs: int = 200
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    evaluate_every: int = 1
    checkpoint_every_seconds: float = 60.0
    checkpoint_every_steps: int | None = None
    device: str = "auto"
    strategy: str = "auto"
    seed: int = 0
    # By itself the trainer does what is plainest; what estimators choose is in `Training`.
    weight_decay: float | None = 0.0
    schedule: str = "cosine"
    ema: float | None = None
    patience: int | None = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_epochs", "batch_size", "evaluate_every"):
            self._whole(name, 1)
        for name in ("warmup_steps", "seed"):
            self._whole(name, 0)
        if self.checkpoint_every_steps is not None:
            self._whole("checkpoint_every_steps", 1)
        self._real("learning_rate", above=0.0)
        self._real("checkpoint_every_seconds", least=0.0)
        check_choice("strategy", self.strategy, STRATEGIES)
        if not isinstance(self.device, str) or self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device must be auto, cpu or cuda, received {self.device!r}")

    def learning_rate_at(self, step: int, total_steps: int, tail: Tail | None = None) -> float:
        """The learning rate at an optimiser step: a pure function of these and the tail, if it has begun."""
        warmup = min(self.warmup_steps, total_steps // 10)
        rate = self.learning_rate * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
        if self.schedule == "cosine":
            share = max(0, step - warmup) / max(1, total_steps - warmup)
            return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        if self.schedule == "plateau":
            return rate * (tail or Tail.of_budget(total_steps)).factor(step)
        return rate
