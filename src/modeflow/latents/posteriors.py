r"""Approximate posteriors q(z | x), each a network from x and the distribution that its numbers describe.

A posterior of a continuous z is called as ``posterior(x) -> q``, where q is a distribution over z for every
row: what `Approximate` offers is all that a model, its objective and its start ask of it. To add one, write
the distribution and the module that makes it, name it in `POSTERIORS`, and add a line to the table of cases
in ``tests/latents/cases_posteriors.py``.

======================  ====================================  ================  ==================
name                    q(z | x)                              KL to its prior   numbers from x
======================  ====================================  ================  ==================
``gaussian``            N(m, diag s²)                         closed, by part   2 L
``full-gaussian``       N(m, C Cᵀ), C triangular              closed            2 L + L (L - 1) / 2
``iaf``                 N(m, diag s²) through a flow          by its draw       2 L + H
``maf``                 the same, L passes to draw            by its draw       2 L + H
``nsf``                 the same, of splines                  by its draw       2 L + H
``planar``              the same, of pushes along directions  by its draw       2 L + H
``radial``              the same, of pulls towards points     by its draw       2 L + H
``laplace``             N(μ, Λ⁻¹) at the mode of p(x, z)      closed            L
``vmf``                 von Mises–Fisher on the sphere        closed            L + 1
``power-spherical``     power spherical on the sphere         closed            L + 1
``langevin``            K Langevin steps from N(0, I)         by its draw       none
``encoded-langevin``    K Langevin steps from N(m, diag s²)   closed            2 L
``amortised-langevin``  Langevin steps of the last layer      closed            256
``aef``                 a point, affine in a core of x        by its draw       2 L
``funnel``              a point, monotone in a core of x      by its draw       25 L
======================  ====================================  ================  ==================

Those named after Langevin are learned by what their chains find, see `modeflow.latents.langevin`; with the
last two the density is exact, see `modeflow.latents.cores`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError, nearest
from modeflow.latents.approximate import (
    Approximate,
    DiagonalGaussian,
    FullGaussian,
    FullGaussianPosterior,
    GaussianPosterior,
    Posterior,
)
from modeflow.latents.cores import CorePosterior, FunnelPosterior
from modeflow.latents.flowed import (
    AutoregressivePosterior,
    FlowPosterior,
    PlanarPosterior,
    RadialPosterior,
    SplinePosterior,
)
from modeflow.latents.langevin import (
    ChainPosterior,
    EncodedLangevinPosterior,
    Langevin,
    LangevinPosterior,
)
from modeflow.latents.laplace import LaplacePosterior
from modeflow.latents.last_layer import AmortisedLangevinPosterior
from modeflow.latents.spherical import PowerSphericalPosterior, VonMisesFisherPosterior
from modeflow.nets import MLP

__all__ = [
    "POSTERIORS",
    "AmortisedLangevinPosterior",
    "Approximate",
    "AutoregressivePosterior",
    "CategoricalEncoder",
    "ChainPosterior",
    "CorePosterior",
    "DiagonalGaussian",
    "EncodedLangevinPosterior",
    "FlowPosterior",
    "FullGaussian",
    "FullGaussianPosterior",
    "FunnelPosterior",
    "GaussianPosterior",
    "LangevinPosterior",
    "LaplacePosterior",
    "PlanarPosterior",
    "Posterior",
    "PowerSphericalPosterior",
    "RadialPosterior",
    "SplinePosterior",
    "VonMisesFisherPosterior",
    "build_posterior",
]

#: Posteriors of a continuous z by name.
POSTERIORS: dict[str, type[Posterior]] = {
    "gaussian": GaussianPosterior,
    "full-gaussian": FullGaussianPosterior,
    "iaf": FlowPosterior,
    "maf": AutoregressivePosterior,
    "nsf": SplinePosterior,
    "planar": PlanarPosterior,
    "radial": RadialPosterior,
    "laplace": LaplacePosterior,
    "vmf": VonMisesFisherPosterior,
    "power-spherical": PowerSphericalPosterior,
    "langevin": LangevinPosterior,
    "encoded-langevin": EncodedLangevinPosterior,
    "amortised-langevin": AmortisedLangevinPosterior,
    "aef": CorePosterior,
    "funnel": FunnelPosterior,
}


def build_posterior(
    name: str,
    latent_features: int,
    features: int = 0,
    hidden_features: Sequence[int] = (64, 64),
    make_net: Callable[[int], nn.Module] | None = None,
    langevin: Langevin | None = None,
) -> Posterior:
    """A posterior by name, over an MLP from rows ``(B, features)``, or over what `make_net` gives (images).

    Arguments:
        langevin: the steps of a `ChainPosterior`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in POSTERIORS:
        known = ", ".join(POSTERIORS)
        raise ConfigError(f"posterior {name!r} is not known{nearest(str(name), POSTERIORS)} (one of {known})")

    def mlp(outputs: int) -> nn.Module:
        return MLP(features, outputs, tuple(hidden_features))

    kind = POSTERIORS[name]
    if issubclass(kind, ChainPosterior):
        return kind(latent_features, make_net or mlp, langevin)
    return kind(latent_features, make_net or mlp)


class CategoricalEncoder(nn.Module):
    r"""``q(z = k | x) = softmax(a MLP(x))_k``.

    The sharpness a is one while training; `DiscreteLatentModel.calibrate` sets what it is afterwards.

    Arguments:
        features: dimension of the data.
        n_states: K.
        hidden_features: widths of the hidden layers.
        net: another network from x to K numbers, in the place of the MLP (for images).
    """

    sharpness: Tensor
    #: It follows the flow: what holds that back is enough.
    decays = False

    def __init__(
        self,
        features: int = 0,
        n_states: int = 1,
        hidden_features: Sequence[int] = (256, 256),
        net: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.n_states = n_states
        self.net = MLP(features, n_states, hidden_features) if net is None else net
        self.register_buffer("sharpness", torch.ones(()))

    def forward(self, x: Tensor, active: Tensor | None = None) -> Tensor:
        """Return ``log q(z | x)``, shape ``(B, K)``; minus infinity outside the `active` states."""
        logits = self.net(x) if self.training else self.sharpness * self.net(x)
        if active is not None:
            logits = logits.masked_fill(~active, float("-inf"))
        return torch.log_softmax(logits, dim=-1)
