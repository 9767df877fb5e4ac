r"""Approximate posteriors q(z | x), each a network from x and the distribution that its numbers describe.

A posterior of a continuous z is called as ``posterior(x) -> q``, where q is a distribution over z for every
row: what `Approximate` offers is all that a model, its objective and its start ask of it. To add one, write
the distribution and the module that makes it here, name it in `POSTERIORS`, and add a line to the table of
cases in ``tests/latents/cases_posteriors.py``.

=================  ====================================  ================  ==================
name               q(z | x)                              KL to N(0, I)     numbers from x
=================  ====================================  ================  ==================
``gaussian``       N(m, diag s²)                         closed, by part   2 L
``full-gaussian``  N(m, C Cᵀ), C triangular              closed            2 L + L (L - 1) / 2
``iaf``            N(m, diag s²) through a flow          by its draw       2 L + H
=================  ====================================  ================  ==================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError, nearest
from modeflow.flows.affine import inverse_autoregressive
from modeflow.flows.stack import stack_layers
from modeflow.nets import MLP
from modeflow.transforms import Composite, Transform
from modeflow.transforms.noise import row_noise, standard_normal
from modeflow.transforms.surjections import gaussian_log_prob, soft_log_scale

__all__ = [
    "POSTERIORS",
    "Approximate",
    "CategoricalEncoder",
    "FlowPosterior",
    "FullGaussianPosterior",
    "GaussianPosterior",
    "Posterior",
    "build_posterior",
]

#: Draws from which the moments of a distribution without closed ones are estimated.
_MOMENT_DRAWS = 64


class Approximate(ABC):
    """A distribution over z in R^L for each of B rows.

    Attributes:
        location, log_scale: of the Gaussian that it is, or starts from, ``(B, L)``.
    """

    location: Tensor
    log_scale: Tensor

    @abstractmethod
    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        """One draw of every row, differentiably, and its log-density: ``(B, L)`` and ``(B,)``.

        The noise is fresh, or, within `modeflow.transforms.noise.row_noise`, a function of the row.
        """

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """``log q(z | x)``, nats, ``(B, L) -> (B,)``."""

    def kl(self, prior: Density) -> Tensor | None:
        """``KL(q || prior)``, nats, in parts that add up to it, ``(B, P)``; None where not in closed form.

        Parts are what free bits are given to: one a dimension, where they are independent.
        """
        return None

    def centre(self) -> Tensor:
        """A point in its middle, ``(B, L)``: the mean of a Gaussian, or its image."""
        return self.location

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every dimension, ``(B, L)`` each; by 64 draws where not in closed
        form, which are the same in every call."""
        total = squares = torch.zeros_like(self.location)
        for draw in range(_MOMENT_DRAWS):
            with row_noise(self.location, draw, self):
                z, _ = self.rsample_and_log_prob()
            total, squares = total + z, squares + z.square()
        mean = total / _MOMENT_DRAWS
        return mean, (squares / _MOMENT_DRAWS - mean.square()).clamp_min(0).sqrt()


class DiagonalGaussian(Approximate):
    """``N(m, diag s^2)``."""

    def __init__(self, location: Tensor, log_scale: Tensor) -> None:
        self.location, self.log_scale = location, log_scale

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        noise = standard_normal(self.location)
        z = self.location + torch.exp(self.log_scale) * noise
        return z, gaussian_log_prob(noise, self.log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        return gaussian_log_prob((z - self.location) * torch.exp(-self.log_scale), self.log_scale)

    def kl(self, prior: Density) -> Tensor | None:
        if not isinstance(prior, StandardNormal):
            return None
        return 0.5 * (self.location.square() + torch.exp(2 * self.log_scale) - 1) - self.log_scale

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.location, torch.exp(self.log_scale)


class FullGaussian(Approximate):
    r"""``N(m, C C^T)``, C triangular with a positive diagonal.

    Arguments:
        location: m, ``(B, L)``. log_scale: of the diagonal of C.
        below: of C, in units of its rows' diagonals, ``(B, L, L)``; only what is below the diagonal counts.
    """

    def __init__(self, location: Tensor, log_scale: Tensor, below: Tensor) -> None:
        self.location, self.log_scale = location, log_scale
        unit = below.tril(-1) + torch.eye(location.shape[-1], dtype=below.dtype, device=below.device)
        self.factor = torch.exp(log_scale).unsqueeze(-1) * unit

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        noise = standard_normal(self.location)
        z = self.location + (self.factor @ noise.unsqueeze(-1)).squeeze(-1)
        return z, gaussian_log_prob(noise, self.log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        centred = (z - self.location).unsqueeze(-1)
        noise = torch.linalg.solve_triangular(self.factor, centred, upper=False).squeeze(-1)
        return gaussian_log_prob(noise, self.log_scale)

    def kl(self, prior: Density) -> Tensor | None:
        if not isinstance(prior, StandardNormal):
            return None
        each = 0.5 * (self.location.square() + self.factor.square().sum(-1) - 1) - self.log_scale
        return each.sum(-1, keepdim=True)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.location, self.factor.square().sum(-1).sqrt()


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


class Posterior(nn.Module, ABC):
    """Contract: called as ``posterior(x) -> Approximate``.

    Arguments:
        latent_features: L.
        make_net: from a number of outputs to the network from x to so many numbers.
    """

    #: Whether its divergence to N(0, I) has a closed form, which free bits need.
    closed_kl: ClassVar[bool] = True

    def __init__(self, latent_features: int, make_net: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.latent_features = latent_features
        self.net = make_net(self.outputs(latent_features))

    @staticmethod
    def outputs(latent_features: int) -> int:
        """How many numbers of a row it takes."""
        return 2 * latent_features

    def forward(self, x: Tensor) -> Approximate:
        raise NotImplementedError

    def _gaussian(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale, from the first 2 L numbers."""
        mean, raw = numbers[:, : 2 * self.latent_features].chunk(2, dim=-1)
        # Softly within ±8: neither a collapse to a point nor an overflow of the exponential.
        return mean, soft_log_scale(raw, 8.0)


class GaussianPosterior(Posterior):
    r"""``q(z | x) = N(m(x), diag s(x)^2)`` with m and log s from one network."""

    def forward(self, x: Tensor) -> Approximate:
        return DiagonalGaussian(*self._gaussian(self.net(x)))


class FullGaussianPosterior(Posterior):
    r"""``q(z | x) = N(m(x), C(x) C(x)^T)``: what is known of the dimensions of z may hang together.

    It contains the exact posterior of a linear-Gaussian model, where the bound is then the density.
    """

    @staticmethod
    def outputs(latent_features: int) -> int:
        return 2 * latent_features + latent_features * (latent_features - 1) // 2

    def forward(self, x: Tensor) -> Approximate:
        numbers = self.net(x)
        size = self.latent_features
        row, column = torch.tril_indices(size, size, -1, device=numbers.device)
        below = numbers.new_zeros(len(numbers), size, size)
        below = below.index_put(
            (torch.arange(len(numbers), device=numbers.device).unsqueeze(1), row, column),
            numbers[:, 2 * size :],
        )
        return FullGaussian(*self._gaussian(numbers), below)


class FlowPosterior(Posterior):
    r"""A Gaussian followed by an inverse autoregressive flow that sees what the encoder says, h(x).

    .. math:: z = T(m(x) + s(x)\,\epsilon;\, h(x)), \qquad
        \log q(z | x) = \log N(\epsilon; 0, I) - \log s(x) - \log|\det \partial T|

    Drawing with its density, all that the bounds ask for, takes one pass a layer; the density of another z
    takes L.

    Arguments:
        latent_features, make_net: as in `Posterior`.
        layers: of the flow. hidden_features: of its networks.

    Reference:
        Kingma et al., *Improving Variational Inference with Inverse Autoregressive Flow*, 2016,
        https://arxiv.org/abs/1606.04934
    """

    closed_kl = False
    #: H, the width of h.
    _HINTS = 16

    def __init__(
        self,
        latent_features: int,
        make_net: Callable[[int], nn.Module],
        layers: int = 2,
        hidden_features: Sequence[int] = (32,),
    ) -> None:
        super().__init__(latent_features, make_net)
        widths = tuple(hidden_features)

        def layer(i: int) -> Transform:
            return inverse_autoregressive(latent_features, self._HINTS, widths)

        # The order is turned round between layers: nothing is drawn.
        self.flow = Composite(stack_layers(latent_features, layers, layer, "reverse", torch.Generator()))

    @staticmethod
    def outputs(latent_features: int) -> int:
        return 2 * latent_features + FlowPosterior._HINTS

    def forward(self, x: Tensor) -> Approximate:
        numbers = self.net(x)
        return Flowed(*self._gaussian(numbers), self.flow, numbers[:, 2 * self.latent_features :])


#: Posteriors of a continuous z by name.
POSTERIORS: dict[str, type[Posterior]] = {
    "gaussian": GaussianPosterior,
    "full-gaussian": FullGaussianPosterior,
    "iaf": FlowPosterior,
}


def build_posterior(
    name: str,
    latent_features: int,
    features: int = 0,
    hidden_features: Sequence[int] = (64, 64),
    make_net: Callable[[int], nn.Module] | None = None,
) -> Posterior:
    """A posterior by name, over an MLP from rows ``(B, features)``, or over what `make_net` gives (images).

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in POSTERIORS:
        known = ", ".join(POSTERIORS)
        raise ConfigError(f"posterior {name!r} is not known{nearest(str(name), POSTERIORS)} (one of {known})")

    def mlp(outputs: int) -> nn.Module:
        return MLP(features, outputs, tuple(hidden_features))

    return POSTERIORS[name](latent_features, make_net or mlp)


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
