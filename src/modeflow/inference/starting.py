"""Where a fit to a target starts: rows that chains at falling temperatures find, a density of their size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.densities.preprocessed import Preprocessed
from modeflow.densities.steps import at, hmc_step, normal_like
from modeflow.errors import ConfigError
from modeflow.flows import build_flow
from modeflow.inference.targets import LogProb
from modeflow.latents.base import LatentModel
from modeflow.models import DiscreteNVF
from modeflow.progress import track
from modeflow.transforms import Composite, ConditionalAffine, Inverse, Standardize

__all__ = ["annealed_rows", "build_density", "flow_on", "start_states"]

#: Powers of the target that chains go through, from flat to itself; transitions of each, and of the first.
_FLATTEST, _RUNGS = 0.02, 12
_TRANSITIONS, _FIRST = 8, 40
_LEAPFROG = 5
_ACCEPT = 0.65
#: Draws of each state for the mass around it.
_DRAWS = 256


def annealed_rows(
    log_prob: LogProb,
    n: int,
    event_shape: tuple[int, ...],
    spread: float = 3.0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    r"""Rows where a target has density: ends of chains for :math:`p^\beta`, β rising from 0.02 to 1.

    A flat power of the target is wide and has low barriers, so that chains part over all of it before they
    settle on its islands. How many end on each is no measure of its mass.

    Arguments:
        log_prob: of the target. n: chains. event_shape: of a row.
        spread: they start at N(0, spread² I); any number of the target's order of magnitude will do.
        generator: source of randomness.

    Returns:
        ``(n, *event_shape)``; cost: 640 gradients of n rows.
    """
    x = spread * normal_like(torch.empty(n, *event_shape, dtype=dtype, device=device), generator)
    size = torch.full((n,), 0.1 * spread, dtype=dtype, device=device)
    inverse_mass = torch.ones((), dtype=dtype, device=device)
    powers = torch.logspace(0, 1, _RUNGS, base=1 / _FLATTEST, dtype=torch.float64) * _FLATTEST
    for rung, beta in enumerate(track(powers.tolist(), "look for islands of the target")):

        def tempered(x: Tensor, beta: float = beta) -> Tensor:
            return beta * log_prob(x)

        place = at(tempered, x)
        for _ in range(_FIRST if rung == 0 else _TRANSITIONS):
            moved = hmc_step(tempered, place, size, _LEAPFROG, inverse_mass, generator)
            place = moved.place
            # Each chain its own step: islands may be of different widths.
            size = size * (moved.acceptance - _ACCEPT).exp()
        x = place.x
    return x[place.log_prob > -torch.inf]


def flow_on(flow: Density, rows: Tensor | None) -> Flow:
    """A flow behind an affine map, learned with it, that begins by standardising the rows ``(N, D)``."""
    assert isinstance(flow, Flow)
    affine = ConditionalAffine(flow.event_shape[0])
    if rows is not None:
        affine.set_gaussian(0, rows.mean(0), torch.diag(rows.var(0).clamp_min(1e-12)))
    return Flow(Composite([affine, flow.transform]), flow.base, flow.context_features)


def build_density(
    flow: str,
    event_shape: tuple[int, ...],
    n_states: int,
    rows: Tensor | None,
    options: Mapping[str, Any] | None,
) -> Density:
    """A density by the name of its flow, of the size and place of the rows.

    With one state it is a flow, turned round where only the other direction is quick: what is scored is then
    what was drawn. With more it is `DiscreteNVF` on standardised rows.

    Raises:
        ConfigError: for an unknown name or option, or events that are no vectors.
    """
    if len(event_shape) != 1:
        raise ConfigError(
            f"a flow by its name is of vectors; events have shape {event_shape}: pass a density"
        )
    features = event_shape[0]
    if n_states > 1:
        model = DiscreteNVF(features, n_states, flow=flow, flow_options=options)
        standardize = Standardize(features)
        return Preprocessed(standardize if rows is None else standardize.fit(rows), model)
    built = build_flow(flow, features, 0, None if options is None else dict(options))
    if isinstance(built, Flow) and built.transform.bijective:
        if not built.transform.one_pass_inverse:
            built = Flow(Inverse(built.transform), built.base)
        return flow_on(built, rows)
    return built


def start_states(
    density: Density, log_prob: LogProb, rows: Tensor, seed: int, generator: torch.Generator
) -> None:
    r"""Start the states of a model of them on the rows, with the mass that the target has around each.

    .. math:: \pi_k \propto \int \tilde p(x)\, q(k | x)\, dx = \pi_k E_{q_k}[\tilde p / q]

    which says what chains, that stay on the island that they fell on, cannot. Nothing without states.
    """
    model = density.model if isinstance(density, Preprocessed) else density
    if not isinstance(model, LatentModel):
        return
    seen = density.encode(rows)[0] if isinstance(density, Preprocessed) else rows
    model.start(seen, seed)
    with torch.no_grad():
        x, log_q, log_weights = density.rsample_strata(_DRAWS, generator)
        log_p = log_prob(x.flatten(0, 1).to(density.dtype)).view(log_q.shape)
        mass = torch.logsumexp(log_p - log_q, 0) + log_weights
    if bool(mass.isfinite().any()):
        model.set_state_probs(torch.softmax(mass, 0))
