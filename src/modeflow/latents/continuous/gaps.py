r"""How far the evidence lower bound of a model is from its density, and how much of that is the encoder's.

.. math:: \log p(x) - \mathrm{ELBO}(q_\phi)
    = \underbrace{\log p(x) - \mathrm{ELBO}(q^*)}_{\text{approximation}}
    + \underbrace{\mathrm{ELBO}(q^*) - \mathrm{ELBO}(q_\phi)}_{\text{amortisation}}

with q* the best of its family for every row: from what the encoder says by gradient steps (`Refinement`).

Reference:
    Cremer, Li, Duvenaud, *Inference Suboptimality in Variational Autoencoders*, 2018,
    https://arxiv.org/abs/1801.03558
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from modeflow.errors import DataError
from modeflow.latents.approximate import Approximate
from modeflow.latents.continuous.objective import power_mean
from modeflow.latents.continuous.refine import Joint, Refinement

__all__ = ["Gap", "Gaps", "inference_gaps"]


class Bounded(Joint, Protocol):
    """What is asked of a model with a continuous z."""

    chunk_rows: int

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its parameters."""

    def amortised_posterior(self, x: Tensor) -> Approximate:
        """q(z | x), by the encoder alone."""

    def log_weights_of(self, x: Tensor, q: Approximate, draws: int) -> Tensor:
        """``log p(x, z_s) - log q(z_s)`` of draws of q, ``(B, S)``."""


@dataclass(frozen=True)
class Gap:
    """A mean over rows, nats.

    Attributes:
        value: of it. standard_error: over rows, the noise of their draws with it; NaN for a single row.
    """

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.standard_error:.3f}"


@dataclass(frozen=True)
class Gaps:
    """Where the bound of a model is lost, means over rows, nats.

    Attributes:
        log_prob: IWAE by draws of q*: a lower bound of ``log p(x)``.
        best: the evidence lower bound of q*. elbo: that of the encoder's q.
        approximation: `log_prob` less `best`. amortisation: `best` less `elbo`. Both are estimates; the first
            is too small where IWAE is not yet the density, the second where the steps have not found q*.
        rows: how many. draws: of z a row. steps: to q*.
    """

    log_prob: Gap
    best: Gap
    elbo: Gap
    approximation: Gap
    amortisation: Gap
    rows: int
    draws: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for files, an error that is no number as None."""
        plain = asdict(self)
        for value in plain.values():
            if isinstance(value, dict) and not math.isfinite(value["standard_error"]):
                value["standard_error"] = None
        return plain

    def __str__(self) -> str:
        return "\n".join(
            [
                f"log p(x), nats      {self.log_prob} (lower bound, {self.draws} draws, {self.rows} rows)",
                f"ELBO, best q        {self.best} ({self.steps} steps a row)",
                f"ELBO, encoder       {self.elbo}",
                f"approximation gap   {self.approximation}",
                f"amortisation gap    {self.amortisation}",
            ]
        )


@torch.no_grad()
def inference_gaps(
    model: Bounded,
    x: Tensor,
    refinement: Refinement | None = None,
    draws: int = 128,
    logabsdet: Tensor | None = None,
) -> Gaps:
    """The approximation and the amortisation gap of a model on rows.

    Both bounds are by the same noise, that of the rows, and never by what q* was fitted to.

    Arguments:
        model: of a continuous z. x: rows as the model sees them, ``(B, *event)``.
        refinement: to q*; 200 steps if None. draws: of z, for every mean.
        logabsdet: of the map of rows to what the model sees, ``(B,)``, which is added to densities.

    Raises:
        DataError: no rows.
    """
    if len(x) == 0:
        raise DataError("gaps need at least one row")
    to_best = Refinement(steps=200) if refinement is None else refinement
    parts = []
    for rows in x.to(model.device, model.dtype).split(model.chunk_rows):
        said = model.amortised_posterior(rows)
        found = [model.log_weights_of(rows, q, draws).double() for q in (to_best(model, rows, said), said)]
        parts.append(torch.stack([power_mean(found[0], 1.0, 1), found[0].mean(1), found[1].mean(1)]))
    bounds = torch.cat(parts, 1)
    log_prob, best, elbo = bounds if logabsdet is None else bounds + logabsdet.to(bounds)
    return Gaps(
        _mean(log_prob),
        _mean(best),
        _mean(elbo),
        _mean(log_prob - best),
        _mean(best - elbo),
        rows=len(x),
        draws=draws,
        steps=to_best.steps,
    )


def _mean(values: Tensor) -> Gap:
    n = len(values)
    return Gap(float(values.mean()), float(values.std()) / math.sqrt(n) if n > 1 else math.nan)
