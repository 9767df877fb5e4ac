r"""Transport score climbing: fitting a flow to a target by the forward divergence, KL(p ‖ q).

A flow is a map T from noise ε ~ N(0, I) to z, q its density. Each iteration takes every chain from z to
noise, moves it there by Hamiltonian Monte Carlo for the *warped* target

.. math:: \log \tilde\pi(\epsilon) = \log \tilde p(T(\epsilon)) + \log|\det \partial T / \partial \epsilon|

brings it back, and climbs the score of where it is, :math:`\nabla_\phi \log q_\phi(z)`. What persists is z,
in the coordinates of the target: as T changes the same z has another ε. The better q, the nearer the warped
target to the noise, and the better the chains mix. At a minimum of KL(p ‖ q) q covers all of p, where the
reverse divergence takes q inside.

Reference:
    Zhang, Blei and Naesseth, *Transport Score Climbing: Variational Inference Using Forward KL and Adaptive
    Neural Transport*, 2022, https://arxiv.org/abs/2202.01841
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.densities.steps import at, hmc_step
from modeflow.errors import ConfigError
from modeflow.flows import build_flow
from modeflow.inference.importance import Importance, importance
from modeflow.inference.posterior import (
    SOME_FLOWS,
    check_event_shape,
    falling_rate,
    lost_steps,
    seed_of,
    shape_of,
)
from modeflow.inference.starting import flow_on
from modeflow.inference.targets import LogProb, as_target, check_log_prob, check_tensor
from modeflow.nets.randomness import seeded
from modeflow.optimisers import Adam
from modeflow.options import Options, check_positive, check_sizes
from modeflow.progress import showing, track

__all__ = ["ClimbOptions", "ClimbedPosterior", "transport_score_climbing", "warp"]

#: ``(z, x) -> (B,)``: log p(z, x) of latents and the rows that they belong to, None where there are no rows.
JointLogProb = Callable[[Tensor, Tensor | None], Tensor]


@dataclass(kw_only=True)
class ClimbOptions(Options):
    """How transport score climbing goes.

    Arguments:
        learning_rate: of Adam; it falls to zero along half a cosine.
        batch_size: chains that move and are learned from in a step, where there are rows x; without, all do.
        step_size: of leapfrog in noise, at the start.
        target_acceptance: to which it is adapted.
        adaptation: how fast: log ε moves by so much times what the acceptance misses.
        most_leapfrog: leapfrog steps of a transition at the most; there are 1 + 1/ε.
        clip: largest norm of a step's gradient.
        evaluation_draws: fresh draws for importance weights, where there is one target.
    """

    learning_rate: float = 3e-3
    batch_size: int = 128
    step_size: float = 0.2
    target_acceptance: float = 0.67
    adaptation: float = 0.05
    most_leapfrog: int = 8
    clip: float = 10.0
    evaluation_draws: int = 4096

    def __post_init__(self) -> None:
        check_sizes(
            batch_size=self.batch_size,
            most_leapfrog=self.most_leapfrog,
            evaluation_draws=self.evaluation_draws,
        )
        for name in ("learning_rate", "step_size", "adaptation", "clip"):
            check_positive(name, getattr(self, name))
        if not 0 < self.target_acceptance < 1:
            raise ConfigError(f"target_acceptance must lie in (0, 1), received {self.target_acceptance!r}")


@dataclass(frozen=True)
class ClimbedPosterior:
    """A flow fitted by transport score climbing.

    Attributes:
        density: q(z), or q(z | x).
        chains: where the chains ended, in the target's coordinates, ``(B, *event)``.
        acceptance: mean probability of acceptance over the last half of the steps.
        step_size: of leapfrog, as adapted.
        history: ``-log q(z)`` of every step, mean over the chains that moved, nats, ``(steps,)``.
        weights: importance weights of fresh draws, where there is one target; None where there are rows x.
    """

    density: Flow
    chains: Tensor = field(repr=False)
    acceptance: float
    step_size: float
    history: Tensor = field(repr=False)
    weights: Importance | None = field(default=None, repr=False)

    def log_prob(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """``log q(z)`` or ``log q(z | x)``, nats, ``(B,)``."""
        with torch.no_grad():
            return self.density.log_prob(z.to(self.density.dtype), x)

    def sample(self, n: int = 1, x: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """n draws ``(n, *event)``, or, given rows x ``(B, C)``, ``(n, B, *event)``."""
        return self.density.sample(n, x, generator)

    def summary(self) -> str:
        """What was found, in plain text."""
        lines = [
            f"transport score climbing, {len(self.history)} steps, {len(self.chains)} chains",
            f"acceptance       {self.acceptance:.2f} at step size {self.step_size:.3g}",
        ]
        if self.weights is None:
            return "\n".join(lines)
        lines += self.weights.lines()
        return "\n".join(lines + [f"WARNING: {line}" for line in self.weights.warnings()])


def warp(log_prob: LogProb, flow: Flow, context: Tensor | None = None) -> LogProb:
    r"""The target in the coordinates of a flow's noise: ``log p̃(T(ε)) + log|det ∂T/∂ε|``.

    Where the flow has the density of the target this is that of its noise, and chains mix as they do for a
    Gaussian.

    Arguments:
        log_prob: of the target, ``(B, *event) -> (B,)``. flow: whose transform is T, read from noise to data.
        context: of the flow, one row a chain.

    Raises:
        ConfigError: a flow whose transform is not one to one.
    """
    _check_warps(flow)

    def warped(noise: Tensor) -> Tensor:
        z, logabsdet = flow.transform.inverse(noise, context)
        return log_prob(z) + logabsdet

    return warped


def transport_score_climbing(
    target: Any,
    flow: str | Flow = "realnvp",
    *,
    x: Tensor | None = None,
    chains: int = 128,
    steps: int = 1000,
    start: Tensor | None = None,
    event_shape: Sequence[int] | int | None = None,
    learn: nn.Module | None = None,
    flow_options: Mapping[str, Any] | None = None,
    options: ClimbOptions | Mapping[str, Any] | None = None,
    random_state: int | torch.Generator = 0,
    verbose: bool = False,
) -> ClimbedPosterior:
    r"""Fit a flow to a target by the forward divergence KL(p ‖ q), with chains in the flow's own coordinates.

    Of one target: `chains` chains of it, all moved in every step. Amortised: with rows `x` the flow is
    conditional, q(z | x), every row has a chain of its own that persists, and the target is called as
    ``target(z, x)`` with rows that belong together. With `learn`, the module that such a target is made of
    (the decoder of a VAE) climbs too, by the gradient of log p(x, z) at the chains, which is that of log p(x)
    on average over the posterior (Fisher's identity).

    Arguments:
        target: as in `fit_posterior`; with rows a function of ``(B, *event)`` and ``(B, C)``, shape ``(B,)``.
        flow: a name of `modeflow.flows.FLOWS`, or a `Flow`, which is fitted in place. Its transform is one to
            one; both directions are needed and are better quick.
        x: rows ``(N, C)``; None for one target.
        chains: number of them, without rows. steps: of the optimiser, a transition of each chain in the
            batch.
        start: of the chains, ``(B, *event)`` or ``(N, *event)``; draws of q if None. A flow by its name
            begins by standardising them.
        event_shape, flow_options, random_state, verbose: as in `fit_posterior`.
        learn: a module whose parameters are learned with the flow.
        options: a `ClimbOptions`, or a mapping.

    Returns:
        the flow and its chains. A step costs up to ``most_leapfrog + 1`` gradients of target and flow a
        chain.

    Raises:
        ConfigError: a target that is no log-density, a flow that is not one to one, or a value that is not
            allowed.
        TrainingError: no finite loss any more.

    Reference:
        Zhang, Blei and Naesseth, *Transport Score Climbing*, 2022, https://arxiv.org/abs/2202.01841
    """
    check_sizes(chains=chains, steps=steps)
    chosen = ClimbOptions.of(options, "options")
    if x is not None:
        check_tensor("x", x)
        if x.dim() != 2:
            raise ConfigError(f"x must be rows (N, C), received {tuple(x.shape)}")
    if learn is not None and x is None:
        raise ConfigError("learn is fitted to rows: pass x, or leave it out")
    seed = seed_of(random_state)
    generator = torch.Generator().manual_seed(seed)
    goal = as_target(target, shape_of(event_shape, flow, start))
    with showing(verbose), seeded(seed):
        rows = None if start is None else start.detach().to(torch.get_default_dtype())
        width = 0 if x is None else x.shape[1]
        density = (
            flow if isinstance(flow, Density) else _build(flow, goal.event_shape, width, rows, flow_options)
        )
        check_event_shape(density, goal)
        _check_warps(density)
        if density.context_features != width:
            raise ConfigError(
                f"the flow has context_features={density.context_features}, the rows x a width of {width}"
            )
        context = None if x is None else x.detach().to(density.device, density.dtype)
        count = chains if context is None else len(context)
        z = _begin(density, start, count, context, generator)
        joint: Any = getattr(target, "log_prob", target)

        def of(z: Tensor, x: Tensor | None) -> Tensor:
            return goal.log_prob(z) if x is None else joint(z, x)

        check_log_prob(lambda z: of(z, context), z)
    with showing(verbose), seeded(seed, foreign=False):
        climb = _Climb(density, of, context, z, learn, chosen, generator)
        for step in track(range(steps), "climb"):
            climb.step(step, steps)
        density.eval()
        weights = None
        if context is None:
            weights = importance(goal.log_prob, density, chosen.evaluation_draws, None, generator)
    return ClimbedPosterior(
        density, climb.z, climb.mean_acceptance(), climb.size, torch.tensor(climb.history), weights
    )


class _Climb:
    """Chains, flow and optimiser, moved on a step at a time."""

    def __init__(
        self,
        density: Flow,
        log_prob: JointLogProb,
        context: Tensor | None,
        z: Tensor,
        learn: nn.Module | None,
        options: ClimbOptions,
        generator: torch.Generator,
    ) -> None:
        self.density, self.log_prob, self.context, self.z = density, log_prob, context, z
        self.learn, self.options, self.generator = learn, options, generator
        self.size = options.step_size
        self.history: list[float] = []
        self._accepted: list[float] = []
        self._lost = 0
        self._parameters = [p for p in density.parameters() if p.requires_grad]
        self._learned = [] if learn is None else [p for p in learn.parameters() if p.requires_grad]
        self._optimiser = Adam([*self._parameters, *self._learned], lr=options.learning_rate)
        self._inverse_mass = torch.ones((), dtype=z.dtype, device=z.device)

    def mean_acceptance(self) -> float:
        """Over the last half of the steps."""
        half = self._accepted[len(self._accepted) // 2 :]
        return sum(half) / len(half)

    def step(self, step: int, steps: int) -> None:
        """Move the chains of a batch, then flow (and what else is learned) towards them."""
        index, context = self._batch()
        z = self.z if index is None else self.z[index]
        z = self._move(z, context)
        if index is None:
            self.z = z
        else:
            self.z[index] = z
        self.density.train()
        with torch.enable_grad():
            loss = -self.density.log_prob(z, context).mean()
            self.history.append(float(loss.detach()))
            if self._learned:
                assert context is not None
                loss = loss - self.log_prob(z, context).mean()
        self._lost = lost_steps(float(loss.detach()), self._lost)
        self._optimiser.zero_grad()
        if self._lost:
            return
        loss.backward()
        norms = [
            nn.utils.clip_grad_norm_(p, self.options.clip) for p in (self._parameters, self._learned) if p
        ]
        if all(bool(norm.isfinite()) for norm in norms):
            falling_rate(self._optimiser, self.options.learning_rate, step, steps)
            self._optimiser.step()

    def _batch(self) -> tuple[Tensor | None, Tensor | None]:
        if self.context is None:
            return None, None
        if len(self.context) <= self.options.batch_size:
            return None, self.context
        where = torch.randperm(len(self.context), generator=self.generator)[: self.options.batch_size]
        where = where.to(self.z.device)
        return where, self.context[where]

    def _move(self, z: Tensor, context: Tensor | None) -> Tensor:
        """One transition of HMC in noise, of chains that are given and taken in the target's coordinates."""
        self.density.eval()
        with torch.no_grad():
            noise, _ = self.density.transform(z, context)
        of = self.log_prob
        warped = warp(lambda z: of(z, context), self.density, context)
        leaps = min(1 + int(1 / self.size), self.options.most_leapfrog)
        size = torch.tensor(self.size, dtype=z.dtype, device=z.device)
        moved = hmc_step(warped, at(warped, noise), size, leaps, self._inverse_mass, self.generator)
        with torch.no_grad():
            there, _ = self.density.transform.inverse(moved.place.x, context)
        acceptance = float(moved.acceptance.mean())
        self._accepted.append(acceptance)
        self.size *= math.exp(self.options.adaptation * (acceptance - self.options.target_acceptance))
        # A chain that stays keeps its very number: to noise and back would round it.
        moves = moved.taken & there.flatten(1).isfinite().all(1)
        return torch.where(moves.view(-1, *(1,) * (z.dim() - 1)), there, z)


def _build(
    flow: str,
    event_shape: tuple[int, ...],
    context_features: int,
    rows: Tensor | None,
    options: Mapping[str, Any] | None,
) -> Flow:
    if len(event_shape) != 1:
        raise ConfigError(f"a flow by its name is of vectors; events have shape {event_shape}: pass a Flow")
    built = build_flow(flow, event_shape[0], context_features, None if options is None else dict(options))
    _check_warps(built)
    return flow_on(built, rows)


def _check_warps(density: Any) -> None:
    if not isinstance(density, Flow) or not density.transform.bijective or density.exactness != "exact":
        raise ConfigError(
            f"transport score climbing needs a flow whose transform is one to one and exact, received "
            f"{type(density).__name__}; take {SOME_FLOWS}"
        )


def _begin(density: Flow, start: Tensor | None, count: int, context: Tensor | None, generator: Any) -> Tensor:
    if start is None:
        if context is None:
            return density.sample(count, generator=generator)
        return density.sample(1, context, generator)[0]
    z = start.detach().to(density.device, density.dtype)
    wanted = (count if context is not None else len(z), *density.event_shape)
    if tuple(z.shape) != wanted or not len(z):
        raise ConfigError(f"start must have shape {wanted}, received {tuple(start.shape)}")
    return z.clone()
