"""Draws with importance weights: which of them are taken, how many count, and their mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["chosen_evenly", "effective_draws", "log_mean"]


def chosen_evenly(weights: Tensor, n: int, first: Tensor) -> Tensor:
    """Which n of S draws are taken, each with the probability of its weight, together spread over the weights
    evenly (systematic resampling), ``(B, n)``.

    Arguments:
        weights: logarithms, ``(S, B)``. first: a uniform number for every row, ``(B, 1)``.
    """
    until = weights.mT.double().softmax(1).cumsum(1)
    u = (first + torch.arange(n, device=first.device)) / n
    return torch.searchsorted(until, u.double() * until[:, -1:], right=True).clamp_max(len(weights) - 1)


def effective_draws(weights: Tensor) -> Tensor:
    """``(Σ w)² / Σ w²`` of weights by their logarithms, ``(S, B) -> (B,)``."""
    return weights.softmax(0).square().sum(0).reciprocal()


def log_mean(weights: Tensor) -> Tensor:
    """The logarithm of the mean over the first dimension, of logarithms."""
    return weights.logsumexp(0) - math.log(len(weights))
