"""Markov chains for a log-density: Hamiltonian Monte Carlo and Langevin, a batch of chains at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modeflow.densities.steps import (
    DualAveraging,
    Moved,
    Place,
    at,
    hmc_step,
    langevin_step,
    where_drawn,
)
from modeflow.errors import ConfigError
from modeflow.inference.targets import LogProb, check_log_prob, check_tensor
from modeflow.options import check_sizes
from modeflow.progress import track

__all__ = ["Chains", "hmc", "langevin", "r_hat"]

#: The step of every HMC transition is multiplied by a number of this width around one: a trajectory of one
#: length may come back to where it began, and a chain of such trajectories never leave its orbit.
_JITTER = 0.2


@dataclass(frozen=True)
class Chains:
    """What chains went through after their warm-up.

    Attributes:
        samples: ``(S, B, *event)``: S draws of each of B chains.
        log_prob: of the samples, up to the target's constant, nats, ``(S, B)``.
        acceptance: mean probability of acceptance of each chain, ``(B,)``; ones where nothing is refused.
        step_size: that was used, ``()``, or ``(B,)`` where each chain has its own.
        divergences: of each chain, proposals whose energy was off by more than 1000 nats, ``(B,)``.
        scale: variance of each coordinate that steps were scaled by, of the event's shape.
    """

    samples: Tensor
    log_prob: Tensor
    acceptance: Tensor
    step_size: Tensor
    divergences: Tensor
    scale: Tensor

    @property
    def last(self) -> Tensor:
        """Where the chains ended, ``(B, *event)``."""
        return self.samples[-1]

    def flat(self) -> Tensor:
        """All samples, ``(S B, *event)``."""
        return self.samples.flatten(0, 1)

    def r_hat(self) -> Tensor:
        """`r_hat` of the samples."""
        return r_hat(self.samples)


def r_hat(samples: Tensor) -> Tensor:
    r"""Split R-hat of chains of one target: above 1.01 or so they have not mixed.

    .. math:: \hat R^2 = \frac{n - 1}{n} + \frac{\operatorname{var}(\text{means of half chains})}
        {\operatorname{mean}(\text{variances within})}

    Arguments:
        samples: ``(S, B, *event)``, S at least 4.

    Returns:
        of the event's shape.

    Reference:
        Gelman et al., *Bayesian Data Analysis*, 3rd edition, 2013, section 11.4
    """
    half = len(samples) // 2
    if half < 2:
        raise ConfigError(f"r_hat needs 4 samples of each chain or more, received {len(samples)}")
    parts = torch.cat((samples[:half], samples[half : 2 * half]), 1).double()
    within = parts.var(0).mean(0)
    return ((half - 1) / half + parts.mean(0).var(0) / within).sqrt()


def hmc(
    log_prob: LogProb,
    start: Tensor,
    *,
    draws: int = 1000,
    warmup: int = 500,
    leapfrog_steps: int = 10,
    step_size: float | Tensor = 0.1,
    target_acceptance: float = 0.8,
    mass: Tensor | str | None = None,
    thin: int = 1,
    generator: torch.Generator | None = None,
) -> Chains:
    r"""Hamiltonian Monte Carlo: B chains at once, one a row.

    .. math:: H(x, p) = -\log p(x) + \tfrac12 p^T M^{-1} p, \qquad
        P(\text{accept}) = \min(1, e^{H(x, p) - H(x', p')})

    A transition draws p ~ N(0, M), takes `leapfrog_steps` steps of ε (times a number in [0.8, 1.2] of each
    chain's own) and accepts by Metropolis. In the warm-up ε is adapted to `target_acceptance` by dual
    averaging. A row may be a target of its own, as log p(z | x_i) is of every i.

    Arguments:
        log_prob: ``(B, *event) -> (B,)``, nats, up to a constant. A gradient is taken even where the caller
            has gradients switched off; none reaches parameters.
        start: ``(B, *event)``; its type and device are those of the chains.
        draws: S, kept of every chain. warmup: transitions before them; with 0 `step_size` stays.
        leapfrog_steps: gradients of a transition.
        step_size: ε, of all chains; a tensor ``(B,)`` gives each chain its own, adapted by itself.
        target_acceptance: in (0, 1).
        mass: the diagonal of M, of the event's shape; ``"adapt"``: the inverse of the variance of all
            chains, taken three times in the first three quarters of the warm-up (for rows of one target);
            None for ones.
        thin: transitions for one draw.
        generator: source of randomness; torch's global one if None.

    Returns:
        the chains; cost: ``(warmup + draws * thin) * leapfrog_steps`` gradients.

    Raises:
        ConfigError: a function that is no log-density, a start without density, or a value that is not
            allowed.

    Reference:
        Neal, *MCMC using Hamiltonian dynamics*, 2011, https://arxiv.org/abs/1206.1901
    """
    check_sizes(draws=draws, leapfrog_steps=leapfrog_steps, thin=thin)
    _check_start(start)
    adapt = isinstance(mass, str)
    if isinstance(mass, str) and mass != "adapt":
        raise ConfigError(f"mass must be 'adapt', a tensor of the event's shape or None, received {mass!r}")
    scale = torch.ones_like(start[0]) if mass is None or isinstance(mass, str) else 1 / mass.to(start)

    def step(place: Place, size: Tensor, scale: Tensor) -> Moved:
        level = where_drawn(torch.rand, (len(start),), start, generator)
        size = size * (1 + _JITTER * (2 * level - 1))
        return hmc_step(log_prob, place, size, leapfrog_steps, scale, generator)

    adapting = DualAveraging(_sizes(step_size, start), _acceptance(target_acceptance))
    return _run(log_prob, start, step, adapting, warmup, draws, thin, scale, adapt)


def langevin(
    log_prob: LogProb,
    start: Tensor,
    *,
    step_size: float | Tensor,
    draws: int = 1000,
    warmup: int = 0,
    adjusted: bool = False,
    target_acceptance: float = 0.574,
    scale: Tensor | None = None,
    thin: int = 1,
    generator: torch.Generator | None = None,
) -> Chains:
    r"""Langevin dynamics: B chains at once, one a row.

    .. math:: x' = x + \eta S \nabla \log p(x) + \sqrt{2 \eta S}\, \xi, \qquad \xi \sim N(0, I)

    Unadjusted, its stationary law is p up to O(η): for :math:`N(0, \Lambda^{-1})` and S = I it is
    :math:`N(0, \Lambda^{-1} (I - \eta \Lambda / 2)^{-1})`. With `adjusted` a Metropolis step makes it p
    (MALA), and the warm-up adapts η to `target_acceptance`. For K short-run steps: ``draws=1, thin=K``, and
    `Chains.last`.

    Arguments:
        log_prob, start, generator: as in `hmc`.
        step_size: η, of all chains, or ``(B,)``. (A step d of d²/2 times the gradient is η = d²/2.)
        draws, thin: as in `hmc`. warmup: steps before them.
        adjusted: accept by Metropolis.
        target_acceptance: in (0, 1), where `adjusted`.
        scale: the diagonal S, of the event's shape; ones if None.

    Returns:
        the chains; cost: ``warmup + draws * thin`` gradients.

    Raises:
        ConfigError: as in `hmc`.

    Reference:
        Roberts and Tweedie, *Exponential convergence of Langevin distributions and their discrete
        approximations*, Bernoulli, 1996
    """
    check_sizes(draws=draws, thin=thin)
    _check_start(start)
    by = torch.ones_like(start[0]) if scale is None else scale.to(start)

    def step(place: Place, size: Tensor, scale: Tensor) -> Moved:
        return langevin_step(log_prob, place, size, scale, adjusted, generator)

    sizes = _sizes(step_size, start)
    adapting = DualAveraging(sizes, _acceptance(target_acceptance)) if adjusted and warmup else None
    return _run(log_prob, start, step, adapting or sizes, warmup, draws, thin, by, False)


def _run(
    log_prob: LogProb,
    start: Tensor,
    step: Callable[[Place, Tensor, Tensor], Moved],
    adapting: DualAveraging | Tensor,
    warmup: int,
    draws: int,
    thin: int,
    scale: Tensor,
    adapt_scale: bool,
) -> Chains:
    """Warm-up, in which what is adapted is, and the draws."""
    if warmup < 0:
        raise ConfigError(f"warmup must be 0 or more, received {warmup}")
    place = _begin(log_prob, start)
    seen: list[Tensor] = []
    window = warmup // 4
    for i in track(range(warmup), "warm-up"):
        size = adapting.now if isinstance(adapting, DualAveraging) else adapting
        moved = step(place, size, scale)
        place = moved.place
        if isinstance(adapting, DualAveraging):
            adapting.update(moved.acceptance)
        if adapt_scale and window and i < 3 * window:
            # What is far too narrow at first is seen only once the scale is roughly right: three times.
            if i % window == 0:
                seen = []
            seen.append(place.x)
            if i % window == window - 1:
                scale = _variance(torch.cat(seen[window // 2 :]))
                assert isinstance(adapting, DualAveraging)
                # The unit of a step is now a standard deviation.
                adapting.restart(torch.full_like(adapting.now, 0.1))
    size = adapting.settled() if isinstance(adapting, DualAveraging) else adapting
    samples, values = [], []
    accepted = torch.zeros_like(place.log_prob)
    divergences = torch.zeros_like(place.log_prob, dtype=torch.long)
    for _ in track(range(draws), "chains"):
        for _ in range(thin):
            moved = step(place, size, scale)
            place = moved.place
            accepted += moved.acceptance
            divergences += moved.divergent
        samples.append(place.x)
        values.append(place.log_prob)
    means = accepted / (draws * thin)
    return Chains(torch.stack(samples), torch.stack(values), means, size, divergences, scale)


def _check_start(start: Tensor) -> None:
    check_tensor("start", start)
    if start.dim() < 1 or not len(start) or not start.is_floating_point():
        raise ConfigError(
            f"start must be rows (B, *event) of numbers, received {tuple(start.shape)} {start.dtype}"
        )


def _begin(log_prob: LogProb, start: Tensor) -> Place:
    check_log_prob(log_prob, start)
    place = at(log_prob, start)
    lost = torch.nonzero(place.log_prob == -torch.inf).flatten()
    if len(lost):
        raise ConfigError(
            f"start row {int(lost[0])} has no density ({len(lost)} of {len(start)} have none): start where "
            "the target has some"
        )
    return place


def _variance(x: Tensor) -> Tensor:
    """Of every coordinate, drawn to a small number by the weight of five rows, so that it is never zero."""
    share = len(x) / (len(x) + 5)
    return share * x.double().var(0).to(x) + (1 - share) * 1e-3


def _sizes(step_size: float | Tensor, start: Tensor) -> Tensor:
    sizes = torch.as_tensor(step_size, dtype=start.dtype, device=start.device)
    if sizes.dim() and tuple(sizes.shape) != (len(start),):
        raise ConfigError(f"step_size must be one number or ({len(start)},), received {tuple(sizes.shape)}")
    if not bool((sizes > 0).all()) or not bool(sizes.isfinite().all()):
        raise ConfigError(f"step_size must be above 0 and finite, received {step_size!r}")
    return sizes


def _acceptance(target: float) -> float:
    if not (0 < target < 1 and math.isfinite(target)):
        raise ConfigError(f"target_acceptance must lie in (0, 1), received {target!r}")
    return target
