"""Toy distributions by name: ``toy("ring:k=16,sigma=0.05")``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from modeflow.data.toy_base import Toy
from modeflow.data.toy_gaussians import (
    GaussianModes,
    gaussian_grid,
    gaussian_pair,
    gaussian_ring,
    gaussians,
)
from modeflow.data.toy_islands import Shapes
from modeflow.data.toy_shapes import Checkerboard, Moons, Pinwheel, Rings, Spirals, SwissRoll
from modeflow.errors import ConfigError, nearest

__all__ = ["TOYS", "GaussianModes", "Toy", "toy", "toy_names"]

#: Every toy by its short name; parameters and defaults are those of the constructor.
TOYS: dict[str, Callable[..., Toy]] = {
    "ring": gaussian_ring,
    "grid": gaussian_grid,
    "gaussians": gaussians,
    "pair": gaussian_pair,
    "shapes": Shapes,
    "rings": Rings,
    "checkerboard": Checkerboard,
    "moons": Moons,
    "spirals": Spirals,
    "pinwheel": Pinwheel,
    "swiss-roll": SwissRoll,
}


def toy_names() -> tuple[str, ...]:
    """Short names that `toy` knows."""
    return tuple(TOYS)


def toy(spec: str) -> Toy:
    """Build a toy from its name and parameters, ``"name"`` or ``"name:key=value,key=value"``.

    Example:
        >>> toy("gaussians:k=8,d=10").modes.shape
        (8, 10)

    Raises:
        ConfigError: an unknown name or parameter (the nearest one is suggested) or a bad value.
    """
    name, _, rest = spec.partition(":")
    name = name.strip().replace("_", "-")
    if name not in TOYS:
        hint = nearest(name, TOYS) or f"; known: {', '.join(TOYS)}"
        raise ConfigError(f"no toy is called '{name}'{hint}")
    build = TOYS[name]
    known = inspect.signature(build).parameters
    arguments: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, text = (piece.strip() for piece in item.partition("="))
        if not equals:
            raise ConfigError(f"'{item}' in '{spec}' is not of the form key=value")
        if key not in known:
            hint = nearest(key, known) or f"; it takes {', '.join(known)}"
            raise ConfigError(f"the toy '{name}' has no parameter '{key}'{hint}")
        kind = int if isinstance(known[key].default, int) else float
        try:
            arguments[key] = kind(text)
        except ValueError as error:
            wanted = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{key}={text} in '{spec}' must be {wanted}") from error
    built = build(**arguments)
    built.name = spec.strip()
    return built
