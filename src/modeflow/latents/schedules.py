"""What is fitted when: stages, and what rises or stands still in the first optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from modeflow.errors import ConfigError
from modeflow.options import check_choice

__all__ = ["STAGES", "Schedule", "warmup", "whole_steps"]

#: What an objective fits: everything but the prior (of codes) or the proposal (of a tree), either of these
#: alone, or all.
STAGES = ("flow", "prior", "proposal", "joint")


@dataclass(frozen=True)
class Schedule:
    """What is fitted when, in optimiser steps; a latent has no use for what is not of its kind.

    Arguments:
        start_steps: over which the first layer of a flow of images is fitted alone, as a likelihood.
        code_warmup_steps: over which the pressure of the code length on the encoder of codes rises; after
            them dead codes stay dead.
        codebook_steps: after which codes stand still; None: never. Moving averages shorten distances,
            whatever the codes then cost; a codebook that follows them to the end undoes what the code length
            has taught.
        stage: one of `STAGES`.

    Raises:
        ConfigError: for another stage.
    """

    start_steps: int = 0
    code_warmup_steps: int = 0
    codebook_steps: int | None = None
    stage: str = "joint"

    def __post_init__(self) -> None:
        check_choice("stage", self.stage, STAGES)

    def at(self, stage: str, number: int) -> Schedule:
        """That of a stage: one after the first builds on what the first layer and the codes are by then."""
        later = {"start_steps": 0, "codebook_steps": 0} if number else {}
        return replace(self, stage=stage, **later)


def warmup(step: int | None, length: int) -> float:
    """Weight of a term at an optimiser step, that rises from 0 to 1 over `length` steps (None: after it)."""
    return 1.0 if step is None or length <= 0 else min(1.0, (step + 1) / length)


def whole_steps(name: str, value: Any) -> int:
    """A number of optimiser steps.

    Raises:
        ConfigError: unless it is an integer of 0 or more.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 0:
        raise ConfigError(f"{name} must be an integer of 0 or more, received {value!r}")
    return int(value)
