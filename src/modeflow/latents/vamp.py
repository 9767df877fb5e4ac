"""The prior that is made of the model's own posterior, and how it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.latents.approximate import Approximate, NetworkPosterior, Posterior
from modeflow.latents.langevin import ChainPosterior
from modeflow.latents.starting import Looked, Starter, as_rows
from modeflow.transforms.noise import normal_numbers, open_uniform, row_noise

__all__ = ["VampPrior", "VampStart", "check_own_posterior"]


def check_own_posterior(kind: type[Posterior], name: str) -> None:
    """Whether a prior can be made of posteriors of this class.

    Arguments:
        name: of it, for the message.

    Raises:
        ConfigError: for z on the sphere, or a q(z|x) that is itself made of p(x, z).
    """
    alone = kind.approximate is Posterior.approximate and not issubclass(kind, ChainPosterior)
    if kind.support != "space" or not alone:
        raise ConfigError(
            f"a VampPrior is a mixture of q(z|x) in space by the encoder alone, which {name} is not: take "
            "posterior='gaussian', 'full-gaussian' or one by a flow, or another prior"
        )


class VampPrior(Density):
    r"""Variational mixture of posteriors: what the encoder says of K pseudo-inputs u_k, which are learned.

    .. math:: p(z) = \frac1K \sum_k q(z \mid u_k)

    Of all priors the mean of q(z|x) over the data gives the highest evidence lower bound; K rows stand for
    them. The encoder is learned through this too. It is the model's, which holds it (`parameters`, files and
    changes of type are of the u_k alone); in a copy of the model it is that of the copy. A temperature
    multiplies the scales of the posteriors' noise.

    Arguments:
        encoder: q(z|x), the one that the model has: a `Posterior` in space by the encoder alone, or any
            network called as ``network(x) -> Approximate``.
        inputs: u where they start, ``(K, *event)``, in units of the rows as the model sees them.
        features: L, that of the encoder if None.
        unit: what a step of one of the parameters is in units of the rows: a quarter of the levels of
            pixels, so that an optimiser moves those as fast as standardised numbers.

    Raises:
        ConfigError: for a posterior that cannot be one, or no inputs.

    Reference:
        Tomczak, Welling, *VAE with a VampPrior*, 2018, https://arxiv.org/abs/1705.07120
    """

    tempers = True

    def __init__(
        self, encoder: Posterior | nn.Module, inputs: Tensor, features: int | None = None, unit: float = 1.0
    ) -> None:
        posterior = encoder if isinstance(encoder, Posterior) else NetworkPosterior(encoder)
        check_own_posterior(type(posterior), type(encoder).__name__)
        size = getattr(posterior, "latent_features", None) if features is None else features
        if size is None:
            raise ConfigError(f"the width of z is not known of {type(encoder).__name__}: give features=")
        super().__init__((size,))
        if inputs.dim() < 2 or len(inputs) < 1:
            raise ConfigError(
                f"pseudo-inputs must be rows (K, ...), 1 or more, received shape {tuple(inputs.shape)}"
            )
        if not (unit > 0 and math.isfinite(unit)):
            raise ConfigError(f"unit must be above 0, received {unit!r}")
        # Within a tuple, where torch does not look: a module that is registered twice is saved twice.
        self._encoder = (posterior,)
        self.unit = float(unit)
        self.inputs = nn.Parameter(inputs.detach().clone() / self.unit)

    def check(self, encoder: Posterior, alone: bool = False) -> None:
        """Whether it fits a model with this encoder.

        Arguments:
            alone: whether the model's objective moves q by something else than what the prior climbs.

        Raises:
            ConfigError: if it is made of another encoder, which nothing would learn or save, or is not to be
                moved with q.
        """
        own = self._encoder[0]
        networks = isinstance(own, NetworkPosterior) and isinstance(encoder, NetworkPosterior)
        if not (own is encoder or (networks and own.net is encoder.net)):
            raise ConfigError("a VampPrior is made of its model's encoder: give both the same one")
        if alone:
            raise ConfigError(
                "a VampPrior is made of q, which this objective moves by something else than the likelihood: "
                "take the objective elbo, iwae or renyi"
            )

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, ``(K, *event)``, in units of the rows."""
        return self.inputs * self.unit

    @torch.no_grad()
    def set_inputs(self, rows: Tensor) -> None:
        """Set u to K rows ``(K, *event)``."""
        self.inputs.copy_(rows.to(self.inputs) / self.unit)

    def components(self) -> Approximate:
        """q(z | u_k), a distribution for each of the K."""
        q: Approximate = self._encoder[0](self.pseudo_inputs)
        return q

    def component_log_probs(self, z: Tensor) -> Tensor:
        """``log q(z | u_k)``, nats, ``(B, L) -> (B, K)``."""
        rows, count = len(z), len(self.inputs)
        every = self.components().repeated(rows)
        return every.log_prob(z.repeat_interleave(count, 0)).view(rows, count)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return torch.logsumexp(self.component_log_probs(x), 1) - math.log(len(self.inputs))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        count = len(self.inputs)
        k = (open_uniform((n,), self.dtype, self.device, generator) * count).long().clamp_max(count - 1)
        every = self.components()
        location, log_scale, *others = (number[k] for number in every.numbers())
        if temperature != 1.0:
            log_scale = log_scale + (math.log(temperature) if temperature > 0 else -math.inf)
        q = every.of_numbers(location, log_scale, *others)
        # A distribution draws from this thread's generator or from streams of rows, here rows of this one.
        with row_noise(normal_numbers((n, 2), torch.float32, self.device, generator), 0, self):
            return q.rsample_and_log_prob()[0]


@dataclass(frozen=True)
class VampStart:
    """Starts the pseudo-inputs of a `VampPrior` at random rows, after what starts the rest of the model.

    No row is taken twice, unless there are fewer than pseudo-inputs.

    Arguments:
        first: what starts the rest; None for nothing.
    """

    first: Starter | None = None

    def __call__(self, model: Any, rows: Tensor | Looked, seed: int, steps: int | None = None) -> None:
        if self.first is not None:
            self.first(model, rows, seed, steps)
        prior = model.prior
        assert isinstance(prior, VampPrior)
        every, count = as_rows(rows), len(prior.inputs)
        if len(every) == 0:
            return
        rounds = [torch.randperm(len(every)) for _ in range(-(-count // len(every)))]
        prior.set_inputs(every[torch.cat(rounds)[:count].to(every.device)])
