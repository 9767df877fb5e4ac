"""Where training starts: a part of the model that its recipe chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from modeflow.optimisers import Adam
from modeflow.progress import track

__all__ = ["Looked", "Starter", "as_rows", "fit_briefly"]


class Looked(Protocol):
    """Rows that something is already known of, such as where their islands are (`Survey`)."""

    @property
    def rows(self) -> np.ndarray:
        """Them, ``(N, ...)``."""


class Starter(Protocol):
    """Contract: called as ``starter(model, rows, seed, steps)``, it starts a model on its rows.

    Randomness comes from torch's global generator (seed it beforehand) and `seed`. `steps` are the most
    optimiser steps that it may take; None for its own number. One with a true ``looks`` looks for islands
    where it is given rows alone (`modeflow.latents.discrete.look`).
    """

    def __call__(self, model: Any, rows: Tensor | Looked, seed: int, steps: int | None) -> None:
        """Start the model."""


def as_rows(rows: Tensor | Looked) -> Tensor:
    """The rows alone."""
    return rows if isinstance(rows, Tensor) else torch.from_numpy(rows.rows)


def fit_briefly(
    parts: nn.Module, loss_of: Callable[[Tensor], Tensor], rows: int, steps: int, batch: int = 256
) -> None:
    """A few steps of Adam on `parts`, by a loss of the numbers of random rows."""
    optimiser = Adam(parts.parameters(), lr=2e-3)
    for _ in track(range(steps), "start"):
        loss = loss_of(torch.randint(rows, (batch,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
