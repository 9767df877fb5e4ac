"""A modeflow density as a `torch.distributions.Distribution`."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from modeflow.errors import ShapeError

__all__ = ["DensityDistribution"]


class Drawn(Protocol):
    """What is asked of a density."""

    event_shape: tuple[int, ...]
    context_features: int

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Of rows, ``(B,)``."""

    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """Draw n rows, of every context if there are any."""


class DensityDistribution(Distribution):
    """View of a density, at one context, through the interface of `torch.distributions`.

    Arguments:
        density: the density.
        context: None, one context ``(C,)``, or a batch of contexts ``(*batch, C)``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, density: Drawn, context: Tensor | None = None) -> None:
        if density.context_features and context is None:
            raise ShapeError(
                f"{type(density).__name__} is conditional: pass a context whose last dimension is "
                f"{density.context_features}"
            )
        self.density = density
        self.context = context
        batch = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch, torch.Size(density.event_shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DensityDistribution:
        """Return the distribution with a larger batch shape."""
        if self.context is None:
            new = DensityDistribution(self.density)
            new._batch_shape = torch.Size(batch_shape)
            return new
        return DensityDistribution(self.density, self.context.expand(*batch_shape, self.context.shape[-1]))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats, shape ``sample_shape + batch_shape``."""
        n = len(self._event_shape)
        lead = torch.broadcast_shapes(value.shape[: value.dim() - n], self._batch_shape)
        x = value.expand(*lead, *self._event_shape).reshape(-1, *self._event_shape)
        context = None
        if self.context is not None:
            context = self.context.expand(*lead, -1).reshape(-1, self.context.shape[-1])
        return self.density.log_prob(x, context).reshape(lead)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw ``sample_shape + batch_shape + event_shape``."""
        shape = torch.Size(sample_shape) + self._batch_shape
        count = int(torch.Size(shape).numel())
        if self.context is None:
            return self.density.sample(count).reshape(*shape, *self._event_shape)
        rows = self.context.expand(*shape, -1).reshape(-1, self.context.shape[-1])
        return self.density.sample(1, rows).reshape(*shape, *self._event_shape)
