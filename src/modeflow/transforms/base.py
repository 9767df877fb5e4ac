"""The contract of every transform, and the two ways to combine them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeflow.accelerate import Description, Plan
from modeflow.accelerate.chain import chain
from modeflow.native import applies
from modeflow.transforms.activations import chain_saving

__all__ = ["Composite", "Exactness", "Inverse", "Transform", "weakest"]

#: What a log-likelihood is, wherever it is shown or stored: the number itself up to rounding, a number that
#: the true one is not below (in expectation, where it draws), or neither: a draw or a solver's steps decide.
Exactness = Literal["exact", "lower bound", "estimate"]


def weakest(*parts: Exactness) -> Exactness:
    """What a sum of log-densities is, some of them bounds or estimates."""
    if "estimate" in parts:
        return "estimate"
    return "lower bound" if "lower bound" in parts else "exact"


class Transform(nn.Module):
    r"""A map between data and noise, with the logarithm of its volume change.

    `forward` maps data to noise (the direction of density evaluation), `inverse` maps noise to data (the
    direction of sampling):

    .. math:: u = T(x; c), \qquad \log\left|\det \frac{\partial T}{\partial x}\right|

    Subclasses implement both; each returns the pair ``(output, logabsdet)`` where `logabsdet` has shape
    ``(B,)``. `context` is ``(B, C)`` or None and is ignored where `context_features` is 0.
    """

    context_features: int = 0
    exactness: Exactness = "exact"
    #: Shape of what it takes, where that is not the shape of what it gives.
    event_shape: tuple[int, ...] | None = None
    #: False for a layer that draws in one of the directions: it has no `inverse`, only `sample`.
    bijective: bool = True
    #: False for a layer whose inverse is a search, or takes a pass for each feature.
    one_pass_inverse: bool = True
    #: False for a layer that a second evaluation finds changed (power iterations move on).
    repeatable: bool = True
    #: True of a layer that maps every row by itself, and that training leaves as it is: rows may be mapped
    #: before they are asked for. It counts for the very class that says so.
    settled: bool = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data ``x`` to noise ``u``; return ``(u, logabsdet)``."""
        raise NotImplementedError

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map noise ``u`` to data ``x``; return ``(x, logabsdet)`` of this inverse map."""
        raise NotImplementedError

    def native_description(self) -> Description | None:
        """This layer in terms that the native kernels know; None where they do not.

        It counts for the very class that defines it: a subclass may change the map, and is evaluated by its
        own `forward` and `inverse` until it describes itself.
        """
        return None

    def again(
        self, u: Tensor, context: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Callable[..., Tensor], Tensor, Tensor]:
        """Find the input that led to `u`, and map it once more, for its gradient.

        Returns:
            the input, as leaves that ask for a gradient; what puts them (or gradients of them) together; and
            output and logabsdet with their graph.
        """
        with torch.no_grad():
            x = self.inverse(u, context)[0]
        x.requires_grad_()
        return (x,), lambda part: part, *self(x, context)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Map noise ``u`` to data ``x``; a surjection draws here, from `generator`, what `forward` drops.

        A temperature multiplies the scale of what is drawn. Signs, places and orders have none.
        """
        return self.inverse(u, context)[0]


class Composite(Transform):
    """Transforms applied one after the other, in the order of density evaluation."""

    def __init__(self, transforms: Iterable[Transform]) -> None:
        super().__init__()
        self.transforms = nn.ModuleList(transforms)
        parts = [t for t in self.transforms if isinstance(t, Transform)]
        self.context_features = max((t.context_features for t in parts), default=0)
        self.bijective = all(t.bijective for t in parts)
        self.exactness = weakest(*(t.exactness for t in parts))
        self.one_pass_inverse = all(t.one_pass_inverse for t in parts)
        #: What is kept for the gradient, see `modeflow.transforms.set_activations`.
        self.activations = "keep"
        self._plan = Plan()

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        layers: Sequence[Any] = self.transforms  # type: ignore[assignment]
        if self.activations != "keep" and torch.is_grad_enabled() and not inverse:
            return chain_saving(layers, x, context, self.activations)
        if applies(x):
            layers = self._plan.parts(self.transforms)
        return chain(layers, x, context, inverse)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(x, context, False)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._run(u, context, True)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        if self.bijective:
            return self._run(u, context, True)[0]
        for transform in reversed(self.transforms):
            u = transform.sample(u, context, generator, temperature)  # type: ignore[operator]
        return u


class Inverse(Transform):
    """The same map read in the other direction (an IAF is the inverse of a MAF)."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        self.transform = transform
        self.context_features = transform.context_features
        self.exactness = transform.exactness
        self.bijective = transform.bijective

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.inverse(x, context)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.transform.forward(u, context)


def sum_event(values: Tensor) -> Tensor:
    """Sum over everything but the first (batch) dimension: ``(B, *event) -> (B,)``."""
    return values if values.dim() == 1 else torch.sum(values.flatten(1), dim=1)
