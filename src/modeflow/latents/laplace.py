r"""The Laplace posterior: the likeliest z, found by iteration, and a Gaussian by the curvature there.

For a likelihood by a predictor η(z) with Jacobian W, derivatives r and D of ``log p(x | η)`` (`Predicting`),
and p(z) = N(0, I), a Gauss–Newton step from μ leads to

.. math:: \mu + \Lambda^{-1} (W^T r - \mu), \qquad \Lambda = W^T \mathrm{diag}(D)\, W + I

which of a network of ReLUs, linear around μ, is the exact mode of the Gaussian that it is there. A step is
halved until ``log p(x, z)`` does not fall, row by row. Then ``q = N(μ, Λ^{-1})``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from modeflow.densities.base import Density
from modeflow.densities.decoders import Predicting
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.latents.approximate import Approximate, DiagonalGaussian, Posterior
from modeflow.transforms.noise import standard_normal
from modeflow.transforms.surjections import gaussian_log_prob

__all__ = ["LaplacePosterior", "PrecisionGaussian", "gaining"]

#: Shares of a step that are tried, the first that does not lose is made; none may be.
_SHARES = (1.0, 0.5, 0.25, 0.0625)


def gaining(log_joint: Callable[[Tensor], Tensor], z: Tensor, step: Tensor) -> Tensor:
    """z and the largest share of a step, ``(B, L)`` both, by which ``log p(x, z)`` of a row does not fall."""
    with torch.no_grad():
        here = log_joint(z)
        share = torch.zeros_like(here)
        for tried in _SHARES:
            gains = log_joint(z + tried * step) >= here
            share = torch.where((share == 0) & gains, tried, share)
    return z + share.unsqueeze(-1) * step


class PrecisionGaussian(Approximate):
    r"""``N(m, Λ^{-1})`` by the Cholesky factor of the precision, ``Λ = R R^T``.

    Arguments:
        location: m, ``(B, L)``. factor: R, lower triangular, ``(B, L, L)``.
    """

    def __init__(self, location: Tensor, factor: Tensor) -> None:
        self.location, self.factor = location, factor
        # Their sum is that of the log-scales of any factor of the covariance.
        self.log_scale = -factor.diagonal(dim1=-2, dim2=-1).log()

    def numbers(self) -> tuple[Tensor, ...]:
        # R as a triangle of ones below its diagonal, times that: any numbers then make a factor.
        diagonal = self.factor.diagonal(dim1=-2, dim2=-1)
        return self.location, diagonal.log(), self.factor.tril(-1) / diagonal.unsqueeze(-1)

    def of_numbers(self, *numbers: Tensor) -> PrecisionGaussian:
        location, log_diagonal, below = numbers
        unit = below.tril(-1) + torch.eye(below.shape[-1], dtype=below.dtype, device=below.device)
        return PrecisionGaussian(location, log_diagonal.exp().unsqueeze(-1) * unit)

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        noise = standard_normal(self.location)
        step = torch.linalg.solve_triangular(self.factor.mT, noise.unsqueeze(-1), upper=True)
        return self.location + step.squeeze(-1), gaussian_log_prob(noise, self.log_scale)

    def log_prob(self, z: Tensor) -> Tensor:
        noise = (self.factor.mT @ (z - self.location).unsqueeze(-1)).squeeze(-1)
        return gaussian_log_prob(noise, self.log_scale)

    def _covariance(self) -> Tensor:
        return torch.cholesky_inverse(self.factor)

    def kl(self, prior: Density) -> Tensor | None:
        if not isinstance(prior, StandardNormal):
            return None
        trace = self._covariance().diagonal(dim1=-2, dim2=-1)
        each = 0.5 * (self.location.square() + trace - 1) - self.log_scale
        return each.sum(-1, keepdim=True)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.location, self._covariance().diagonal(dim1=-2, dim2=-1).sqrt()


class LaplacePosterior(Posterior):
    r"""``q(z | x) = N(μ, Λ^{-1})`` at the mode μ of ``p(x, z)``, sought from what the network says.

    With a linear predictor and a Gaussian likelihood one step finds the exact posterior: the bound is then
    the density. A step costs the Jacobian of the decoder, L passes of it.

    Arguments:
        latent_features, make_net: as in `Posterior`.
        steps: of the search.

    Reference:
        Park, Kim, Kim, *Variational Laplace Autoencoders*, ICML 2019
    """

    follows = True
    #: Scale about what the network says, while the likelihood has not refined it.
    _GUESS = 0.2

    def __init__(self, latent_features: int, make_net: Callable[[int], nn.Module], steps: int = 4) -> None:
        super().__init__(latent_features, make_net)
        self.steps = steps

    @staticmethod
    def outputs(latent_features: int) -> int:
        return latent_features

    def forward(self, x: Tensor) -> Approximate:
        mean = self.net(x)
        return DiagonalGaussian(mean, torch.full_like(mean, math.log(self._GUESS)))

    def check(self, likelihood: Density, prior: Density) -> None:
        if not isinstance(prior, StandardNormal):
            raise ConfigError("posterior='laplace' is of prior='normal': N(0, I)")
        if not (isinstance(likelihood, Predicting) and likelihood.predicts):
            raise ConfigError(
                "posterior='laplace' needs a likelihood that z moves through its mean alone: "
                "likelihood='gaussian' (without scale='predicted') or 'bernoulli'"
            )

    def approximate(self, x: Tensor, likelihood: Density, prior: Density) -> Approximate:
        decoder = cast(Predicting, likelihood)
        mean: Tensor = self.net(x)
        if len(x) == 0:
            return PrecisionGaussian(mean, mean.new_zeros(0, self.latent_features, self.latent_features))
        for _ in range(self.steps):
            mean = self._step(x, mean, decoder, prior)
        return PrecisionGaussian(mean, self._curve(x, mean, decoder)[1])

    def _curve(self, x: Tensor, mean: Tensor, decoder: Predicting) -> tuple[Tensor, Tensor]:
        """The gradient of ``log p(x, z)`` at the mean, ``(B, L)``, and the Cholesky factor of Λ."""
        rows, size = mean.shape
        unit = torch.eye(size, dtype=mean.dtype, device=mean.device)
        # Along every direction of z in one pass of L times the rows, in forward mode.
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(mean.repeat(size, 1), unit.repeat_interleave(rows, 0))
            values, slopes = forward_ad.unpack_dual(decoder.predictor(dual))
        r, d = (each.flatten(1) for each in decoder.derivatives(x, values[:rows]))
        assert slopes is not None
        w = slopes.reshape(size, rows, -1).permute(1, 2, 0)  # (B, D, L)
        precision = w.mT @ (d.unsqueeze(-1) * w) + unit
        gradient = (w.mT @ r.unsqueeze(-1)).squeeze(-1) - mean
        factor: Tensor = torch.linalg.cholesky(precision)
        return gradient, factor

    def _step(self, x: Tensor, mean: Tensor, decoder: Predicting, prior: Density) -> Tensor:
        gradient, factor = self._curve(x, mean, decoder)
        step = torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
        return gaining(lambda z: decoder._log_prob(x, z) + prior._log_prob(z, None), mean, step)
