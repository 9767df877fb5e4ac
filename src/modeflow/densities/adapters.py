"""Flows of other libraries as modeflow densities."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.nets.randomness import seeded

__all__ = ["NflowsDensity", "NormflowsDensity", "ZukoDensity"]


@contextmanager
def _seeded_by(generator: torch.Generator | None) -> Iterator[None]:
    """Let a library that knows only torch's global generator draw from `generator`."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with seeded(seed):
        yield


class _Adapter(Density):
    """Holds the foreign flow as `flow`; its parameters are this density's parameters."""

    def __init__(self, flow: nn.Module, features: int, context_features: int = 0) -> None:
        super().__init__((features,), context_features)
        if not isinstance(flow, nn.Module):
            raise ConfigError(f"{type(self).__name__} wraps a torch module, received {type(flow).__name__}")
        self.flow: Any = flow

    def _draw(self, n: int, context: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        if n == 0:
            return torch.zeros(0, *self.event_shape, dtype=self.dtype, device=self.device)
        with _seeded_by(generator):
            return self._draw(n, context)


class ZukoDensity(_Adapter):
    """A flow of zuko (`zuko.flows.*`): called with a context it gives a distribution.

    Arguments:
        flow: the flow. features, context_features: widths it was built with.
    """

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        if len(x) == 0:  # its reshapes do not know an empty batch
            return x.new_zeros(0)
        return self.flow(context).log_prob(x)

    def _draw(self, n: int, context: Tensor | None) -> Tensor:
        return self.flow(context).sample((n,) if context is None else ())


class NflowsDensity(_Adapter):
    """A flow of nflows (`nflows.flows.Flow`).

    Arguments:
        flow: the flow. features, context_features: widths it was built with.
    """

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.flow.log_prob(x, context=context)

    def _draw(self, n: int, context: Tensor | None) -> Tensor:
        # Its bases draw in torch's default type, whatever the type of the model.
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            if context is None:
                return self.flow.sample(n)
            return self.flow.sample(1, context=context).squeeze(1)
        finally:
            torch.set_default_dtype(default)


class NormflowsDensity(_Adapter):
    """A flow of normflows (`NormalizingFlow` or `ConditionalNormalizingFlow`).

    Arguments:
        flow: the flow. features, context_features: widths it was built with.
    """

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.flow.log_prob(x) if context is None else self.flow.log_prob(x, context)

    def _draw(self, n: int, context: Tensor | None) -> Tensor:
        drawn = self.flow.sample(n) if context is None else self.flow.sample(n, context)
        return drawn[0]
