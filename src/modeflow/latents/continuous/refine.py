"""Semi-amortised inference: what the encoder says of a row, improved for that row by some gradient steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.latents.approximate import Approximate
from modeflow.options import check_positive, check_sizes
from modeflow.transforms.noise import row_noise

__all__ = ["Refinement"]

#: Streams of noise from this one on: those below are of the draws that bounds average over, which must not be
#: the ones that q was fitted to.
_FIRST_STREAM = 1 << 20
#: A slope, in nats a scale of q, below which steps shrink with it: what is at its best stays there.
_LITTLE = 0.1


class Joint(Protocol):
    """A model with a continuous z."""

    @property
    def prior(self) -> Density:
        """p(z)."""

    def likelihood_log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """``log p(x | z)``, ``(B,)``."""


@dataclass(frozen=True)
class Refinement:
    r"""Gradient steps on the numbers λ of every row's own q, from those that the encoder says.

    .. math:: \lambda \leftarrow \lambda
        + \eta_t\, \nabla_\lambda E_{q_\lambda(z)} [\log p(x, z) - \log q_\lambda(z)]

    Of a Gaussian λ is its mean and log-scale; see `Approximate.numbers`. The gradient goes through z alone
    (sticking the landing: it is without noise where q is the posterior), each number has a step size of its
    own (Adam; that of a place in units of the encoder's scale), and it falls to zero along a cosine. Noise
    belongs to the row, so a row is refined alike in every batch. Parameters of the model stand still.

    A step costs `draws` passes of the likelihood and back.

    Arguments:
        steps: how many. learning_rate: η, at the start. draws: of z, over which a step averages.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kim, Wiseman, Miller, Sontag, Rush, *Semi-Amortized Variational Autoencoders*, 2018,
        https://arxiv.org/abs/1802.02550; Cremer, Li, Duvenaud, *Inference Suboptimality in Variational
        Autoencoders*, 2018, https://arxiv.org/abs/1801.03558
    """

    steps: int = 20
    learning_rate: float = 0.1
    draws: int = 2

    def __post_init__(self) -> None:
        check_sizes(steps=self.steps, draws=self.draws)
        check_positive("learning_rate", self.learning_rate)

    def __call__(self, model: Joint, x: Tensor, q: Approximate) -> Approximate:
        """q of these rows, refined.

        Arguments:
            model: p(x, z). x: rows ``(B, *event)``. q: of these, by the encoder.

        Raises:
            ConfigError: for a q whose rows have no numbers of their own.
        """
        with torch.inference_mode(False), torch.enable_grad():
            rows = x.detach().clone()
            first = [number.detach().clone() for number in q.numbers()]
            units = [torch.exp(q.log_scale).detach().clone(), *(torch.ones(()).to(x) for _ in first[1:])]
            moved = [torch.zeros_like(number) for number in first]
            means = [torch.zeros_like(number) for number in first]
            squares = [torch.zeros_like(number) for number in first]
            for step in range(self.steps):
                gradients = self._gradients(model, rows, q, step, first, units, moved)
                rate = 0.5 * self.learning_rate * (1 + math.cos(math.pi * step / self.steps))
                for i, gradient in enumerate(gradients):
                    means[i] = 0.9 * means[i] + 0.1 * gradient
                    squares[i] = 0.99 * squares[i] + 0.01 * gradient.square()
                    mean = means[i] / (1 - 0.9 ** (step + 1))
                    size = (squares[i] / (1 - 0.99 ** (step + 1))).sqrt()
                    moved[i] = moved[i] + rate * mean / (size + _LITTLE)
        return q.of_numbers(*(a + u * b for a, u, b in zip(first, units, moved, strict=True)))

    def _gradients(
        self,
        model: Joint,
        x: Tensor,
        q: Approximate,
        step: int,
        first: list[Tensor],
        units: list[Tensor],
        moved: list[Tensor],
    ) -> list[Tensor]:
        """Of every row's bound by what was moved, zero where it is no number."""
        leaves = [each.detach().requires_grad_() for each in moved]
        numbers = [a + u * b for a, u, b in zip(first, units, leaves, strict=True)]
        now, still = q.of_numbers(*numbers), q.of_numbers(*(number.detach() for number in numbers))
        total = torch.zeros(()).to(x)
        for draw in range(self.draws):
            with row_noise(x, _FIRST_STREAM + step * self.draws + draw, self):
                z, _ = now.rsample_and_log_prob()
                joint = model.likelihood_log_prob(x, z) + model.prior._log_prob(z, None)
            total = total + (joint - still.log_prob(z)).sum()
        found = torch.autograd.grad(total / self.draws, leaves, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        return [torch.zeros_like(p) if g is None else torch.nan_to_num(g, 0.0, 0.0, 0.0) for g, p in pairs]
