r"""Posteriors by Langevin dynamics, which are sampled, not written down; and what bounds a density with them.

With :math:`U(z) = -\log p(x \mid z) - \log p(z)` a step of size η is

.. math:: z_{k+1} = z_k - \eta\, \nabla U(z_k) + \sqrt{2 \eta}\, \xi_k, \qquad \xi_k \sim N(0, I)

(:math:`\eta = d^2 / 2` where the literature writes d). It is used in four ways: `LangevinPosterior` takes K
steps afresh from N(0, I) for every row, `EncodedLangevinPosterior` from what an encoder says of it;
`AmortisedLangevinPosterior` (`modeflow.latents.last_layer`) moves the last layer of an encoder, and with it
z of all rows at once; and `Langevin.move` refines what any posterior in R^L says.

A model is learned from such z by the gradient of ``log p(x, z)``, which is that of ``log p(x)`` where z is
from p(z|x) (`modeflow.latents.MCMCLikelihood`). The law of z_K has no density that could be written down, so
``log p(x)`` is bounded by importance weights of a Gaussian instead; by any, a bound holds.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.steps import at, langevin_step, normal_like
from modeflow.errors import ConfigError
from modeflow.latents.approximate import Approximate, DiagonalGaussian, Posterior
from modeflow.latents.laplace import PrecisionGaussian, gaining
from modeflow.options import check_sizes
from modeflow.transforms.noise import in_row_noise, row_noise

__all__ = [
    "ChainPosterior",
    "EncodedLangevinPosterior",
    "Langevin",
    "LangevinPosterior",
    "ShortRun",
    "curvature",
    "peak",
]

LogJoint = Callable[[Tensor], Tensor]
#: Number of the stream of noise of a chain: no draw of a bound has it.
_CHAIN = 1 << 20
#: Steps from where a chain ends to the Gaussian that bounds, and the least curvature of that.
_NEWTON, _LEAST = 6, 0.05
#: Acceptance that step sizes are adapted to, and how fast.
ACCEPTED, RATE = 0.574, 0.05


@dataclass(frozen=True)
class Langevin:
    """Steps of Langevin dynamics.

    Arguments:
        steps: K. step_size: η. adjusted: accept each by Metropolis (MALA).
        adapts: whether η is only where a `LangevinPosterior` begins, which then finds its own.

    Raises:
        ConfigError: for a value that is not allowed.
    """

    steps: int
    step_size: float
    adjusted: bool = False
    adapts: bool = False

    def __post_init__(self) -> None:
        check_sizes(langevin_steps=self.steps)
        if not 0 < self.step_size < math.inf:
            raise ConfigError(f"langevin_step_size must be above 0 and finite, received {self.step_size!r}")

    def move(self, log_joint: LogJoint, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z after K steps, ``(B, L)``, without gradient.

        Arguments:
            log_joint: ``log p(x, z)`` of every row, ``(B, L) -> (B,)``. z: where the chains start.
            generator: source of randomness; see `modeflow.densities.steps` for what is without one.
        """
        if not len(z):
            return z.detach()
        size, ones = torch.as_tensor(self.step_size).to(z), torch.ones_like(z[0])
        place = at(log_joint, z)
        for _ in range(self.steps):
            place = langevin_step(log_joint, place, size, ones, self.adjusted, generator).place
        return place.x


def log_joint_of(x: Tensor, likelihood: Density, prior: Density) -> LogJoint:
    """``z -> log p(x, z)`` of every row."""
    return lambda z: likelihood._log_prob(x, z) + prior._log_prob(z, None)


def own_noise(x: Tensor, part: nn.Module) -> AbstractContextManager[None]:
    """What a chain of these rows runs in: fresh noise while training, else a stream of the row's own."""
    return nullcontext() if part.training and not in_row_noise() else row_noise(x, _CHAIN, part)


def curvature(log_joint: LogJoint, z: Tensor) -> tuple[Tensor, Tensor]:
    r"""The gradient of ``log p(x, z)``, ``(B, L)``, and the Cholesky factor of a precision, ``(B, L, L)``.

    The precision is :math:`|{-\nabla^2} \log p(x, z)|`, of absolute eigenvalues of at least 0.05, so that it
    is one also away from a mode.
    """
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(log_joint(z).sum(), z, create_graph=True)
        rows = [torch.autograd.grad(each.sum(), z, retain_graph=True)[0] for each in slope.unbind(1)]
    hessian = -torch.stack(rows, 1).nan_to_num(0.0, 0.0, 0.0)
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    precision = (vectors * values.abs().clamp_min(_LEAST).unsqueeze(1)) @ vectors.mT
    return slope.detach().nan_to_num(0.0, 0.0, 0.0), torch.linalg.cholesky(precision)


def peak(log_joint: LogJoint, z: Tensor, steps: int = _NEWTON) -> PrecisionGaussian:
    """The Gaussian at a mode of ``p(x, z)`` near z, by Newton steps that never lose, and the curvature there.

    All steps go by the curvature where they start, for that is what costs: L gradients of a gradient. A few
    more of them, one gradient each, come as far as if it were taken afresh.

    Arguments:
        log_joint: ``(B, L) -> (B,)``. z: from where. steps: of the search.
    """
    slope, factor = curvature(log_joint, z)
    for step in range(steps):
        if step:
            slope = at(log_joint, z).grad
        z = gaining(log_joint, z, torch.cholesky_solve(slope.unsqueeze(-1), factor).squeeze(-1))
    return PrecisionGaussian(z.detach(), curvature(log_joint, z)[1])


class ShortRun(Approximate):
    """Where chains ended, and the Gaussian at the mode near it, made when it is first asked for.

    Its middle is z_K; density, draws and moments are those of the Gaussian (`peak`), a proposal.

    Arguments:
        z: z_K, ``(B, L)``. log_joint: of the rows.
    """

    def __init__(self, z: Tensor, log_joint: LogJoint) -> None:
        self.location, self._log_joint = z, log_joint

    @functools.cached_property
    def proposal(self) -> PrecisionGaussian:
        """The Gaussian."""
        if not len(self.location):
            return PrecisionGaussian(self.location, self.location.new_zeros(0, *[self.location.shape[1]] * 2))
        return peak(self._log_joint, self.location)

    @property
    def log_scale(self) -> Tensor:  # type: ignore[override]
        return self.proposal.log_scale

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        return self.proposal.rsample_and_log_prob()

    def log_prob(self, z: Tensor) -> Tensor:
        return self.proposal.log_prob(z)

    def moments(self) -> tuple[Tensor, Tensor]:
        return self.proposal.moments()


class ChainPosterior(Posterior):
    """A posterior that gives z as chains find them, by which a model is learned (`MCMCLikelihood`).

    Arguments:
        latent_features, make_net: as in `Posterior`. langevin: the steps; None for `usual`.
    """

    #: The steps where none are said.
    usual: ClassVar[Langevin]

    def __init__(
        self, latent_features: int, make_net: Callable[[int], nn.Module], langevin: Langevin | None = None
    ) -> None:
        super().__init__(latent_features, make_net)
        self.langevin = self.usual if langevin is None else langevin

    @abstractmethod
    def chain(self, x: Tensor, likelihood: Density, prior: Density) -> list[Tensor]:
        """z along the chains of these rows, ``(B, L)`` each, that the loss is averaged over."""

    def follow(self, x: Tensor, chain: list[Tensor]) -> Tensor | None:
        """What the encoder itself is to minimise, ``(B,)``, nats, given its `chain`; None for nothing."""
        return None


class LangevinPosterior(ChainPosterior):
    r"""Short-run Langevin dynamics: K steps towards p(z|x), afresh from N(0, I) for every row.

    There is no encoder. Cells of x that are missing (NaN) are no part of U where the likelihood leaves them
    out, in learning and afterwards. The bound is by the Gaussian at the mode near z_K (`ShortRun`).

    Where the steps `adapts`, η follows the curvature of U while the generator is learned: in every step of
    the training one more move from z_K is proposed, and log η goes by a little times what the chance of
    Metropolis accepting it has above 0.574, the best of long chains (Roberts and Rosenthal 1998). The move is
    not made.

    Warning:
        Unadjusted steps diverge where η times the curvature of U is above 2; of a Gaussian likelihood that is
        about |∂g/∂z|² / s² + 1: of a scale s that is learned an η that stands still can become too large.

    Reference:
        Xie et al., *A Tale of Two Latent Flows: Learning Latent Space Normalizing Flow with Short-run
        Langevin Flow for Approximate Inference*, 2023, https://arxiv.org/abs/2301.09300
    """

    usual = Langevin(20, 0.01, adapts=True)
    closed_kl = False
    starts = False
    takes_missing = True
    log_step: Tensor

    def __init__(
        self, latent_features: int, make_net: Callable[[int], nn.Module], langevin: Langevin | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.latent_features = latent_features
        self.langevin = self.usual if langevin is None else langevin
        self.register_buffer("log_step", torch.tensor(math.log(self.langevin.step_size)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Files of before the step was adapted have none: they go on with the one that they were fitted with.
        state_dict.setdefault(f"{prefix}log_step", torch.tensor(math.log(self.langevin.step_size)))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def walk(
        self, x: Tensor, likelihood: Density, prior: Density, generator: torch.Generator | None = None
    ) -> Tensor:
        """z_K of every row, ``(B, L)``; with a generator, as another chain of the row."""
        where = x.new_zeros(len(x), self.latent_features, dtype=prior.dtype)
        steps = replace(self.langevin, step_size=float(self.log_step.exp()))
        return steps.move(log_joint_of(x, likelihood, prior), normal_like(where, generator), generator)

    def approximate(self, x: Tensor, likelihood: Density, prior: Density) -> Approximate:
        with own_noise(x, self):
            z = self.walk(x, likelihood, prior)
        return ShortRun(z, log_joint_of(x, likelihood, prior))

    def chain(self, x: Tensor, likelihood: Density, prior: Density) -> list[Tensor]:
        with own_noise(x, self):
            z = self.walk(x, likelihood, prior)
            if self.training and self.langevin.adapts and len(z):
                self._adapt(log_joint_of(x, likelihood, prior), z)
        return [z]

    @torch.no_grad()
    def _adapt(self, log_joint: LogJoint, z: Tensor) -> None:
        """Move η towards an acceptance of 0.574 of one more step from z."""
        size = self.log_step.exp().to(z)
        tried = langevin_step(log_joint, at(log_joint, z), size, torch.ones_like(z[0]), True)
        self.log_step += RATE * (tried.acceptance.mean().to(self.log_step) - ACCEPTED)


class EncodedLangevinPosterior(ChainPosterior):
    r"""K Langevin steps of every row from a draw of N(m(x), diag s(x)²), which learns where they end.

    .. math:: z_0 \sim q(z \mid x) = N(m(x), s(x)^2), \qquad \text{loss of the encoder} = -\log q(z_K \mid x)

    It is amortised Langevin dynamics whose features are g(x) and, of each row, one of its own: then features
    are independent however many rows there are, and every row is accepted or refused by itself. The encoder
    does not follow the gradient of U at z_K, which is zero on average where chains have mixed, and so holds
    nothing; it learns the mean and spread of p(z|x) as the chains find them. `adjusted`, η is adapted to a
    mean acceptance of 0.574. The bounds are those of q(z|x).

    Reference:
        Li, Turner, Liu, *Approximate Inference with Amortised MCMC*, 2017, https://arxiv.org/abs/1702.08343;
        Taniguchi et al., *Langevin Autoencoders for Learning Deep Latent Variable Models*, 2022,
        https://arxiv.org/abs/2209.07036
    """

    usual = Langevin(10, 0.01, adjusted=True)
    log_step: Tensor

    def __init__(
        self, latent_features: int, make_net: Callable[[int], nn.Module], langevin: Langevin | None = None
    ) -> None:
        super().__init__(latent_features, make_net, langevin)
        self.register_buffer("log_step", torch.tensor(math.log(self.langevin.step_size)))

    def forward(self, x: Tensor) -> Approximate:
        return DiagonalGaussian(*self._gaussian(self.net(x)))

    @torch.no_grad()
    def chain(self, x: Tensor, likelihood: Density, prior: Density) -> list[Tensor]:
        with own_noise(x, self):
            z, _ = self(x).rsample_and_log_prob()
            log_joint, ones = log_joint_of(x, likelihood, prior), torch.ones_like(z[0])
            place = at(log_joint, z)
            for _ in range(self.langevin.steps):
                size = self.log_step.exp().to(z)
                moved = langevin_step(log_joint, place, size, ones, self.langevin.adjusted)
                place = moved.place
                if self.training and self.langevin.adjusted and len(z):
                    self.log_step += RATE * (moved.acceptance.mean().to(self.log_step) - ACCEPTED)
        return [place.x]

    def follow(self, x: Tensor, chain: list[Tensor]) -> Tensor | None:
        q = self(x)
        return -torch.stack([q.log_prob(z) for z in chain]).mean(0)
