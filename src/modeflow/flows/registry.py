"""Flows by their names: what users say, to what is built."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.errors import ConfigError, nearest
from modeflow.flows.image_table import as_table_flow, image_shape
from modeflow.flows.recipes import FLOWS, RecipeInfo

__all__ = ["build_flow", "flow_recipe", "image_flow"]


def flow_recipe(key: str) -> RecipeInfo:
    """Return the recipe of that name, in upper or lower case; the name of the recipe itself will do.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    word = str(key).lower()
    info = FLOWS.get(word) or next((i for i in FLOWS.values() if i.name.lower() == word), None)
    if info is None:
        raise ConfigError(f"flow {key!r} is not known{nearest(word, FLOWS)} (one of {', '.join(FLOWS)})")
    return info


def build_flow(
    key: str, features: int, context_features: int = 0, options: dict[str, Any] | None = None
) -> Density:
    """Build a registered flow over ``(features,)``.

    A flow of images takes a row as an image, channel by channel and line by line: its option ``shape`` is
    ``[channels, height, width]``; square images of one channel or three are recognised without. It has
    ``context_affine`` beside its recipe's options, as in `NSF`.

    Arguments:
        key: a name of `FLOWS`.
        features, context_features: widths of data and context.
        options: keyword arguments of the recipe.

    Raises:
        ConfigError: for an unknown name or option (the nearest is suggested).
    """
    info = flow_recipe(key)
    given = _checked_options(info, options or {}, ["context_affine"] if info.event == "image" else [])
    if info.event == "image":
        shape = image_shape(key, features, given.pop("shape", None))
        affine = given.pop("context_affine", "auto")
        return as_table_flow(info.recipe(shape, context_features, **given), affine)
    return info.recipe(features, context_features, **given)


def image_flow(
    key: str, shape: tuple[int, int, int], context_features: int = 0, options: Mapping[str, Any] | None = None
) -> Flow:
    """Build a registered flow of images over ``(channels, height, width)``.

    Arguments:
        key: a name of `FLOWS`. shape: of the images. context_features: width of the context.
        options: keyword arguments of the recipe; those of a context that is a map (``context_shape``,
            ``context_in``) only where the recipe knows them: others take it as a vector.

    Raises:
        ConfigError: a flow of vectors, or an unknown name or option (the nearest is suggested).
    """
    info = flow_recipe(key)
    if info.event != "image":
        images = ", ".join(k for k, i in FLOWS.items() if i.event == "image")
        raise ConfigError(f"flow {key!r} is one of vectors; for images there are {images}")
    known = inspect.signature(info.recipe).parameters
    plain = {k: v for k, v in (options or {}).items() if k in known or not k.startswith("context_")}
    flow = info.recipe(shape, context_features, **_checked_options(info, plain))
    assert isinstance(flow, Flow)
    return flow


def _checked_options(
    info: RecipeInfo, options: Mapping[str, Any], more: Sequence[str] = ()
) -> dict[str, Any]:
    known = list(inspect.signature(info.recipe).parameters)
    allowed = [n for n in known if n not in ("features", "shape", "context_features", *info.preset)]
    if info.event == "image" and more:
        allowed.append("shape")
    allowed += more
    for name in options:
        if name not in allowed:
            raise ConfigError(
                f"{name!r} is not an option of {info.key}{nearest(name, allowed)} "
                f"(options: {', '.join(allowed)})"
            )
    return {**info.preset, **options}
