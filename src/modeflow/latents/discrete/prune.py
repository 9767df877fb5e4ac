"""Switching off states that provably hold nothing."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from modeflow.latents.priors import CategoricalPrior
from modeflow.progress import track

__all__ = ["prune_dead_states"]

#: A state that expects fewer training rows than this may hold none.
_SUSPECT_ROWS = 3.0
#: Rows evaluated at once, in all states.
_ROWS = 1024


class States(Protocol):
    """What is asked of a model with K states."""

    prior: CategoricalPrior

    @property
    def n_states(self) -> int:
        """K."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def dtype(self) -> torch.dtype:
        """Its type."""

    def state_probs(self) -> Tensor:
        """p(z), ``(A,)``."""

    def log_joint(self, x: Tensor) -> Tensor:
        """``log p(x, z = k)``, ``(B, A)``."""


def prune_dead_states(
    model: States,
    train: Tensor,
    validation: Tensor,
    weight: Tensor | None = None,
    validation_weight: Tensor | None = None,
) -> list[int]:
    """Switch off states that no row needs: only while training and validation likelihood do not fall.

    A state that holds no data takes prior mass from the others; without it every other density rises by
    ``-log(1 - pi_k)``. Whether that outweighs what the state gave to its rows is computed exactly, on all
    rows of both, one state after the other, the least probable first. A state that is someone's island,
    however rare, stays.

    Arguments:
        model: in evaluation mode. train, validation: rows as it sees them.
        weight, validation_weight: of the rows.

    Returns:
        the states switched off.
    """
    if model.n_states == 1:
        return []
    states = model.prior.active_states().cpu()
    suspects = (model.state_probs().double().cpu() * len(train) < _SUSPECT_ROWS).nonzero().flatten()
    if not len(suspects) or len(states) == 1:
        return []
    joints = [_log_joint(model, rows) for rows in (train, validation)]
    weights = [
        torch.ones(len(joint), dtype=torch.float64) if w is None else w.double().cpu()
        for joint, w in zip(joints, (weight, validation_weight), strict=True)
    ]
    log_prior = model.prior.log_probs().detach().double().cpu()[states]
    kept = torch.ones(len(states), dtype=torch.bool)

    def means(keep: Tensor) -> Tensor:
        mass = torch.logsumexp(log_prior[keep], 0)
        sums = [torch.logsumexp(joint[:, keep], 1) - mass for joint in joints]
        return torch.stack([(s * w).sum() / w.sum() for s, w in zip(sums, weights, strict=True)])

    best = means(kept)
    for state in suspects[log_prior[suspects].argsort()].tolist():
        without = kept.clone()
        without[state] = False
        if not without.any():
            break
        after = means(without)
        if bool(((after >= best) & best.isfinite()).all()):
            kept, best = without, after
    dead = states[~kept]
    if len(dead):
        model.prior.switch_off(dead)
    return [int(k) for k in dead]


def _log_joint(model: States, rows: Tensor) -> Tensor:
    """Of the rows, float64 on the CPU."""
    with torch.no_grad():
        blocks = track(rows.split(_ROWS), "look for states without rows")
        parts = [model.log_joint(part.to(model.device, model.dtype)) for part in blocks]
    return torch.cat(parts).double().cpu()
