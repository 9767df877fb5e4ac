r"""Fitting a density to a target that is known up to a constant, by the reverse divergence.

.. math:: \mathrm{KL}(q \,\|\, p) = \log Z - E_q[\log \tilde p(x) - \log q(x)]

whose last term, the evidence lower bound, is estimated with draws that are differentiable in the parameters
of q. A minimum of it seeks islands: a q of one piece covers some and leaves the others. A q of K states,
:math:`q = \sum_k \pi_k q_k`, has one piece an island, and the sum over k is taken exactly:

.. math:: E_q[\log q - \log \tilde p] = \sum_k \pi_k E_{q_k}[\log q - \log \tilde p]

so that draws need no choice of k, and π has a gradient without noise of that choice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError, TrainingError
from modeflow.inference.importance import Importance, importance
from modeflow.inference.starting import annealed_rows, build_density, start_states
from modeflow.inference.targets import LogProb, Target, as_target, check_log_prob, check_tensor
from modeflow.nets.randomness import seeded
from modeflow.optimisers import Adam
from modeflow.options import Options, check_choice, check_positive, check_sizes
from modeflow.progress import showing, track
from modeflow.transforms.noise import normal_numbers

__all__ = ["FittedPosterior", "PosteriorOptions", "fit_posterior"]

#: Flows that can be named where one cannot be used.
SOME_FLOWS = "'nsf-coupling', 'realnvp', 'iaf', 'planar' or 'gmm-base'"
#: A row is missed where q is below such a share of the target; a fit misses something where so many rows are.
_MISSED, _SHARE_MISSED = 0.01, 0.01
#: Steps without a finite loss, one after the other, at which a fit is given up.
_PATIENCE = 20


@dataclass(kw_only=True)
class PosteriorOptions(Options):
    """How a density is fitted to a target.

    Arguments:
        learning_rate: of Adam; it falls to zero along half a cosine.
        first_power: β at the first step. The target is ``p^β`` while β rises evenly to one; None for 0.1
            where the fit has one state, and 1, which is no annealing, where it has more: those start on
            islands.
        anneal_steps: steps in which β rises; None for half of all.
        start: ``"chains"``: rows from chains at falling temperatures, on which the density is placed (its
            states on their islands); ``"none"``: nowhere; the density is taken as it is.
        start_rows: number of those chains.
        spread: standard deviation of their starts around zero: the order of magnitude of the target.
        clip: largest norm of a step's gradient.
        evaluation_draws: fresh draws for the bound, log Z and what is said of them.
    """

    learning_rate: float = 3e-3
    first_power: float | None = None
    anneal_steps: int | None = None
    start: str = "chains"
    start_rows: int = 512
    spread: float = 3.0
    clip: float = 10.0
    evaluation_draws: int = 4096

    def __post_init__(self) -> None:
        check_choice("start", self.start, ("chains", "none"))
        check_sizes(start_rows=self.start_rows, evaluation_draws=self.evaluation_draws)
        if self.anneal_steps is not None:
            check_sizes(anneal_steps=self.anneal_steps)
        for name in ("learning_rate", "spread", "clip"):
            check_positive(name, getattr(self, name))
        if self.first_power is not None and not 0 < self.first_power <= 1:
            raise ConfigError(f"first_power must lie in (0, 1], received {self.first_power!r}")

    def power(self, step: int, steps: int, n_states: int) -> float:
        """β at a step."""
        first = self.first_power or (0.1 if n_states == 1 else 1.0)
        length = self.anneal_steps or max(steps // 2, 1)
        return min(1.0, first + (1 - first) * step / length)


@dataclass(frozen=True)
class FittedPosterior:
    """A density fitted to a target.

    Attributes:
        density: q.
        target: what it was fitted to.
        weights: fresh draws of q and their importance weights, with the evidence lower bound, log Z,
            effective sample size and Pareto k.
        history: loss of every step: ``E_q[log q - β log p̃]``, nats, ``(steps,)``.
        start: rows that the fit started on, ``(N, *event)``; None where there were none.
        missed: of these rows, but for those in the target's tails, the share where q is below a hundredth of
            the target's density, by `weights`'s log Z: draws of q do not tell of it. None without rows.
    """

    density: Density
    target: Target
    weights: Importance
    history: Tensor = field(repr=False)
    start: Tensor | None = field(default=None, repr=False)
    missed: float | None = None

    def log_prob(self, x: Tensor) -> Tensor:
        """``log q(x)``, nats, ``(B,)``."""
        with torch.no_grad():
            return self.density.log_prob(x.to(self.density.dtype))

    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """n draws of q, ``(n, *event)``; `Importance.resample` of `weights` gives draws of the target."""
        return self.density.sample(n, generator=generator)

    def summary(self) -> str:
        """What was found, in plain text, with warnings and what to do about them."""
        target = self.target
        lines = [
            f"fit of {target.name}, event_shape={target.event_shape}, {len(self.history)} steps",
            *self.weights.lines(),
        ]
        if self.target.confinement:
            lines.append(f"confined to      {self.target.confinement}")
        said = self.weights.warnings()
        if self.missed is not None and self.missed > _SHARE_MISSED:
            said.append(
                f"{100 * self.missed:.0f} % of the rows that the fit started on lie where it has next to no "
                "density: it misses a part of the target, and log Z is too small; fit with more states "
                "(n_states)"
            )
        return "\n".join(lines + [f"WARNING: {line}" for line in said])


def fit_posterior(
    target: Any,
    flow: str | Density = "nsf-coupling",
    *,
    n_states: int = 1,
    steps: int = 1000,
    draws: int = 64,
    start: Tensor | None = None,
    event_shape: Sequence[int] | int | None = None,
    flow_options: Mapping[str, Any] | None = None,
    options: PosteriorOptions | Mapping[str, Any] | None = None,
    random_state: int | torch.Generator = 0,
    verbose: bool = False,
) -> FittedPosterior:
    r"""Fit a density q to a target :math:`p = \tilde p / Z` by the reverse divergence, KL(q ‖ p).

    For a target of islands set `n_states` to their number or more: q is then NVF's mixture of states, which
    start on the islands that short chains find. With one state it is the flow alone, and annealed.

    Arguments:
        target: a name of `TARGETS`, a function ``(B, *event) -> (B,)`` of nats up to a constant, or an object
            with such a `log_prob`.
        flow: a name of `modeflow.flows.FLOWS`, or a density, which is fitted in place: any that has
            reparametrised draws (`Density.rsample_strata`), such as a `Flow` or `DiscreteNVF`.
        n_states: K, where `flow` is a name.
        steps: of the optimiser. draws: of a step, in all; each state gets its share, one at least.
        start: rows ``(N, *event)`` where the target has density, in the place of those that chains find.
        event_shape: of an event, where neither target nor flow nor `start` says.
        flow_options: of a flow by its name.
        options: a `PosteriorOptions`, or a mapping.
        random_state: a seed, or a generator from which one is drawn. No other generator is touched.
        verbose: show progress on stderr.

    Returns:
        the fit. A step costs `draws` evaluations of the target, and of q K times as many.

    Raises:
        ConfigError: a target that is no log-density, a flow that has no reparametrised draws or no exact
            density, or a value that is not allowed.
        TrainingError: no finite loss any more.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770; Dong et al., *Normalizing Flow with Variational Latent
        Representation*, 2022, https://arxiv.org/abs/2211.11638
    """
    check_sizes(n_states=n_states, steps=steps, draws=draws)
    if isinstance(flow, Density) and (n_states > 1 or flow_options):
        raise ConfigError(
            "flow is a density, which has its own states and options: leave n_states, flow_options"
        )
    chosen = PosteriorOptions.of(options, "options")
    goal = as_target(target, shape_of(event_shape, flow, start))
    seed = seed_of(random_state)
    generator = torch.Generator().manual_seed(seed)
    with showing(verbose), seeded(seed, foreign=False):
        rows = _rows(goal, chosen, start, flow if isinstance(flow, Density) else None, generator)
    with showing(verbose), seeded(seed):
        density = flow if isinstance(flow, Density) else None
        if density is None:
            density = build_density(str(flow), goal.event_shape, n_states, rows, flow_options)
        check_event_shape(density, goal)
        parts = check_drawable(density)
        if rows is not None:
            start_states(density, goal.log_prob, rows, seed, generator)
    each = max(1, round(draws / parts))
    with showing(verbose), seeded(seed, foreign=False):
        history = _minimise(density, goal.log_prob, steps, each, parts, chosen, generator)
        density.eval()
        weights = importance(goal.log_prob, density, chosen.evaluation_draws, None, generator)
    missed = None if rows is None else _missed(density, goal, rows, weights, generator)
    return FittedPosterior(density, goal, weights, history, rows, missed)


def shape_of(given: Any, flow: Any, start: Tensor | None) -> Any:
    """The shape of events: as given, that of a density, or that of rows; None where nothing says it."""
    if start is not None:
        check_tensor("start", start)
    if given is not None:
        return given
    if isinstance(flow, Density):
        return flow.event_shape
    return None if start is None else tuple(start.shape[1:])


def seed_of(random_state: int | torch.Generator) -> int:
    """A seed, given or drawn."""
    if isinstance(random_state, torch.Generator):
        return int(torch.randint(2**31, (), generator=random_state, device=random_state.device))
    return int(random_state)


def _rows(
    target: Target, options: PosteriorOptions, start: Tensor | None, like: Density | None, generator: Any
) -> Tensor | None:
    dtype = torch.get_default_dtype() if like is None else like.dtype
    device = torch.device("cpu") if like is None else like.device
    if start is not None:
        rows = start.detach().to(device, dtype)
        if tuple(rows.shape[1:]) != target.event_shape or len(rows) < 2:
            raise ConfigError(
                f"start needs 2 rows or more of shape {target.event_shape}, received {tuple(start.shape)}"
            )
        check_log_prob(target.log_prob, rows)
        return rows
    if options.start == "none":
        return None
    shape = (options.start_rows, *target.event_shape)
    wide = options.spread * normal_numbers(shape, dtype, device, generator)
    check_log_prob(target.log_prob, wide)
    spread, n = options.spread, options.start_rows
    rows = annealed_rows(target.log_prob, n, target.event_shape, spread, generator, dtype, device)
    if len(rows) < 2:
        raise ConfigError("chains found no place where the target has density: pass start=rows")
    return rows


def check_event_shape(density: Density, target: Target) -> None:
    """Raise `ConfigError` where density and target are of different events."""
    if density.event_shape != target.event_shape:
        raise ConfigError(
            f"the target takes events of shape {target.event_shape}, the flow gives {density.event_shape}"
        )


def check_drawable(density: Density) -> int:
    """Number of parts that a density draws from differentiably.

    Raises:
        ConfigError: where it cannot, or its density is not exact.
    """
    name = type(density).__name__
    if density.exactness != "exact":
        raise ConfigError(
            f"the reverse divergence needs log q exactly, and that of this {name} is no exact density "
            f"({density.exactness}); take {SOME_FLOWS}"
        )
    try:
        with torch.enable_grad():
            x, log_prob, log_weights = density.rsample_strata(2, torch.Generator().manual_seed(0))
    except NotImplementedError as error:
        raise ConfigError(f"this {name} cannot be fitted to a target: {error}; take {SOME_FLOWS}") from error
    if not (x.requires_grad and log_prob.requires_grad):
        raise ConfigError(f"draws of this {name} carry no gradient of its parameters; take {SOME_FLOWS}")
    return len(log_weights)


def reverse_kl(density: Density, log_prob: LogProb, n: int, power: float, generator: Any) -> Tensor:
    r"""``E_q[log q(x) - β log p̃(x)]``, nats, from n differentiable draws of each part of q; unbiased."""
    x, log_q, log_weights = density.rsample_strata(n, generator)
    log_p = log_prob(x.flatten(0, 1).to(density.dtype)).view(log_q.shape)
    return ((log_q - power * log_p).mean(0) * log_weights.exp()).sum()


def _minimise(
    density: Density,
    log_prob: LogProb,
    steps: int,
    n: int,
    parts: int,
    options: PosteriorOptions,
    generator: torch.Generator,
) -> Tensor:
    """Adam on the parameters that draws depend on; the loss of every step."""
    parameters = [p for p in density.parameters() if p.requires_grad]
    optimiser = Adam(parameters, lr=options.learning_rate)
    density.train()
    history, lost = [], 0
    for step in track(range(steps), "fit to the target"):
        with torch.enable_grad():
            loss = reverse_kl(density, log_prob, n, options.power(step, steps, parts), generator)
        optimiser.zero_grad()
        history.append(float(loss.detach()))
        lost = lost_steps(history[-1], lost)
        if lost:
            continue
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, options.clip)
        if bool(norm.isfinite()):
            falling_rate(optimiser, options.learning_rate, step, steps)
            optimiser.step()
    return torch.tensor(history, dtype=torch.float64)


def lost_steps(loss: float, before: int) -> int:
    """Steps in a row whose loss was not finite.

    Raises:
        TrainingError: where there are too many.
    """
    lost = 0 if math.isfinite(loss) else before + 1
    if lost >= _PATIENCE:
        raise TrainingError(
            f"the loss has been {loss} for {lost} steps: the target has no density, or none that is a "
            "number, where the flow draws; give it tails everywhere, start nearer (start=rows), or learn "
            "more slowly (learning_rate)"
        )
    return lost


def falling_rate(optimiser: torch.optim.Optimizer, rate: float, step: int, steps: int) -> None:
    """Half a cosine from `rate` to nearly zero."""
    for group in optimiser.param_groups:
        group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _missed(
    density: Density, target: Target, rows: Tensor, weights: Importance, generator: torch.Generator
) -> float:
    log_p = target.log_prob(rows).double()
    log_q = density.log_prob(rows.to(density.dtype)).double()
    # Some chains end in the tails, of which no density of ours knows much: they prove nothing.
    typical = log_p >= target.log_prob(weights.resample(len(weights), generator)).double().min()
    lost = log_q < log_p - weights.log_normalizer.value + math.log(_MISSED)
    return float((lost & typical).double().sum() / typical.sum().clamp_min(1))
