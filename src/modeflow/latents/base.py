"""What every latent-variable model offers beside a density."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from modeflow.densities.base import Density, Loss, check_temperature
from modeflow.densities.flow import Flow
from modeflow.densities.image_decoders import DiscretizedDecoder
from modeflow.errors import ConfigError, nearest
from modeflow.progress import track
from modeflow.transforms.pixels import PixelGaussianize

__all__ = ["STAGES", "LatentModel", "Schedule"]

#: What the objective of a sequential latent fits: everything but the prior, the prior alone, or all.
STAGES = ("flow", "prior", "joint")


@dataclass(frozen=True)
class Schedule:
    """What is fitted when, in optimiser steps; a latent has no use for what is not of its kind.

    Arguments:
        start_steps: over which the first layer of a flow of images is fitted alone, as a likelihood.
        code_warmup_steps: over which the pressure of the code length on the encoder of codes rises; after
            them dead codes stay dead.
        codebook_steps: after which codes stand still; None: never. Moving averages shorten distances,
            whatever the codes then cost; a codebook that follows them to the end undoes what the code length
            has taught.
        stage: one of `STAGES`.

    Raises:
        ConfigError: for another stage.
    """

    start_steps: int = 0
    code_warmup_steps: int = 0
    codebook_steps: int | None = None
    stage: str = "joint"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(
                f"stage must be one of {', '.join(STAGES)}; received {self.stage!r}"
                f"{nearest(self.stage, STAGES)}"
            )


class LatentModel(Density):
    """``p(x) = ∫ p(z) p(x | z) dz``, with a posterior q(z|x) and an objective that fits all three.

    The estimators ask for the methods below; a model whose latent is not discrete is one of a single state.
    """

    likelihood: Density
    #: A temperature is the likelihood's; that of z is one, and `draw` knows another.
    tempers = True
    #: Rows evaluated or drawn at once where no gradient is needed.
    chunk_rows: int
    #: What `objective` fits when.
    schedule: Schedule = Schedule()

    # -- fitting ---------------------------------------------------------------------------------

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        """The loss on a batch; in the first steps with `starting_likelihood` in the flow's place.

        Which island an image lies on is then learned before what is around it: fitted together from the
        start, the flow would chase a layer that still moves.
        """
        self._check_event(x)
        early = step is not None and step < self.schedule.start_steps
        start = self.starting_likelihood() if early else None
        return (self if start is None else self.with_likelihood(start))._objective(x, weight, step)

    def with_likelihood(self, likelihood: Density) -> Self:
        """The same model, its other parts shared, with another likelihood."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "likelihood": likelihood}
        return twin

    def _objective(self, x: Tensor, weight: Tensor | None, step: int | None) -> Loss:
        raise NotImplementedError

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

    def read(self, x: Tensor) -> Tensor:
        """z of x for people: codes ``(B, L)``, means ``(B, L)``, or the most probable state ``(B,)``."""
        raise NotImplementedError

    def blend(self, x: Tensor, y: Tensor, share: float) -> Tensor | None:
        """A context on the way from that of x, at share 0, to that of y: here the one or the other."""
        return self.infer(x if share < 0.5 else y)

    def latent_cost(self, x: Tensor) -> Tensor:
        """What z costs of ``-log p(x)``, nats, shape ``(B,)``: ``KL(q(z|x) || p(z))``, or a code's length."""
        return x.new_zeros(len(x))

    def log_prob_and_cost(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`log_prob` and `latent_cost`, nats, both ``(B,)``, with nothing evaluated twice that is dear."""
        return self.log_prob(x), self.latent_cost(x)

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

    def reconstruct(self, x: Tensor) -> Tensor:
        """x from its z alone: `decode` at temperature 0 of `infer`."""
        with torch.no_grad():
            return self.decode(self.infer(x), len(x), temperature=0.0)

    # -- for estimators --------------------------------------------------------------------------

    @property
    def n_states(self) -> int:
        """K, the number of values of a discrete latent; 1 for any other."""
        return 1

    def state_probs(self) -> Tensor:
        """Prior probabilities of the states in use, shape ``(A,)``."""
        return torch.ones(1, dtype=torch.float64)

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

    def quick_log_prob(self, x: Tensor, epsilon: float) -> Tensor:
        """What validation is scored by while training: a bound that leaves out a mass of about `epsilon`."""
        return self.log_prob(x)

    def calibrate(self, x: Tensor, weight: Tensor | None = None) -> float:
        """Bring the posterior's confidence in line with rows that were not trained on, where it can be."""
        return 1.0
