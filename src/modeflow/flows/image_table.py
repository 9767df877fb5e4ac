"""Rows of a table as images, so that every flow of images fits wherever a flow of rows does."""

from __future__ import annotations

import math
from typing import Any

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.errors import ConfigError
from modeflow.flows.stack import context_layers
from modeflow.transforms.base import Composite, Inverse
from modeflow.transforms.image import Flatten

__all__ = ["as_table_flow", "image_shape"]


def image_shape(key: str, features: int, shape: Any = None) -> tuple[int, int, int]:
    """The image ``(C, H, W)`` that a row of so many columns is.

    Raises:
        ConfigError: a shape that does not fit the columns, or none given and the rows are no square image.
    """
    if shape is not None:
        numbers = tuple(shape) if isinstance(shape, (list, tuple)) else ()
        if len(numbers) != 3 or not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ConfigError(f"shape must be three positive integers [C, H, W], received {shape!r}")
        if math.prod(numbers) != features:
            c, h, w = numbers
            raise ConfigError(f"shape [{c}, {h}, {w}] has {c * h * w} numbers, a row has {features}")
        return numbers
    for channels in (1, 3):
        side = math.isqrt(features // channels)
        if channels * side * side == features and side % 2 == 0:
            return (channels, side, side)
    raise ConfigError(
        f"{key} is a flow of images, and {features} columns are no square image: give its shape, "
        "flow_options={'shape': [channels, height, width]}, or take a flow of vectors"
    )


def as_table_flow(flow: Density, context_affine: str = "auto") -> Flow:
    """The same flow over rows ``(C * H * W,)``, after an affine map of the row for each context."""
    if not isinstance(flow, Flow):
        raise ConfigError(f"{type(flow).__name__} is no flow")
    shape, features = flow.event_shape, math.prod(flow.event_shape)
    parts = [*context_layers(features, flow.context_features, context_affine), Inverse(Flatten(shape))]
    return Flow(Composite([*parts, flow.transform]), flow.base, flow.context_features, (features,))
