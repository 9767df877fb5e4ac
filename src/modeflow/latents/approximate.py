"""The contract of posteriors of a continuous z, and the Gaussian ones."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.normal import StandardNormal
from modeflow.densities.sphere import UniformSphere
from modeflow.errors import ConfigError
from modeflow.transforms.noise import row_noise, standard_normal
from modeflow.transforms.surjections import gaussian_log_prob, soft_log_scale

__all__ = [
    "Approximate",
    "DiagonalGaussian",
    "FullGaussian",
    "FullGaussianPosterior",
    "GaussianPosterior",
    "NetworkPosterior",
    "Posterior",
]

#: Draws from which the moments of a distribution without closed ones are estimated.
_MOMENT_DRAWS = 64


class Approximate(ABC):
    """A distribution over z in R^L, or on the unit sphere in it, for each of B rows.

    Attributes:
        location, log_scale: of the Gaussian that it is, or starts from, ``(B, L)``; on the sphere the mean
            direction.
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

    @property
    def proposal(self) -> Approximate:
        """What its draws and its density are of: itself, unless it is where chains ended."""
        return self

    def numbers(self) -> tuple[Tensor, ...]:
        """What each row's distribution is made of, numbers without limits, ``(B, ...)`` each; the first are
        where it lies, in units of which `log_scale` is the logarithm.

        Raises:
            ConfigError: where it is made of something else.
        """
        raise ConfigError(f"{type(self).__name__} has no numbers of a row's own (numbers, of_numbers)")

    @property
    def has_numbers(self) -> bool:
        """Whether there are `numbers`."""
        return type(self).of_numbers is not Approximate.of_numbers

    def of_numbers(self, *numbers: Tensor) -> Approximate:
        """One of its kind made of other `numbers`."""
        raise ConfigError(f"{type(self).__name__} has no numbers of a row's own (numbers, of_numbers)")

    def repeated(self, times: int) -> Approximate:
        """The rows so many times one after the other, ``(times B, ...)``.

        Raises:
            ConfigError: where there are no `numbers`.
        """
        if times == 1:
            return self
        return self.of_numbers(*(each.repeat(times, *(1,) * (each.dim() - 1)) for each in self.numbers()))

    def centre(self) -> Tensor:
        """A point in its middle, ``(B, L)``: the mean of a Gaussian, or its image."""
        return self.location

    @property
    def moment_draws(self) -> float:
        """Draws that `moments` are of; infinite where they are in closed form."""
        return _MOMENT_DRAWS if type(self).moments is Approximate.moments else math.inf

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

    def numbers(self) -> tuple[Tensor, ...]:
        return self.location, self.log_scale

    def of_numbers(self, *numbers: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(*numbers)

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
        self.location, self.log_scale, self._below = location, log_scale, below
        unit = below.tril(-1) + torch.eye(location.shape[-1], dtype=below.dtype, device=below.device)
        self.factor = torch.exp(log_scale).unsqueeze(-1) * unit

    def numbers(self) -> tuple[Tensor, ...]:
        return self.location, self.log_scale, self._below

    def of_numbers(self, *numbers: Tensor) -> FullGaussian:
        return FullGaussian(*numbers)

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


class Posterior(nn.Module, ABC):
    """Contract: called as ``posterior(x) -> Approximate``; a model asks for `approximate`.

    Arguments:
        latent_features: L.
        make_net: from a number of outputs to the network from x to so many numbers.
    """

    #: Whether its divergence to a prior of the class `closed_prior` has a closed form, which free bits need.
    closed_kl: ClassVar[bool] = True
    closed_prior: ClassVar[type[Density]] = StandardNormal
    #: Where z lies: "space", R^L, or "sphere", the numbers of norm one in it.
    support: ClassVar[str] = "space"
    #: Whether q is made of the likelihood too, so that what moves q moves the likelihood.
    follows: ClassVar[bool] = False
    #: Whether `GeodesicStart` may fit it to places in R^L.
    starts: ClassVar[bool] = True
    #: Whether entries of x may be missing (NaN), where the likelihood leaves such out.
    takes_missing: ClassVar[bool] = False
    #: Whether z is a function of x, so that the weight of a draw is the density and no bound.
    point: ClassVar[bool] = False

    def __init__(self, latent_features: int, make_net: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.latent_features = latent_features
        self.net = make_net(self.outputs(latent_features))

    @staticmethod
    def outputs(latent_features: int) -> int:
        """How many numbers of a row it takes."""
        return 2 * latent_features

    def forward(self, x: Tensor) -> Approximate:
        """What the network alone says of z."""
        raise NotImplementedError

    def approximate(self, x: Tensor, likelihood: Density, prior: Density) -> Approximate:
        """q(z | x) given the other parts of a model: here what the network says.

        A posterior that refines that by p(x, z), such as `LaplacePosterior`, does it here.
        """
        q: Approximate = self(x)
        return q

    def check(self, likelihood: Density, prior: Density) -> None:
        """Whether it fits the other parts of a model; called when they are put together.

        Raises:
            ConfigError: if it does not.
        """
        if (self.support == "sphere") != isinstance(prior, UniformSphere):
            where = "on the unit sphere" if self.support == "sphere" else "anywhere in R^L"
            raise ConfigError(
                f"{type(self).__name__} puts z {where}, and the prior is {type(prior).__name__}: "
                "prior='sphere' goes with a posterior on the sphere, any other with one in space"
            )

    def walk(
        self, x: Tensor, likelihood: Density, prior: Density, generator: torch.Generator | None = None
    ) -> Tensor:
        """A draw of z, ``(B, L)``, of every row, which may have missing entries where it `takes_missing`."""
        raise NotImplementedError

    def seen(self, x: Tensor) -> Tensor:
        """What of x p(x|z) is to be a density of, others missing (NaN): all, unless z is a `point`."""
        return x

    def fill(self, x: Tensor, z: Tensor, levels: int | None) -> Tensor:
        """What p(x|z) has drawn, ``(B, *event)``, with what z alone says of it put in."""
        return x

    def calibrate(self, bound: Callable[[], float]) -> None:
        """Set, after training, what is not learned by the highest mean bound on validation rows."""

    def between(self, one: Tensor, other: Tensor, share: float) -> Tensor:
        """A point on the way from one z to another, ``(B, L)``."""
        return torch.lerp(one, other, share)

    def _gaussian(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale, from the first 2 L numbers."""
        mean, raw = numbers[:, : 2 * self.latent_features].chunk(2, dim=-1)
        # Softly within ±8: neither a collapse to a point nor an overflow of the exponential.
        return mean, soft_log_scale(raw, 8.0)


class NetworkPosterior(Posterior):
    """Any network that is called as ``network(x) -> Approximate``, as a posterior in R^L.

    Arguments:
        network: it; its attribute `closed_kl`, where it has one, is that of the posterior.
    """

    def __init__(self, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self.net = network
        self.closed_kl = bool(getattr(network, "closed_kl", False))  # type: ignore[misc]

    def forward(self, x: Tensor) -> Approximate:
        q: Approximate = self.net(x)
        return q


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
