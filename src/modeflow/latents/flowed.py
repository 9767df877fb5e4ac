"""Posteriors by a flow: a Gaussian whose draws go through a map that sees what the encoder says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from modeflow.flows.affine import inverse_autoregressive
from modeflow.flows.spline import spline_layer
from modeflow.flows.stack import stack_layers
from modeflow.latents.approximate import Approximate, DiagonalGaussian, Posterior
from modeflow.nets import MADE
from modeflow.nets.mlp import start_near_zero
from modeflow.transforms import (
    AffineElementwise,
    Composite,
    Inverse,
    MaskedAutoregressive,
    Planar,
    Radial,
    Transform,
)

__all__ = [
    "AutoregressivePosterior",
    "FlowPosterior",
    "Flowed",
    "PlanarPosterior",
    "RadialPosterior",
    "SplinePosterior",
]


class Flowed(Approximate):
    r"""A Gaussian that goes through a flow: ``z = T(m + s ε; h)``, ``log q(z) = log N(ε) - log|det dz/dε|``.

    Arguments:
        location, log_scale: m and log s, ``(B, L)``.
        transform: whose `inverse` is T. context: h, ``(B, H)``.
    """

    def __init__(self, location: Tensor, log_scale: Tensor, transform: Transform, context: Tensor) -> None:
        self.location, self.log_scale = location, log_scale
        self._base = DiagonalGaussian(location, log_scale)
        self._transform, self._context = transform, context

    def numbers(self) -> tuple[Tensor, ...]:
        return self.location, self.log_scale, self._context

    def of_numbers(self, *numbers: Tensor) -> Flowed:
        location, log_scale, context = numbers
        return Flowed(location, log_scale, self._transform, context)

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        start, log_prob = self._base.rsample_and_log_prob()
        z, logabsdet = self._transform.inverse(start, self._context)
        return z, log_prob - logabsdet

    def log_prob(self, z: Tensor) -> Tensor:
        start, logabsdet = self._transform(z, self._context)
        return self._base.log_prob(start) + logabsdet

    def centre(self) -> Tensor:
        z: Tensor = self._transform.inverse(self.location, self._context)[0]
        return z


class FlowPosterior(Posterior):
    r"""A Gaussian followed by an inverse autoregressive flow that sees what the encoder says, h(x).

    .. math:: z = T(m(x) + s(x)\,\epsilon;\, h(x)), \qquad
        \log q(z | x) = \log N(\epsilon; 0, I) - \log s(x) - \log|\det \partial T|

    Drawing with its density, all that the bounds ask for, takes one pass a layer; the density of another z
    takes L.

    Arguments:
        latent_features, make_net: as in `Posterior`.
        layers: of the flow; None for the usual number. hidden_features: of its networks; None for ten a
            dimension of z (one a dimension learns slowly), 32 at the least; of other flows 32.

    Reference:
        Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016,
        https://arxiv.org/abs/1606.04934
    """

    closed_kl = False
    #: H, the width of h.
    _HINTS = 16
    #: Hidden units a dimension of z, and the fewest, where their number is not given.
    _UNITS: ClassVar[int] = 10
    _NARROWEST: ClassVar[int] = 32
    #: Layers where their number is not given; what stands between two of them.
    _LAYERS: ClassVar[int] = 2
    _MIXING: ClassVar[str | None] = "reverse"

    def __init__(
        self,
        latent_features: int,
        make_net: Callable[[int], nn.Module],
        layers: int | None = None,
        hidden_features: Sequence[int] | None = None,
    ) -> None:
        super().__init__(latent_features, make_net)
        usual = (max(self._NARROWEST, self._UNITS * latent_features),)
        widths = usual if hidden_features is None else tuple(hidden_features)
        count = self._LAYERS if layers is None else layers

        def layer(i: int) -> Transform:
            return self._layer(i, widths)

        if self._MIXING is None:
            parts = [layer(i) for i in range(count)]
        else:  # the order is turned round between layers: nothing is drawn
            parts = stack_layers(latent_features, count, layer, self._MIXING, torch.Generator())
        self.flow = Composite(parts)

    def _layer(self, i: int, widths: tuple[int, ...]) -> Transform:
        """Layer number i, whose `inverse` is a step of T."""
        return _slow_to_hear(inverse_autoregressive(self.latent_features, self._HINTS, widths))

    @staticmethod
    def outputs(latent_features: int) -> int:
        return 2 * latent_features + FlowPosterior._HINTS

    def forward(self, x: Tensor) -> Approximate:
        numbers = self.net(x)
        return Flowed(*self._gaussian(numbers), self.flow, numbers[:, 2 * self.latent_features :])


@torch.no_grad()
def _slow_to_hear(layer: Transform) -> Transform:
    """The layer, with what the encoder says to its hidden units near zero.

    An encoder that knows nothing yet would decide which units see z at all.
    """
    for part in layer.modules():
        if isinstance(part, MADE) and part.context_hidden is not None:
            start_near_zero(part.context_hidden)
    return layer


class AutoregressivePosterior(FlowPosterior):
    r"""A Gaussian followed by a masked autoregressive flow: L passes to draw, one for the density of any z.

    What it draws takes L times as long as with `FlowPosterior`; it is for where a z from elsewhere is scored.

    Reference:
        Papamakarios et al., *Masked Autoregressive Flow for Density Estimation*, 2017,
        https://arxiv.org/abs/1705.07057
    """

    _UNITS = 1  # L passes a draw

    def _layer(self, i: int, widths: tuple[int, ...]) -> Transform:
        elementwise = AffineElementwise()
        made = MADE(self.latent_features, elementwise.n_params, widths, self._HINTS)
        return _slow_to_hear(MaskedAutoregressive(made, elementwise, self._HINTS))


class SplinePosterior(FlowPosterior):
    """A Gaussian followed by coupling layers of monotone splines: both directions in one pass.

    Outside ±5 the splines are the identity, which N(0, I) hardly reaches.

    Reference:
        Durkan et al., *Neural Spline Flows*, 2019, https://arxiv.org/abs/1906.04032
    """

    _UNITS = 1

    def _layer(self, i: int, widths: tuple[int, ...]) -> Transform:
        sizes = {"hidden_features": widths[0], "blocks": 1, "bins": 8, "tail_bound": 5.0}
        make = spline_layer(self.latent_features, self._HINTS, **sizes)  # type: ignore[arg-type]
        return make(i)


class PlanarPosterior(FlowPosterior):
    r"""A Gaussian followed by planar maps ``z + û tanh(w·z + b)``, with û, w and b linear in h(x).

    Each bends the draws along one direction: weak, and cheap; the density of another z takes a scalar root a
    layer.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
    """

    _LAYERS = 8
    _MIXING = None

    def _layer(self, i: int, widths: tuple[int, ...]) -> Transform:
        return Inverse(Planar(self.latent_features, self._HINTS))


class RadialPosterior(FlowPosterior):
    r"""A Gaussian followed by radial maps ``z + β (z - z_0) / (α + |z - z_0|)``, all amortised through h(x).

    Each draws towards a point or pushes away from it; costs as in `PlanarPosterior`.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
    """

    _LAYERS = 8
    _MIXING = None

    def _layer(self, i: int, widths: tuple[int, ...]) -> Transform:
        return Inverse(Radial(self.latent_features, self._HINTS))
