"""The check of what a density does with a temperature."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modeflow.errors import ConfigError
from modeflow.testing.tools import require

__all__ = ["check_temperature"]

_ROWS = 64


@torch.no_grad()
def check_temperature(case: Any) -> None:
    """A temperature is honoured or refused with a `ConfigError`, never ignored; nothing of it stays behind.

    Drawn by the same generator, samples at 1/2 differ from those at 1 unless it is refused; those at 1 are
    the same before and after.
    """
    density = case.build(torch.float32)
    context = case.some_contexts(1, torch.float32)
    given = None if context is None else context[0]

    def draw(*temperature: float) -> Tensor:
        x: Tensor = density.sample(_ROWS, given, torch.Generator().manual_seed(11), *temperature)
        return x

    before = draw()
    require(torch.equal(before, draw(1.0)), "a temperature of 1 changes the samples")
    try:
        cool = draw(0.5)
    except ConfigError as error:
        require("temperature" in str(error), f"a temperature is refused without its name: {error}")
    else:
        require(not torch.equal(cool, before), "the temperature is ignored: neither honoured nor refused")
        for temperature in (0.5, 0.0):
            x = draw(temperature)
            require(x.shape == before.shape, f"samples at temperature {temperature} have another shape")
            require(bool(torch.isfinite(x).all()), f"a sample at temperature {temperature} is not finite")
    require(torch.equal(before, draw()), "a temperature changes the samples drawn after it")
    for wrong in (-1.0, math.nan, math.inf):
        try:
            draw(wrong)
        except ConfigError:
            continue
        raise AssertionError(f"a temperature of {wrong} is accepted")
