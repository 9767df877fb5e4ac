"""Amortised Langevin dynamics: the last layer of an encoder is what moves, and with it z of all rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.densities.base import Density
from modeflow.densities.steps import Moved, at, langevin_step
from modeflow.latents.approximate import Approximate, DiagonalGaussian
from modeflow.latents.langevin import ACCEPTED, RATE, ChainPosterior, Langevin, LogJoint, log_joint_of

__all__ = ["AmortisedLangevinPosterior"]

#: The share of the mean of the layer that a step keeps.
_KEPT = 0.99


class AmortisedLangevinPosterior(ChainPosterior):
    r"""Amortised Langevin dynamics: z = Φ g(x), and Langevin steps of Φ, the last layer of the encoder.

    .. math:: \Phi \leftarrow \Phi - \eta \sum_i \frac{\partial U(x_i, \Phi g_i)}{\partial \Phi}
        + \sqrt{2 \eta}\, \Xi

    with features g_i = g(x_i) of norm one. Where those of the rows of a batch are independent (there are 256,
    so a batch may have as many rows at the most), the law of the z_i is, up to O(η), the product of the
    p(z_i | x_i). `adjusted`, all of Φ is accepted or refused by Metropolis, and η is adapted to an
    acceptance of 0.574. g and the other parts follow the gradient of the mean U along the chain.

    Warning:
        Features of rows of a table are far from independent, and all rows then share a few directions of Φ,
        whose law is as much narrower as there are rows: z comes out near the mode.
        `EncodedLangevinPosterior` is the way out.

    Afterwards Φ is its average over the last hundred steps or so, and q(z|x) = N(Φ g(x), τ²): a proposal,
    whose τ is the best of some on the validation rows (`calibrate`).

    Reference:
        Taniguchi et al., *Langevin Autoencoders for Learning Deep Latent Variable Models*, 2022,
        https://arxiv.org/abs/2209.07036
    """

    usual = Langevin(2, 1e-3, adjusted=True)
    #: Numbers of g.
    features: ClassVar[int] = 256
    phi: Tensor
    phi_mean: Tensor
    log_step: Tensor
    log_tau: Tensor

    def __init__(
        self, latent_features: int, make_net: Callable[[int], nn.Module], langevin: Langevin | None = None
    ) -> None:
        super().__init__(latent_features, make_net, langevin)
        phi = torch.randn(latent_features, self.features)
        self.register_buffer("phi", phi)
        self.register_buffer("phi_mean", phi.clone())
        self.register_buffer("log_step", torch.tensor(math.log(self.langevin.step_size)))
        self.register_buffer("log_tau", torch.tensor(math.log(0.2)))

    @staticmethod
    def outputs(latent_features: int) -> int:
        return AmortisedLangevinPosterior.features

    def features_of(self, x: Tensor) -> Tensor:
        """g of every row, of norm one, ``(B, 256)``."""
        h = self.net(x)
        return F.normalize(h - h.mean(-1, keepdim=True), dim=-1)

    def forward(self, x: Tensor) -> Approximate:
        mean = self.features_of(x) @ self.phi_mean.T
        return DiagonalGaussian(mean, self.log_tau.expand_as(mean))

    def log_joint_of_layer(self, x: Tensor, g: Tensor, likelihood: Density, prior: Density) -> LogJoint:
        """``Φ -> Σ_i log p(x_i, Φ g_i)``, ``(C, L, G) -> (C,)`` of C chains, of features ``(B, G)``."""

        def log_joint(phi: Tensor) -> Tensor:
            many = x.repeat(len(phi), *(1,) * (x.dim() - 1))
            z = (g @ phi.mT).flatten(0, 1)
            return log_joint_of(many, likelihood, prior)(z).view(len(phi), -1).sum(1)

        return log_joint

    @torch.no_grad()
    def advance(self, x: Tensor, likelihood: Density, prior: Density) -> list[Tensor]:
        """Move Φ by its steps on these rows; Φ after each, ``(L, 256)``."""
        log_joint = self.log_joint_of_layer(x, self.features_of(x), likelihood, prior)
        place = at(log_joint, self.phi.unsqueeze(0))
        ones, passed = torch.ones_like(self.phi), []
        for _ in range(self.langevin.steps):
            moved: Moved = langevin_step(log_joint, place, self.log_step.exp(), ones, self.langevin.adjusted)
            place = moved.place
            passed.append(place.x[0])
            if self.langevin.adjusted:
                self.log_step += RATE * (moved.acceptance[0].to(self.log_step) - ACCEPTED)
        self.phi.copy_(passed[-1])
        self.phi_mean.lerp_(self.phi, 1 - _KEPT)
        return passed

    def chain(self, x: Tensor, likelihood: Density, prior: Density) -> list[Tensor]:
        if not self.training:
            return [self(x).location]
        passed, g = self.advance(x, likelihood, prior), self.features_of(x)
        return [g @ phi.T for phi in passed]

    def calibrate(self, bound: Callable[[], float]) -> None:
        """Set τ to the one out of thirteen between 0.01 and 1 whose bound on validation rows is highest."""
        tried = torch.linspace(math.log(0.01), 0.0, 13).tolist()
        values = []
        for each in tried:
            self.log_tau.fill_(each)
            values.append(bound())
        self.log_tau.fill_(tried[max(range(len(tried)), key=values.__getitem__)])
