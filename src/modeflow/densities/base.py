"""The contract of every density: ``log_prob``, ``sample``, and the loss that fits it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor, nn

from modeflow.densities.distribution import DensityDistribution
from modeflow.errors import ConfigError, ShapeError
from modeflow.transforms.base import Exactness

__all__ = ["Density", "Loss", "check_temperature"]


@dataclass
class Loss:
    """What an objective returns: the scalar to minimise (nats per row) and its named terms for the log.

    `terms` are detached scalars; the trainer averages them over an epoch and writes them to the log.
    """

    value: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class Density(nn.Module):
    r"""A (conditional) probability density :math:`p(x \mid c)` over events of a fixed shape.

    Subclasses implement `_log_prob` and `_sample`; the public methods check shapes once, here.

    Attributes:
        event_shape: shape of one event, ``(D,)`` for a table row.
        context_features: width of the context, 0 where the density is unconditional.
        exactness: whether `log_prob` is ``exact``, a ``lower bound`` or an ``estimate``.
    """

    exactness: Exactness = "exact"
    #: Number of levels where events are whole numbers 0 to levels - 1 and `log_prob` is of a probability.
    levels: int | None = None
    #: Whether `sample` has a use for a temperature other than one (one made of others leaves it to them).
    tempers: bool = False
    #: Whether entries of an event that are NaN are left out, that is summed and integrated out, exactly.
    leaves_out: bool = False

    def __init__(self, event_shape: tuple[int, ...], context_features: int = 0) -> None:
        super().__init__()
        self.event_shape = tuple(int(n) for n in event_shape)
        self.context_features = int(context_features)

    # -- to implement ---------------------------------------------------------------------------

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _log_prob_of_each(self, x: Tensor, contexts: Tensor) -> Tensor:
        """`_log_prob` of every row ``(B, *event_shape)`` given every context ``(J, C)``, shape ``(B, J)``."""
        rows, count = x.shape[0], len(contexts)
        return self._log_prob(x.repeat_interleave(count, 0), contexts.repeat(rows, 1)).view(rows, count)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw `n` events; with a context, one event per row of it (then ``n == len(context)``).

        Only a density that `tempers` is given a temperature other than one.
        """
        raise NotImplementedError

    def draw_events(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        """`_sample`, for densities made of others: what has no use for a temperature refuses it here.

        Raises:
            ConfigError: for a temperature that is negative or infinite, or that this density has no use for.
        """
        check_temperature(temperature)
        if temperature == 1.0:
            return self._sample(n, context, generator)
        if not self.tempers:
            raise ConfigError(
                f"{type(self).__name__} has no use for a temperature: leave it at 1, received {temperature:g}"
            )
        return self._sample(n, context, generator, float(temperature))

    # -- public ---------------------------------------------------------------------------------

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-density of each row in nats.

        Arguments:
            x: events, shape ``(B, *event_shape)``.
            context: shape ``(B, context_features)``, or ``(context_features,)`` for one context shared by
                all rows; None where the density is unconditional.

        Returns:
            shape ``(B,)``.

        Raises:
            ShapeError: if `x` or `context` has another shape than the density expects.
        """
        self._check_event(x)
        return self._log_prob(x, self._check_context(context, x.shape[0]))

    def sample(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw samples.

        Arguments:
            n: how many (per row of context, where there is one).
            context: shape ``(B, context_features)`` or None.
            generator: source of randomness; torch's global one if None.
            temperature: spread of what is drawn: scales of the noise are multiplied by it, probabilities of
                discrete events raised to its inverse. 1 samples the density itself, 0 gives the mode of the
                noise (its image, in a flow); anything else is no sample of this density.

        Returns:
            shape ``(n, *event_shape)``, or ``(n, B, *event_shape)`` with B rows of context.

        Raises:
            ShapeError: if `context` has another shape than the density expects.
            ConfigError: for a temperature that is not allowed, or that the density has no use for.
        """
        if n < 0:
            raise ShapeError(f"cannot draw {n} samples: n must be 0 or more")
        with torch.no_grad():
            if self.context_features == 0:
                self._check_context(context, n)
                return self.draw_events(n, None, generator, temperature)
            if context is None:
                raise ShapeError(
                    f"{type(self).__name__} is conditional: pass a context of shape "
                    f"(B, {self.context_features})"
                )
            single = context.dim() == 1
            rows = context.unsqueeze(0) if single else context
            self._check_context(rows, rows.shape[0])
            flat = self.draw_events(n * rows.shape[0], rows.repeat(n, 1), generator, temperature)
            return flat if single else flat.reshape(n, rows.shape[0], *self.event_shape)

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw differentiable samples together with their log-density (where reparametrisable)."""
        raise NotImplementedError(f"{type(self).__name__} has no reparametrised sampler")

    def rsample_strata(
        self, n: int = 1, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Draw differentiable samples of each part of the mixture that an unconditional density is.

        .. math:: E_q f = \sum_k \pi_k E_{q_k} f, \qquad q = \sum_k \pi_k q_k

        so that such a mean has a gradient in π too, and no noise of the choice of a part. A density that is
        no mixture is one part.

        Arguments:
            n: how many of each of its A parts.

        Returns:
            samples ``(n, A, *event)``, their log-densities under the whole, ``(n, A)``, and ``log π``,
            ``(A,)``.

        Raises:
            NotImplementedError: where there is no reparametrised sampler.
        """
        x, log_prob = self.rsample_and_log_prob(n, None, generator)
        return x.unsqueeze(1), log_prob.unsqueeze(1), log_prob.new_zeros(1)

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        """Return the loss to minimise on a batch: here the mean negative log-likelihood.

        Arguments:
            x: a batch, shape ``(B, *event_shape)``.
            weight: optional non-negative weight of each row, shape ``(B,)``, with mean one over the data.
            step: optimiser step, for objectives with a schedule; None means the schedule's end.
        """
        loss = weighted_mean(-self.log_prob(x), weight)
        return Loss(loss, {"nll": loss.detach()})

    def prepare(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the objective needs of rows, with the rows as the first dimension, for `objective_of`.

        Here they themselves. Training asks for many rows at once: what no step changes is worked out here.
        """
        return (x,)

    def objective_of(
        self, prepared: tuple[Tensor, ...], weight: Tensor | None = None, step: int | None = None
    ) -> Loss:
        """`objective` of some of the rows that `prepare` was given."""
        return self.objective(prepared[0], weight, step)

    def to_distribution(self, context: Tensor | None = None) -> torch.distributions.Distribution:
        """Return this density (at one context) as a `torch.distributions.Distribution`."""
        return DensityDistribution(self, context)

    @property
    def device(self) -> torch.device:
        """Device of the parameters (and so of the inputs expected)."""
        for tensor in chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        for tensor in chain(self.parameters(), self.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.get_default_dtype()

    # -- checks ---------------------------------------------------------------------------------

    def _check_event(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event_shape or x.dim() == 0:
            expected = ", ".join(["B", *map(str, self.event_shape)])
            raise ShapeError(
                f"{type(self).__name__} expects x of shape ({expected}), received {tuple(x.shape)}"
            )

    def _check_context(self, context: Tensor | None, batch: int) -> Tensor | None:
        if self.context_features == 0:
            if context is not None:
                raise ShapeError(f"{type(self).__name__} is unconditional but received a context")
            return None
        if context is None:
            raise ShapeError(
                f"{type(self).__name__} is conditional: pass a context of shape "
                f"({batch}, {self.context_features})"
            )
        if context.dim() == 1:
            context = context.unsqueeze(0).expand(batch, -1)
        if tuple(context.shape) != (batch, self.context_features):
            raise ShapeError(
                f"{type(self).__name__} expects a context of shape ({batch}, {self.context_features}), "
                f"received {tuple(context.shape)}"
            )
        return context


def check_temperature(temperature: float, least: str = "0 or more") -> None:
    """Refuse a temperature that is not finite, or not `least`: ``"0 or more"`` or ``"above 0"``.

    Raises:
        ConfigError: saying so.
    """
    enough = temperature > 0 if least == "above 0" else temperature >= 0
    if not (enough and math.isfinite(temperature)):
        raise ConfigError(f"temperature must be {least}, received {temperature!r}")


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of ``weight * values``; the weights have mean one over the whole data, not the batch."""
    return values.mean() if weight is None else (values * weight).mean()
