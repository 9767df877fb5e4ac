"""Coupling layers: half of the features parametrise the map of the other half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modeflow.accelerate import Conditioned, buffer, description_of
from modeflow.errors import ConfigError
from modeflow.transforms.base import Transform, sum_event
from modeflow.transforms.elementwise import Elementwise

__all__ = ["Coupling", "CouplingLayer"]

ConditionerFactory = Callable[[int, int, int], nn.Module]
"""``(in_features, out_features, context_features) -> module``, called as ``module(x, context)``."""


class CouplingLayer(Transform):
    """What all couplings do once they can `split` an event, `join` it, and have `_params` for what moves."""

    elementwise: Elementwise

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(kept, moved)``."""
        raise NotImplementedError

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Undo `split`."""
        raise NotImplementedError

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self.split(x)
        moved, logderivative = self.elementwise(moved, self._params(kept, context))
        return self.join(kept, moved), sum_event(logderivative)

    def again(
        self, u: Tensor, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Callable[..., Tensor], Tensor, Tensor]:
        # The conditioner runs once for both ways.
        kept, moved = self.split(u)
        kept = kept.detach().clone().requires_grad_()
        params = self._params(kept, context)
        with torch.no_grad():
            x = self.elementwise.inverse(moved, params)[0]
        x.requires_grad_()
        out, logderivative = self.elementwise(x, params)
        return (kept, x), self.join, self.join(kept, out), sum_event(logderivative)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept, moved = self.split(u)
        moved, logderivative = self.elementwise.inverse(moved, self._params(kept, context))
        return self.join(kept, moved), sum_event(logderivative)


class Coupling(CouplingLayer):
    r"""Masked features pass unchanged and parametrise an elementwise map of the others.

    .. math:: u_a = x_a, \qquad u_b = f(x_b;\ \theta(x_a, c)), \qquad
        \log|\det| = \sum_b \log f'(x_b; \theta)

    Both directions cost one pass of the conditioner.

    Arguments:
        mask: boolean, shape ``(D,)``; True marks the features that pass unchanged. All False is
            allowed (one feature): the parameters then depend on the context alone.
        elementwise: the map of the transformed features.
        conditioner: factory of the network θ.
        context_features: width of the context.

    Raises:
        ConfigError: if the mask transforms nothing.
    """

    def __init__(
        self,
        mask: Tensor,
        elementwise: Elementwise,
        conditioner: ConditionerFactory,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        mask = mask.bool()
        if bool(mask.all()):
            raise ConfigError("coupling: the mask passes every feature, so nothing is transformed")
        self.context_features = context_features
        self.elementwise = elementwise
        self.one_pass_inverse = elementwise.one_pass_inverse
        kept = torch.nonzero(mask).flatten()
        moved = torch.nonzero(~mask).flatten()
        self.n_kept, self.n_moved = len(kept), len(moved)
        # With the kept features in front no gather is needed; recipes permute between layers anyway.
        self.contiguous = bool((kept == torch.arange(len(kept))).all())
        self.register_buffer("order", torch.cat((kept, moved)), persistent=False)
        self.register_buffer("back", torch.argsort(torch.cat((kept, moved))), persistent=False)
        self.conditioner = conditioner(self.n_kept, self.n_moved * elementwise.n_params, context_features)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features that pass, and those that are moved."""
        if not self.contiguous:
            x = x.index_select(1, self.order)  # type: ignore[arg-type]
        kept, moved = x.split((self.n_kept, self.n_moved), dim=1)
        return kept, moved

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Undo `split`."""
        x = torch.cat((kept, moved), dim=1)
        return x if self.contiguous else x.index_select(1, self.back)  # type: ignore[arg-type]

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        context = context if self.context_features else None
        params = self.conditioner(kept, context)
        return params.unflatten(-1, (self.n_moved, self.elementwise.n_params))

    def native_description(self) -> Conditioned | None:
        elementwise, network = description_of(self.elementwise), description_of(self.conditioner)
        if elementwise is None or network is None or elementwise.n_params != self.elementwise.n_params:
            return None
        features = len(self.order)  # type: ignore[arg-type]
        return Conditioned(
            features,
            self.context_features,
            seen=self.n_kept,
            moved=self.n_moved,
            index=buffer(self, "order", features, dtype=torch.int64),
            autoregressive=False,
            map=elementwise,
            network=network,
        )
