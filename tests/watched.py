"""A flow that writes down what it is shown, and whose density in training mode is visibly another.

Its first layer is the identity. In training mode it claims `LIFT` nats more than is so, and what is drawn
through it is not a number; so a number that was computed in training mode, or a training in evaluation mode,
shows. Every batch is kept with the mode in which it came and whether a gradient was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from modeflow.densities import StandardNormal
from modeflow.densities.flow import Flow
from modeflow.estimators import base
from modeflow.flows import FLOWS
from modeflow.latents import posteriors
from modeflow.nets import MLP
from modeflow.transforms import Composite, ConditionalAffine
from modeflow.transforms.base import Transform
from modeflow.transforms.image import Flatten

#: Nats that the density claims beyond what is so, in training mode.
LIFT = 40.0


@dataclass
class Seen:
    """One batch: what part saw it, its values, and how it was asked."""

    part: str
    rows: Tensor
    training: bool
    gradient: bool


class Watch:
    """What the layers of the models made within `watched` were shown, in order."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def see(self, part: str, rows: Tensor, training: bool) -> None:
        self.seen.append(Seen(part, rows.detach().double().clone(), training, torch.is_grad_enabled()))

    def of(self, part: str, gradient: bool | None = None) -> list[Seen]:
        """The batches of a part, with or without a gradient."""
        return [s for s in self.seen if s.part == part and gradient in (None, s.gradient)]

    def take(self) -> list[Seen]:
        """What was seen so far; then start anew."""
        seen, self.seen = self.seen, []
        return seen


_WATCH: list[Watch] = []


class Watched(Transform):
    """The identity, which writes down what it is shown."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if _WATCH:
            _WATCH[-1].see("flow", x, self.training)
        return x, x.new_full((len(x),), LIFT if self.training else 0.0)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if _WATCH:
            _WATCH[-1].see("sample", u, self.training)
        return u * torch.nan if self.training else u, u.new_zeros(len(u))


class WatchedMLP(MLP):
    """The encoder's network, watched."""

    def forward(self, x: Tensor) -> Tensor:
        if _WATCH:
            _WATCH[-1].see("encoder", x, self.training)
        return super().forward(x)


def _table_flow(features: int, context_features: int = 0) -> Flow:
    affine = ConditionalAffine(features, context_features)
    return Flow(Composite([Watched(), affine]), StandardNormal(features), context_features)


def _image_flow(shape: tuple[int, int, int], context_features: int = 0) -> Flow:
    size = int(np.prod(shape))
    layers: list[Any] = [Watched(), Flatten(shape), ConditionalAffine(size, context_features)]
    return Flow(Composite(layers), StandardNormal(size), context_features, shape)


@contextmanager
def watched() -> Iterator[Watch]:
    """Within the block flows "watched" and "watched-image" exist, and encoders of tables are watched."""
    table = replace(FLOWS["realnvp"], key="watched", name="Watched", recipe=_table_flow, preset={})
    image = replace(FLOWS["glow"], key="watched-image", name="WatchedImage", recipe=_image_flow, preset={})
    watch = Watch()
    _WATCH.append(watch)
    try:
        with (
            patch.dict(FLOWS, {"watched": table, "watched-image": image}),
            patch.object(posteriors, "MLP", WatchedMLP),
            # Where states start is tested elsewhere: a few steps of the encoder will do.
            patch.object(base, "START_STEPS", 50),
        ):
            yield watch
    finally:
        _WATCH.pop()


def in_units(estimator: Any, seen: list[Seen]) -> np.ndarray:
    """Rows that the flow of a table was shown, in the units of the data, noise included."""
    transform: Any = estimator.model_.transform
    columns = transform.transforms[-1] if isinstance(transform, Composite) else transform
    with torch.no_grad():
        return np.asarray(columns.sample(torch.cat([s.rows for s in seen]).to(columns.mean)).cpu().numpy())


def wrong_modes(seen: list[Seen]) -> list[str]:
    """Batches of the flow with a gradient in evaluation mode, or without one in training mode.

    The encoder is always in the mode of the flow that is asked next: a training that holds the encoder asks
    it without a gradient.
    """
    wrong, mode = [], None
    for s in reversed(seen):
        if s.part == "encoder":
            right = mode is None or s.gradient or s.training == mode
        else:
            mode = s.training
            right = s.gradient == s.training
        if not right:
            gradient, now = ("a" if s.gradient else "no"), ("training" if s.training else "evaluation")
            wrong.append(f"{s.part}: {len(s.rows)} rows with {gradient} gradient, in {now} mode")
    return wrong
