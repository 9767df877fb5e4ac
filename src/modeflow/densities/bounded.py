"""Flows with layers that draw: a lower bound, tightened by averaging over draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.errors import ConfigError
from modeflow.transforms.base import Transform, weakest
from modeflow.transforms.noise import in_row_noise, row_noise

__all__ = ["BoundedFlow", "log_mean_of_draws"]


def log_mean_of_draws(
    streams: Iterable[AbstractContextManager[None]], log_prob: Callable[[], Tensor]
) -> Tensor:
    r"""``log (1/S) Σ_s p_s``, where p_s is evaluated within the s-th of the streams (of noise)."""
    total: Tensor | None = None
    draws = 0
    for stream in streams:
        with stream:
            one = log_prob()
        total = one if total is None else torch.logaddexp(total, one)
        draws += 1
    assert total is not None
    return total - math.log(draws)


class BoundedFlow(Flow):
    r"""A flow whose transform draws on the way to noise; its `log_prob` is a lower bound.

    .. math:: \log p(x) \ge E \log \frac1S \sum_{s=1}^S p(z_s)\, e^{V(x, z_s)}

    While training one draw a row is taken (the ELBO); otherwise S draws whose noise is a function of the row
    (a hash of its values) and of the place of this flow in the model (`modeflow.transforms.noise`):
    independent from row to row and of what else draws, the same in every call and every batch, and tighter
    in expectation with every draw (IWAE). Noise common to all rows would bias the mean over a test set by
    one and the same error.

    Arguments:
        transform: with `exactness` "lower bound".
        base: density of the noise.
        context_features: width of the context.
        event_shape: of the data, where it is not that of the noise.
        draws: S.

    Raises:
        ConfigError: if `draws` is less than one.

    Reference:
        Burda, Grosse, Salakhutdinov, *Importance Weighted Autoencoders*, 2016,
        https://arxiv.org/abs/1509.00519
    """

    def __init__(
        self,
        transform: Transform,
        base: Density,
        context_features: int = 0,
        event_shape: tuple[int, ...] | None = None,
        draws: int = 16,
    ) -> None:
        super().__init__(transform, base, context_features, event_shape)
        if not isinstance(draws, int) or draws < 1:
            raise ConfigError(f"draws must be an integer of 1 or more, received {draws!r}")
        self.draws = draws
        self.exactness = weakest("lower bound", self.exactness)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self.training and not in_row_noise():
            return super()._log_prob(x, context)
        draws = 1 if self.training else self.draws
        one = super()._log_prob
        return log_mean_of_draws((row_noise(x, draw, self) for draw in range(draws)), lambda: one(x, context))

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("the density of a sample is known as a bound only: use sample and log_prob")
