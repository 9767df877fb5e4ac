"""A flow: a transform from data to noise, and the density of the noise."""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.transforms.base import Transform, weakest
from modeflow.transforms.noise import one_place

__all__ = ["Flow"]


class Flow(Density):
    r"""The density of data that a transform T maps to a base density.

    .. math:: \log p(x \mid c) = \log p_\epsilon(T(x; c)) + \log|\det \partial T / \partial x|

    A temperature is the base's, and that of the Gaussians which layers draw on the way to data.

    Arguments:
        transform: from data to noise.
        base: density of the noise.
        context_features: width of the context.
        event_shape: shape of the data where it is not that of the noise.
    """

    #: What the base has no use for, the base refuses.
    tempers = True

    def __init__(
        self,
        transform: Transform,
        base: Density,
        context_features: int = 0,
        event_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(base.event_shape if event_shape is None else event_shape, context_features)
        self.transform = transform
        self.base = base
        self.exactness = weakest(transform.exactness, base.exactness)

    def _base_context(self, context: Tensor | None) -> Tensor | None:
        return context if self.base.context_features else None

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self.exactness == "exact":
            return self._once(x, context)
        # Two parts that draw, a decoder and the base say, multiply: each has noise of its own.
        with one_place():
            return self._once(x, context)

    def _once(self, x: Tensor, context: Tensor | None) -> Tensor:
        u, logabsdet = self.transform(x, context)
        return self.base.log_prob(u, self._base_context(context)) + logabsdet

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        u = self.base.draw_events(n, self._base_context(context), generator, temperature)
        return self.transform.sample(u, context, generator, temperature)

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Draw ``x = T^{-1}(u)`` differentiably, with ``log p(x)`` from the same pass.

        Arguments:
            n: how many. With rows of context ``(B, C)``, one is drawn per row and `n` is ignored; one
                context ``(C,)`` is shared by all `n`.

        Returns:
            samples ``(n, *event)`` and their log-densities ``(n,)``.
        """
        self._must_be_bijective()
        count = n if context is None or context.dim() == 1 else context.shape[0]
        context = self._check_context(context, count)
        u, log_base = self.base.rsample_and_log_prob(count, self._base_context(context), generator)
        x, logabsdet = self.transform.inverse(u, context)
        return x, log_base - logabsdet

    def rsample_strata(
        self, n: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        self._must_be_bijective()
        self._check_context(None, n)
        u, log_base, log_weights = self.base.rsample_strata(n, generator)
        x, logabsdet = self.transform.inverse(u.flatten(0, 1))
        return x.view(*u.shape[:2], *self.event_shape), log_base - logabsdet.view(u.shape[:2]), log_weights

    def _must_be_bijective(self) -> None:
        if not self.transform.bijective:
            raise NotImplementedError(
                "a flow with layers that draw has no reparametrised sampler: use sample"
            )
