"""Where the states start: one on each island of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from modeflow.latents.discrete.islands import Relief, survey
from modeflow.latents.discrete.model import DiscreteLatentModel
from modeflow.latents.discrete.partition import Survey, partition
from modeflow.latents.discrete.stable import stable_islands
from modeflow.latents.starting import Looked, as_rows
from modeflow.nets.randomness import ours_alone, stream
from modeflow.optimisers import Adam
from modeflow.progress import busy, track
from modeflow.transforms import Composite, ConditionalAffine

__all__ = ["MAX_ROWS", "IslandStart", "fit_encoder", "look"]

#: Rows that islands are looked for in.
MAX_ROWS = 10_000
#: Nats by which the encoder may miss the parts that the states start on.
_GOOD_ENCODER = 0.01


def look(x: Tensor, seed: int = 0, max_rows: int = MAX_ROWS) -> Survey:
    """The islands of the (standardised) rows ``(N, D)``, from at most so many of them; for `IslandStart`.

    The peaks of the density, unless draws of the rows agree on more islands than stand out there.
    """
    index = np.arange(len(x))
    if len(x) > max_rows:
        index = np.sort(np.random.default_rng(seed).choice(len(x), max_rows, replace=False))
    rows = x.double().cpu().numpy()[index]
    with busy("look for islands"):
        relief = survey(rows)
        again = stable_islands(rows, seed)
        if again.count > relief.cut().count:
            relief = Relief.of(again, relief.neighbours)
        return Survey(rows, relief, index)


@dataclass(frozen=True)
class IslandStart:
    """Starts the states of a model on the islands of the (standardised) rows ``(N, D)``.

    The rows are cut into K parts (`partition`). The prior gets their weights, the flow's `ConditionalAffine`
    their means and covariances, and the encoder is fitted to them, for at most so many steps. So training
    starts with states that are all in use, each on an island of whatever shape, or on one of the Gaussians
    that an island needs; `Marginal` lets the flow take their shape before rows may change their state.

    Arguments:
        steps: of the encoder at the most. batch_size: rows a step.
    """

    steps: int = 2000
    batch_size: int = 512
    looks: ClassVar[bool] = True

    def __call__(
        self, model: DiscreteLatentModel, rows: Tensor | Looked, seed: int = 0, steps: int | None = None
    ) -> None:
        if model.n_states == 1 or model.encoder is None:
            return
        found = rows if isinstance(rows, Survey) else look(as_rows(rows), seed)
        affine = _context_affine(model)
        parts = partition(found, model.n_states, affine is not None and affine.full, seed)
        model.prior.set_probs(torch.from_numpy(parts.weights))
        if affine is not None:
            for k in range(model.n_states):
                mean, covariance = torch.from_numpy(parts.means[k]), torch.from_numpy(parts.covariances[k])
                affine.set_gaussian(k, mean, covariance)
        most = self.steps if steps is None else min(steps, self.steps)
        shares = torch.from_numpy(parts.shares)
        fit_encoder(model, torch.from_numpy(found.rows), shares, most, self.batch_size)


def fit_encoder(
    model: DiscreteLatentModel, rows: Tensor, shares: Tensor, steps: int, batch_size: int
) -> None:
    """Fit q(z|x) to the shares of the parts, until nearly nothing is missing."""
    encoder = model.encoder
    assert encoder is not None
    rows, shares = rows.to(model.device, model.dtype), shares.to(model.device, model.dtype)
    least = float(torch.special.entr(shares).sum(1).mean())
    optimiser = Adam(encoder.parameters(), lr=3e-3)
    size, recent = min(batch_size, len(rows)), math.inf
    for step in track(range(steps), "start the states"):
        with ours_alone(encoder):
            index = torch.randint(len(rows), (size,), generator=stream(torch.device("cpu")))
            loss = -(shares[index] * encoder(rows[index])).sum(-1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        value = float(loss.detach()) - least
        recent = value if step == 0 else 0.95 * recent + 0.05 * value
        if step >= 100 and recent < _GOOD_ENCODER:
            return


def _context_affine(model: DiscreteLatentModel) -> ConditionalAffine | None:
    transform = getattr(model.likelihood, "transform", None)
    first = next(iter(transform.transforms), None) if isinstance(transform, Composite) else None
    return first if isinstance(first, ConditionalAffine) else None
