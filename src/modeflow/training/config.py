"""How to train: one flat, checked set of settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

from modeflow.errors import ConfigError, nearest
from modeflow.training.tail import Tail
from modeflow.transforms.activations import ACTIVATIONS

__all__ = ["TrainConfig"]

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


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the trainer.

    Attributes:
        max_epochs: passes over the training rows.
        batch_size: rows a step, over all processes.
        learning_rate: of Adam, at its peak.
        weight_decay: decoupled (AdamW): every step multiplies all weights by one minus this times the rate.
        schedule: after a linear rise over `warmup_steps` (at most a tenth of all steps): ``cosine`` decay to
            zero over `max_epochs`; ``constant``; or ``plateau``, constant until `patience` is used up, then
            from the best weights a linear decay to zero over half as many steps as there were, with
            which training ends (the decay ends with `max_epochs` where patience does not come first).
        gradient_clip: largest norm of the gradient; None for no limit.
        ema: decay of an exponential average of the weights, which is then what is evaluated and kept; at step
            t it is (1 + t) / (10 + t) where that is less.
        patience: evaluations without a better validation before training stops, or, with ``plateau``, before
            the decay (during which they are counted anew); None: never.
        evaluate_every: epochs between evaluations.
        checkpoint_every_seconds, checkpoint_every_steps: how often a run folder gets a checkpoint, whichever
            comes first; there is one before the first step and one at the end in any case.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. devices: processes. strategy: how several processes
            are started, ``ddp_spawn`` (the same as ``auto``), ``ddp_fork`` or ``ddp_notebook``.
        precision: ``32-true``, ``64-true`` (the model becomes float64) or ``bf16-mixed`` (training only:
            densities are never reported from bf16).
        activations: what is stored for the gradient: ``keep`` all, ``recompute`` (segments of layers are run
            again), or ``invert`` (layers are inverted: memory hardly grows with depth). Less memory, up to
            twice the time.
        seed: of batches, noise and everything else random.
        tensorboard: also write TensorBoard events into the run folder.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    max_epochs: int = 200
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "cosine"
    warmup_steps: int = 100
    gradient_clip: float | None = 5.0
    ema: float | None = None
    patience: int | None = 30
    evaluate_every: int = 1
    checkpoint_every_seconds: float = 60.0
    checkpoint_every_steps: int | None = None
    device: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    activations: str = "keep"
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "evaluate_every", "devices"):
            self._whole(name, 1)
        for name in ("warmup_steps", "seed"):
            self._whole(name, 0)
        for name in ("patience", "checkpoint_every_steps"):
            if getattr(self, name) is not None:
                self._whole(name, 1)
        self._real("learning_rate", above=0.0)
        self._real("weight_decay", least=0.0)
        self._real("checkpoint_every_seconds", least=0.0)
        if self.gradient_clip is not None:
            self._real("gradient_clip", above=0.0)
        if self.ema is not None:
            self._real("ema", above=0.0, below=1.0)
        self._choice("schedule", SCHEDULES)
        self._choice("precision", PRECISIONS)
        self._choice("activations", ACTIVATIONS)
        self._choice("strategy", STRATEGIES)
        if not isinstance(self.tensorboard, bool):
            raise ConfigError(f"tensorboard must be true or false, received {self.tensorboard!r}")
        if not isinstance(self.device, str) or self.device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device must be auto, cpu or cuda, received {self.device!r}")

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise ConfigError(f"{name} must be an integer of {least} or more, received {value!r}")
        object.__setattr__(self, name, int(value))  # NumPy's integers are not JSON

    def _real(
        self, name: str, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
    ) -> None:
        value = getattr(self, name)
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < least or value <= above or value >= below:
            limit = f"above {above:g}" if above > -math.inf else f"of {least:g} or more"
            limit += f" and below {below:g}" if below < math.inf else ""
            raise ConfigError(f"{name} must be a number {limit}, received {value!r}")
        object.__setattr__(self, name, float(value))

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in allowed:
            raise ConfigError(
                f"{name} must be one of {', '.join(allowed)}; received {value!r}{nearest(value, allowed)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The configuration with these settings; unknown keys are refused, the nearest suggested."""
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"{key!r} is not a training setting{nearest(key, known)}")
        return cls(**values)

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
