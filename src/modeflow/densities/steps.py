r"""Single steps of Markov chains, a batch of chains at a time, and how their size is found.

Noise is drawn from the generator given, or, within a stream of noise of the rows
(`modeflow.transforms.noise.row_noise`), is a function of the row: a chain then ends at the same place in
every call.

A chain is a row. Its state is a `Place`; a step takes one and gives the next. Leapfrog integrates
:math:`\dot x = M^{-1} p,\ \dot p = \nabla \log p(x)`, whose energy :math:`-\log p(x) + p^T M^{-1} p / 2` it
keeps up to :math:`O(\epsilon^2)`; a Metropolis step takes what is left away.

Reference:
    Neal, *MCMC using Hamiltonian dynamics*, 2011, https://arxiv.org/abs/1206.1901;
    Hoffman and Gelman, *The No-U-Turn Sampler*, 2014, https://arxiv.org/abs/1111.4246 (dual averaging)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modeflow.transforms.noise import drawn, in_row_noise, standard_normal, uniform_noise

__all__ = [
    "DualAveraging",
    "Moved",
    "Place",
    "at",
    "hmc_step",
    "langevin_step",
    "leapfrog",
    "normal_like",
    "spread_over",
    "where_drawn",
]

#: An error of the energy, in nats, beyond which a trajectory has diverged.
_DIVERGENT = 1000.0


class Place(NamedTuple):
    """Where chains are: ``x (B, *event)``, its log-density ``(B,)`` (-inf where it is none), its gradient."""

    x: Tensor
    log_prob: Tensor
    grad: Tensor


class Moved(NamedTuple):
    """A step: the place after it, and of each chain the probability of acceptance, whether the proposal was
    taken, and whether it diverged, ``(B,)`` each."""

    place: Place
    acceptance: Tensor
    taken: Tensor
    divergent: Tensor


def where_drawn(
    draw: Callable[..., Tensor], shape: Any, like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Numbers of the type and device of `like`, drawn where the generator lives."""
    return drawn(draw, shape, like.dtype, like.device, generator)


def normal_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the shape, type and device of `like`."""
    if generator is None and in_row_noise():
        return standard_normal(like)
    return where_drawn(torch.randn, like.shape, like, generator)


def _uniform_like(like: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None and in_row_noise():
        return uniform_noise(like)
    return where_drawn(torch.rand, like.shape, like, generator)


def spread_over(values: Tensor, x: Tensor) -> Tensor:
    """``(B,)`` or ``()`` in a shape that multiplies ``x (B, *event)``."""
    return values.view(-1, *(1,) * (x.dim() - 1)) if values.dim() else values


def at(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Place:
    """Evaluate a log-density and its gradient, whatever the caller does with gradients.

    What is no number, or infinite, counts as a density of zero.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        value = log_prob(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
    value = torch.where(value.isfinite(), value, -torch.inf)
    return Place(x.detach(), value.detach(), grad.detach().nan_to_num(0.0, 0.0, 0.0))


def _where(take: Tensor, new: Place, old: Place) -> Place:
    rows = spread_over(take, old.x)
    return Place(
        torch.where(rows, new.x, old.x),
        torch.where(take, new.log_prob, old.log_prob),
        torch.where(rows, new.grad, old.grad),
    )


def leapfrog(
    log_prob: Callable[[Tensor], Tensor],
    place: Place,
    momentum: Tensor,
    step_size: Tensor,
    steps: int,
    inverse_mass: Tensor,
) -> tuple[Place, Tensor]:
    """So many leapfrog steps.

    Arguments:
        place: the start. momentum: ``(B, *event)``. step_size: ``()`` or ``(B,)``.
        inverse_mass: of each coordinate, of a shape that multiplies ``(B, *event)``.

    Returns:
        the place and the momentum at the end.
    """
    size = spread_over(step_size, place.x)
    for _ in range(steps):
        momentum = momentum + 0.5 * size * place.grad
        x = place.x + size * inverse_mass * momentum
        # A trajectory that has left the numbers stays where it was: its energy is refused below.
        lost = ~x.isfinite()
        place = at(log_prob, torch.where(lost, place.x, x))
        gone = lost.flatten(1).any(1)
        place = place._replace(log_prob=torch.where(gone, -torch.inf, place.log_prob))
        momentum = momentum + 0.5 * size * place.grad
    return place, momentum


def _kinetic(momentum: Tensor, inverse_mass: Tensor) -> Tensor:
    return 0.5 * (momentum.square() * inverse_mass).flatten(1).sum(1)


def _decide(new: Place, old: Place, log_ratio: Tensor, generator: torch.Generator | None) -> Moved:
    log_ratio = torch.where(log_ratio.isnan(), -torch.inf, log_ratio)
    acceptance = log_ratio.clamp_max(0).exp()
    taken = _uniform_like(acceptance, generator) < acceptance
    return Moved(_where(taken, new, old), acceptance, taken, log_ratio < -_DIVERGENT)


def hmc_step(
    log_prob: Callable[[Tensor], Tensor],
    place: Place,
    step_size: Tensor,
    leapfrog_steps: int,
    inverse_mass: Tensor,
    generator: torch.Generator | None = None,
) -> Moved:
    """One transition of Hamiltonian Monte Carlo; arguments as in `leapfrog`."""
    momentum = normal_like(place.x, generator) * inverse_mass.rsqrt()
    new, end = leapfrog(log_prob, place, momentum, step_size, leapfrog_steps, inverse_mass)
    before = place.log_prob - _kinetic(momentum, inverse_mass)
    return _decide(new, place, new.log_prob - _kinetic(end, inverse_mass) - before, generator)


def langevin_step(
    log_prob: Callable[[Tensor], Tensor],
    place: Place,
    step_size: Tensor,
    scale: Tensor,
    adjusted: bool,
    generator: torch.Generator | None = None,
) -> Moved:
    r"""``x' = x + η S ∇log p(x) + √(2 η S) ξ``; with `adjusted` a proposal that Metropolis decides on (MALA).

    Arguments:
        step_size: η, ``()`` or ``(B,)``. scale: S, of each coordinate.
    """
    variance = 2 * spread_over(step_size, place.x) * scale
    noise = normal_like(place.x, generator)
    x = place.x + 0.5 * variance * place.grad + variance.sqrt() * noise
    new = at(log_prob, x)
    if not adjusted:
        ones = torch.ones_like(new.log_prob)
        return Moved(new, ones, ones > 0, new.log_prob == -torch.inf)
    back = (place.x - x - 0.5 * variance * new.grad) * variance.rsqrt()
    there_and_back = 0.5 * (noise.square() - back.square()).flatten(1).sum(1)
    return _decide(new, place, new.log_prob - place.log_prob + there_and_back, generator)


class DualAveraging:
    r"""Finds the step size at which a mean acceptance is δ.

    .. math:: s_{t+1} = \mu - \frac{\sqrt t}{\gamma (t + t_0)} \sum_{i \le t} (\delta - a_i), \qquad
        \bar s_t = t^{-\kappa} s_t + (1 - t^{-\kappa}) \bar s_{t-1}, \qquad s = \log \epsilon,

    with γ = 0.05, t₀ = 10, κ = 0.75 and μ = log 10 ε₀.

    Arguments:
        step_size: ε₀, of all chains ``()`` or one a chain ``(B,)``: so many are adapted. target: δ.
    """

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.target = target
        self.restart(step_size)

    def restart(self, step_size: Tensor) -> None:
        """Begin anew from a step size."""
        self.now = step_size.clone()
        self._mu = (10 * step_size).log()
        self._sum = torch.zeros_like(step_size)
        self._mean_log = torch.zeros_like(step_size)
        self._count = 0

    def update(self, acceptance: Tensor) -> None:
        """Learn from the acceptance of the chains ``(B,)``."""
        self._count += 1
        t = self._count
        self._sum = self._sum + self.target - (acceptance if self.now.dim() else acceptance.mean())
        log_step = self._mu - math.sqrt(t) / (0.05 * (t + 10)) * self._sum
        share = t**-0.75
        self._mean_log = share * log_step + (1 - share) * self._mean_log
        self.now = log_step.exp()

    def settled(self) -> Tensor:
        """The averaged step size, to go on with."""
        return self._mean_log.exp() if self._count else self.now
