r"""Posteriors on the unit sphere: von Mises–Fisher, and power spherical.

Both have a mean direction μ and a concentration κ, and depend on the angle between z and μ alone: a draw is
``z = cos θ μ + sin θ v``, with θ from `draw_angle` and v uniform on the directions across μ, a normal vector
without its part along μ. Densities are on the sphere, per unit of its area.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.densities.base import Density
from modeflow.densities.sphere import UniformSphere, log_area
from modeflow.latents.approximate import Approximate, Posterior
from modeflow.latents.bessel import log_vmf_normaliser, mean_length
from modeflow.latents.polar import Cosine, LogCosine, Tilt, draw_angle
from modeflow.transforms.noise import standard_normal, uniform_noise
from modeflow.transforms.surjections import soft_log_scale

__all__ = [
    "PowerSpherical",
    "PowerSphericalPosterior",
    "Spherical",
    "VonMisesFisher",
    "VonMisesFisherPosterior",
]


class Spherical(Approximate):
    """A distribution on the sphere around a mean direction.

    Arguments:
        location: μ, ``(B, m)``, of norm one. kappa: κ > 0, ``(B,)``.
    """

    tilt: ClassVar[type[Tilt]]

    def __init__(self, location: Tensor, kappa: Tensor) -> None:
        self.location, self.kappa = location, kappa
        self.features = location.shape[-1]
        self.log_scale = (-0.5 * torch.log1p(kappa)).unsqueeze(-1).expand_as(location)

    def numbers(self) -> tuple[Tensor, ...]:
        return self.location, self.kappa.log()

    def of_numbers(self, *numbers: Tensor) -> Spherical:
        direction, log_kappa = numbers
        return type(self)(F.normalize(direction, dim=-1), log_kappa.exp())

    @abstractmethod
    def log_normaliser(self) -> Tensor:
        """What is added to ``κ s(θ)`` to make it a log-density, ``(B,)``, float64."""

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        mu = self.location
        angle = draw_angle(uniform_noise(self.kappa.double()), self.kappa, self.features, self.tilt)
        across = standard_normal(mu)
        for _ in range(2):  # again: what is left of noise along μ is all rounding
            across = F.normalize(across - (across * mu).sum(-1, keepdim=True) * mu, dim=-1)
        cosine, sine = torch.cos(angle).to(mu.dtype), torch.sin(angle).to(mu.dtype)
        z = cosine.unsqueeze(-1) * mu + sine.unsqueeze(-1) * across
        log_q = self.kappa.double() * self.tilt.statistic(angle) + self.log_normaliser()
        return z, log_q.to(mu.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        # From the chord, which keeps the digits of a small angle: |z - μ| = 2 sin(θ/2).
        half = 0.5 * (z - self.location).double().norm(dim=-1)
        statistic = self.tilt.statistic(2 * torch.asin(half.clamp_max(1)))
        return (self.kappa.double() * statistic + self.log_normaliser()).to(z.dtype)

    @abstractmethod
    def divergence(self) -> Tensor:
        """``KL`` to the uniform density on the sphere, ``(B,)``, float64."""

    def kl(self, prior: Density) -> Tensor | None:
        if not isinstance(prior, UniformSphere):
            return None
        return self.divergence().to(self.location.dtype).unsqueeze(-1)

    @abstractmethod
    def cosines(self) -> tuple[Tensor, Tensor]:
        """Mean and mean square of ``cos θ``, ``(B,)`` each."""

    def moments(self) -> tuple[Tensor, Tensor]:
        first, second = (each.to(self.location.dtype).unsqueeze(-1) for each in self.cosines())
        across = (1 - second) / (self.features - 1)
        square = self.location.square()
        variance = (second - first.square()) * square + across * (1 - square)
        return first * self.location, variance.clamp_min(0).sqrt()


class VonMisesFisher(Spherical):
    r"""``q(z) = C_m(κ) exp(κ μ·z)``.

    .. math:: \mathrm{KL}(q \,\|\, U) = \kappa A_m(\kappa) + \log C_m(\kappa) + \log |S^{m-1}|
    """

    tilt = Cosine

    def log_normaliser(self) -> Tensor:
        return log_vmf_normaliser(self.kappa, self.features)

    def divergence(self) -> Tensor:
        length = mean_length(self.kappa, self.features)
        return self.kappa.double() * length + self.log_normaliser() + log_area(self.features)

    def cosines(self) -> tuple[Tensor, Tensor]:
        length = mean_length(self.kappa, self.features)
        return length, 1 - (self.features - 1) * length / self.kappa.double()


class PowerSpherical(Spherical):
    r"""``q(z) = (1 + μ·z)^κ / N``, ``N = 2^{a+b} π^b Γ(a) / Γ(a + b)``, with ``b = (m-1)/2``, ``a = b + κ``.

    .. math:: \mathrm{KL}(q \,\|\, U) = \log |S^{m-1}| - \log N + \kappa\,(\log 2 + \psi(a) - \psi(a + b))

    Gamma functions and no Bessel ones: as fast in every dimension; its sides are heavier than those of von
    Mises–Fisher.

    Reference:
        De Cao and Aziz, *The Power Spherical distribution*, 2020, https://arxiv.org/abs/2006.04437
    """

    tilt = LogCosine

    def _parts(self) -> tuple[Tensor, float]:
        b = 0.5 * (self.features - 1)
        return b + self.kappa.double(), b

    def log_normaliser(self) -> Tensor:
        a, b = self._parts()
        return -((a + b) * math.log(2) + b * math.log(math.pi) + torch.lgamma(a) - torch.lgamma(a + b))

    def divergence(self) -> Tensor:
        mean = self.tilt.mean(self.kappa.double(), self.features)
        return log_area(self.features) + self.log_normaliser() + self.kappa.double() * mean

    def cosines(self) -> tuple[Tensor, Tensor]:
        # cos θ = 2 t - 1 with t of a Beta(a, b).
        a, b = self._parts()
        mean = a / (a + b)
        variance = a * b / ((a + b).square() * (a + b + 1))
        first = 2 * mean - 1
        return first, 4 * variance + first.square()


class _OnSphere(Posterior):
    """A mean direction and a concentration from one network."""

    closed_prior = UniformSphere
    support = "sphere"
    starts = False
    _kind: ClassVar[type[Spherical]]

    @staticmethod
    def outputs(latent_features: int) -> int:
        return latent_features + 1

    def forward(self, x: Tensor) -> Approximate:
        numbers = self.net(x)
        direction = F.normalize(numbers[:, :-1], dim=-1)
        # About m where the network says nothing, that is a mean of length 0.6; softly within e^±8 of it.
        kappa = self.latent_features * torch.exp(soft_log_scale(numbers[:, -1], 8.0))
        return self._kind(direction, kappa)

    def between(self, one: Tensor, other: Tensor, share: float) -> Tensor:
        return F.normalize(torch.lerp(one, other, share), dim=-1)


class VonMisesFisherPosterior(_OnSphere):
    r"""``q(z | x) = C_m(κ(x)) exp(κ(x) μ(x)·z)`` on the sphere :math:`S^{m-1}`, m the numbers of z.

    Reference:
        Davidson et al., *Hyperspherical Variational Auto-Encoders*, 2018, https://arxiv.org/abs/1804.00891
    """

    _kind = VonMisesFisher


class PowerSphericalPosterior(_OnSphere):
    """``q(z | x) = (1 + μ(x)·z)^κ(x) / N`` on the sphere.

    Reference:
        De Cao and Aziz, *The Power Spherical distribution*, 2020, https://arxiv.org/abs/2006.04437
    """

    _kind = PowerSpherical
