"""How a flow becomes known by its name: `recipe` on the function that builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from modeflow.densities.base import Density
from modeflow.transforms.base import Exactness

__all__ = ["FLOWS", "RecipeInfo", "recipe"]

_Recipe = TypeVar("_Recipe", bound=Callable[..., Density])


@dataclass(frozen=True)
class RecipeInfo:
    """One recipe: its name in the literature and what its directions cost.

    `cost_log_prob` and `cost_sample` count passes through the conditioners for D features.
    """

    key: str
    name: str
    recipe: Callable[..., Density]
    paper: str
    event: str
    density: Exactness
    cost_log_prob: str
    cost_sample: str
    preset: dict[str, Any]


#: What `modeflow models` lists and what `flow="..."` accepts, by name.
FLOWS: dict[str, RecipeInfo] = {}


def recipe(
    key: str,
    paper: str,
    *,
    event: str = "vector",
    density: Exactness = "exact",
    log_prob: str = "1 pass",
    sample: str = "1 pass",
    **preset: Any,
) -> Callable[[_Recipe], _Recipe]:
    """Make a function that builds a flow known by a name, with what its directions cost.

    Arguments:
        key: the name. paper: author, year and number.
        event: ``"vector"`` or ``"image"``. density: what `log_prob` of the flow is.
        log_prob, sample: what these cost, in words.
        preset: options that the name stands for, and that users cannot set.
    """

    def register(function: _Recipe) -> _Recipe:
        name = getattr(function, "__name__", key)
        FLOWS[key] = RecipeInfo(key, name, function, paper, event, density, log_prob, sample, preset)
        return function

    return register
