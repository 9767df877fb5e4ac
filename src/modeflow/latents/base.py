"""What every latent-variable model offers beside a density."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from modeflow.densities.base import Density, Loss, check_temperature
from modeflow.densities.flow import Flow
from modeflow.densities.image_decoders import DiscretizedDecoder
from modeflow.errors import ConfigError
from modeflow.latents.schedules import Schedule
from modeflow.latents.starting import Looked, Starter
from modeflow.progress import track
from modeflow.transforms.base import Exactness
from modeflow.transforms.noise import open_uniform
from modeflow.transforms.pixels import PixelGaussianize

__all__ = ["Description", "LatentModel", "drawn_states"]


@dataclass(frozen=True)
class Description:
    """What a latent is, for reports, tables and files.

    Attributes:
        kind: ``"none"``, ``"discrete"``, ``"tree"``, ``"continuous"`` or ``"codes"``.
        words: for people, such as "8 states".
        count: states in use, dimensions, or number of codes; 0 for none.
        unit: the word for one value of z: "state", "z", "code", or "".
    """

    kind: str
    words: str
    count: int
    unit: str

    @property
    def whole(self) -> bool:
        """Whether values of z are whole numbers."""
        return self.kind != "continuous"


def drawn_states(log_joint: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A state of each row from p(z | x), by ``log p(x, z = k)``, ``(B, K) -> (B,)``."""
    share = torch.softmax(log_joint.double(), 1).nan_to_num(1 / log_joint.shape[1])
    level = open_uniform((len(share), 1), torch.float64, share.device, generator)
    return (share.cumsum(1) < level).sum(1).clamp_max(share.shape[1] - 1)


class LatentModel(Density):
    """``p(x) = ∫ p(z) p(x | z) dz``, with a posterior q(z|x) and an objective that fits all three.

    The methods below are all that training, estimators and reports ask of a latent, whichever it is: nobody
    asks for its class. A model whose latent is not discrete is one of a single state.

    To fit it: `start` on the rows, then for each of `stages` `at_stage` and a training by `objective`, whose
    progress `validation_log_prob` scores, then `at_stage` for all, and `finish`.
    """

    likelihood: Density
    #: What `objective` minimises, called with the model.
    loss: Any
    #: A temperature is the likelihood's; that of z is one, and `draw` knows another.
    tempers = True
    #: Rows evaluated or drawn at once where no gradient is needed.
    chunk_rows: int
    #: What `log_prob` is of a row with missing cells (NaN), where it takes such (`sums_out`).
    marginals: Exactness = "exact"
    #: Whether `complete` draws missing cells.
    fills: bool = False
    #: Where training starts; None: where the parts were made.
    starter: Starter | None = None
    #: What is fitted in order, each to its end.
    stages: tuple[str, ...] = ("joint",)
    #: What `objective` fits when, from the first stage on; `at_stage` says which one it is.
    schedule: Schedule = Schedule()
    _now: Schedule | None = None

    # -- fitting ---------------------------------------------------------------------------------

    def start(self, rows: Tensor | Looked, seed: int, steps: int | None = None) -> None:
        """Start on the rows as the model sees them (standardised; images as they are), by `starter`.

        Randomness comes from torch's global generator (seed it beforehand) and `seed`.

        Arguments:
            rows: ``(N, *event_shape)``, or what is known of them already (`Survey`).
            seed: of what is drawn by numpy.
            steps: optimiser steps at the most; None for the starter's own number, which is never exceeded.
        """
        if self.starter is not None:
            self.starter(self, rows, seed, steps)

    def at_stage(self, name: str = "joint", number: int = 0) -> None:
        """Go to a stage, the first of which has number 0; without arguments: to all at once, as after all."""
        self._now = self.schedule.at(name, number)

    @property
    def schedule_now(self) -> Schedule:
        """The schedule of the stage under way."""
        return self.schedule if self._now is None else self._now

    def validation_log_prob(self, x: Tensor) -> Tensor:
        """What validation is scored by while training, nats, ``(B,)``: here `log_prob`; where that is dear a
        close bound, and in a stage that fits a part what that part says."""
        return self.log_prob(x)

    @torch.no_grad()
    def finish(
        self,
        train: Tensor,
        validation: Tensor,
        weight: Tensor | None = None,
        validation_weight: Tensor | None = None,
        prune: bool = True,
    ) -> list[int]:
        """After training: switch off what provably holds nothing, and calibrate the posterior.

        Arguments:
            train, validation: rows as the model sees them. weight, validation_weight: of these, ``(N,)``.
            prune: whether anything may be switched off, which takes a pass over all rows.

        Returns:
            the states switched off.
        """
        return []

    def traceable(self) -> Callable[[Tensor], Tensor]:
        """`log_prob` without a branch that looks at numbers, for `torch.export` (`modeflow.export`).

        What parameters decide (states in use, the tree) is decided when this is called.

        Raises:
            ConfigError: a density that is no sum over states.
        """
        raise ConfigError(
            f"a {self.describe().kind} latent has no density in closed form, only one by draws or by search: "
            "fit with latent='discrete' or latent='tree'"
        )

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        """The loss on a batch; in the first steps with `starting_likelihood` in the flow's place.

        Which island an image lies on is then learned before what is around it: fitted together from the
        start, the flow would chase a layer that still moves.
        """
        self._check_event(x)
        early = step is not None and step < self.schedule_now.start_steps
        start = self.starting_likelihood() if early else None
        return (self if start is None else self.with_likelihood(start))._objective(x, weight, step)

    def with_likelihood(self, likelihood: Density) -> Self:
        """The same model, its other parts shared, with another likelihood."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "likelihood": likelihood}
        return twin

    def _objective(self, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        loss: Loss = self.loss(self, x, weight, step)
        return loss

    def starting_likelihood(self) -> Density | None:
        """What a flow of images starts from: its `PixelGaussianize` as a likelihood, sharing its parameters.

        None where there is no such layer.
        """
        if isinstance(self.likelihood, Flow):
            for layer in getattr(self.likelihood.transform, "transforms", ()):
                if isinstance(layer, PixelGaussianize):
                    return DiscretizedDecoder(layer.bins)
        return None

    # -- z as a context: what the likelihood is given --------------------------------------------

    def infer(self, x: Tensor) -> Tensor | None:
        """The context of the likelihood that x is given by the posterior's mean or mode; None for no latent.

        Shape ``(B, context_features)``.
        """
        raise NotImplementedError

    def draw(
        self, n: int, generator: torch.Generator | None = None, temperature: float = 1.0
    ) -> tuple[Tensor | None, Tensor]:
        """Draw z from its prior: contexts of the likelihood (None for no latent), and z itself, ``(n, ...)``.

        Arguments:
            n: how many. generator: source of randomness.
            temperature: of the prior: a Gaussian's spread times it, probabilities to its inverse's power.
        """
        raise NotImplementedError

    def draw_state(self, state: int, n: int) -> tuple[Tensor | None, Tensor]:
        """As `draw`, of one state alone: n contexts of the likelihood, and z, ``(n,)``.

        Raises:
            ConfigError: if there is no such state.
        """
        raise ConfigError(
            f"there is no state {state}: the latent is {self.describe().kind}; fit with latent=discrete for "
            "states"
        )

    # -- for people ------------------------------------------------------------------------------

    def describe(self) -> Description:
        """What the latent is."""
        raise NotImplementedError

    def read(self, x: Tensor) -> Tensor:
        """z of x for people: codes or means ``(B, L)``, a state ``(B,)``, or one a feature."""
        raise NotImplementedError

    def read_drawn(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """z of x as it may have been when x was drawn: a state from p(z | x), else what `read` says."""
        return self.read(x)

    def read_spread(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of q(z|x), ``(B, L)`` each; None where z is not continuous."""
        return None

    def both_bounds(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """The evidence lower bound and, tighter, that by `n_draws` draws of z, nats, both ``(B,)``.

        None where the density is no average over draws of z.
        """
        return None

    @property
    def n_draws(self) -> int:
        """Draws of z that `log_prob` averages over."""
        return 1

    def measure(self, x: Tensor) -> dict[str, Any]:
        """What there is to say of z on rows beside the likelihood, as plain values for files."""
        return {}

    def rebuild_options(self) -> dict[str, Any]:
        """Options of the latent that a stored model is rebuilt with, in the place of those given."""
        return {}

    def blend(self, x: Tensor, y: Tensor, share: float) -> Tensor | None:
        """A context on the way from that of x, at share 0, to that of y: here the one or the other."""
        return self.infer(x if share < 0.5 else y)

    def latent_cost(self, x: Tensor) -> Tensor:
        """What z costs of ``-log p(x)``, nats, shape ``(B,)``: ``KL(q(z|x) || p(z))``, or a code's length."""
        return x.new_zeros(len(x))

    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and `latent_cost`, nats, both ``(B,)``, with nothing evaluated twice that is dear."""
        return self.log_prob(x), self.latent_cost(x)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        return self.decode(self.draw(n, generator)[0], n, generator, temperature)

    @torch.no_grad()
    def decode(
        self,
        context: Tensor | None,
        n: int,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw x given contexts ``(n, context_features)``; at temperature 0 the mode of the noise."""
        check_temperature(temperature)
        parts = []
        for start in track(range(0, n, self.chunk_rows), "sample"):
            part = None if context is None else context[start : start + self.chunk_rows]
            rows = min(self.chunk_rows, n - start)
            parts.append(self.likelihood.draw_events(rows, part, generator, temperature))
        return torch.cat(parts) if parts else torch.zeros(0, *self.event_shape, dtype=self.dtype)

    def sums_out(self, x: Tensor) -> Tensor:
        """Of which rows ``(B, *event_shape)`` missing cells (NaN) are summed and integrated out exactly.

        Shape ``(B,)``; by default of those that have none. `log_prob` and `complete` are right of these.
        """
        return ~x.isnan().flatten(1).any(1)

    def exactness_of(self, x: Tensor) -> Exactness:
        """What `log_prob` is of these rows ``(B, *event_shape)``: here `exactness`, as of any."""
        return self.exactness

    def complete(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The rows ``(B, *event_shape)`` with every missing cell drawn given the others; see `sums_out`.

        Raises:
            ConfigError: where conditionals are not known.
        """
        raise ConfigError(f"missing cells cannot be drawn: the latent is {self.describe().kind}")

    def completions(self, x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """`complete`, n times, ``(n, B, *event_shape)``."""
        many = x.repeat(n, *(1,) * (x.dim() - 1))
        return self.complete(many, generator).view(n, *x.shape)

    def reconstruct(self, x: Tensor) -> Tensor:
        """x from its z alone: `decode` at temperature 0 of `infer`; no noise of the caller's is used up."""
        with torch.no_grad():
            return self.decode(self.infer(x), len(x), torch.Generator().manual_seed(0), temperature=0.0)

    # -- states ----------------------------------------------------------------------------------

    @property
    def n_states(self) -> int:
        """K, the number of values of a discrete latent; 1 for any other."""
        return 1

    def state_probs(self) -> Tensor:
        """Prior probabilities of the states in use, shape ``(A,)``."""
        return torch.ones(1, dtype=torch.float64)

    def set_state_probs(self, probs: Tensor) -> None:
        """Set `state_probs`, ``(A,)``, where they are learned; elsewhere they stay."""

    def log_joint(self, x: Tensor) -> Tensor:
        """``log p(x, z = k)`` over the states in use, shape ``(B, A)``, nats; `log_prob` for a single one."""
        return self.log_prob(x).unsqueeze(1)

    @torch.no_grad()
    def sample_with_states(
        self,
        n: int,
        generator: torch.Generator | None = None,
        state: int | None = None,
        temperature: float = 1.0,
        prior_temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Draw ``(x, states)``, states numbered over those in use: zeros where the latent is not discrete.

        Arguments:
            n: how many. generator: source of randomness. state: draw from p(x | z = state) alone.
            temperature: of p(x | z). prior_temperature: of p(z), see `draw`.

        Raises:
            ConfigError: if there is no such state, or a temperature that is not allowed.
        """
        if state not in (None, 0):
            raise ConfigError(f"the latent is not discrete: there is no state {state}")
        context, _ = self.draw(n, generator, prior_temperature)
        return self.decode(context, n, generator, temperature), torch.zeros(n, dtype=torch.long)
