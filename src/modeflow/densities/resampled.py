"""A base from which a learned rule rejects draws (LARS)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.nets import MLP
from modeflow.nets.randomness import randn_like
from modeflow.transforms.noise import in_unit, normal_numbers, open_uniform

__all__ = ["ResampledBase"]

_GRID = 161
_HALF_WIDTH = 8.0
_EXACT_UP_TO = 2


class ResampledBase(Density):
    r"""A standard normal whose draws z are accepted with probability a(z), at most T times in a row.

    .. math:: p(z) = (1 - \alpha) \frac{a(z)\, N(z)}{Z} + \alpha N(z), \qquad Z = E_N[a(z)], \quad
        \alpha = (1 - Z)^{T-1}

    With one or two features Z is an integral over a grid (error below 1e-6): the density is exact. Beyond,
    it is an estimate from a fixed quasi-random set; while training, from fresh draws. A temperature
    multiplies the spread of the draws, before they are accepted or rejected.

    Arguments:
        features: D.
        truncation: T; the T-th draw is always accepted.
        hidden_features: widths of the acceptance network.
        draws: points of the estimate of Z.

    Raises:
        ConfigError: if `truncation` or `draws` is too small.

    Reference:
        Bauer and Mnih, *Resampled Priors for Variational Autoencoders*, 2019, https://arxiv.org/abs/1810.11428;
        Stimper et al., *Resampling Base Distributions of Normalizing Flows*, 2022,
        https://arxiv.org/abs/2110.15828
    """

    tempers = True

    def __init__(
        self,
        features: int,
        truncation: int = 20,
        hidden_features: tuple[int, ...] = (32, 32),
        draws: int = 4096,
    ) -> None:
        super().__init__((features,))
        for name, value in (("truncation", truncation), ("draws", draws)):
            if not isinstance(value, int) or value < 2:
                raise ConfigError(f"{name} must be an integer of 2 or more, received {value!r}")
        self.truncation = truncation
        # Smooth, so that a grid integrates it well.
        self.net = MLP(features, 1, hidden_features, activation=torch.tanh)
        with torch.no_grad():
            self.net.final.weight.mul_(1e-2)
            self.net.final.bias.zero_()
        if features <= _EXACT_UP_TO:
            axis = torch.linspace(-_HALF_WIDTH, _HALF_WIDTH, _GRID, dtype=torch.float64)
            points = torch.cartesian_prod(*[axis] * features).reshape(-1, features)
            log_weight = self._log_normal(points)
            weight = torch.softmax(log_weight, 0)
        else:
            self.exactness = "estimate"
            points = quasi_normal(draws, features)
            weight = torch.full((draws,), 1 / draws, dtype=torch.float64)
        self.draws = draws
        # Rebuilt from the arguments, hence not part of the state.
        self.register_buffer("_points", points.float(), persistent=False)
        self.register_buffer("_weight", weight.float(), persistent=False)

    @staticmethod
    def _log_normal(z: Tensor) -> Tensor:
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def log_acceptance(self, z: Tensor) -> Tensor:
        """``log a(z)``, shape ``(B,)``."""
        return torch.nn.functional.logsigmoid(self.net(z).squeeze(-1))

    def log_normaliser(self) -> Tensor:
        """``log Z``, a scalar."""
        if self.training and self.exactness == "estimate":
            like: Tensor = self._points  # type: ignore[assignment]
            return torch.logsumexp(self.log_acceptance(randn_like(like)), 0) - math.log(self.draws)
        log_a = self.log_acceptance(self._points)  # type: ignore[arg-type]
        return torch.logsumexp(log_a + torch.log(self._weight), 0)  # type: ignore[arg-type]

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        log_z = self.log_normaliser()
        # Z stays below one: a network that accepts everything would leave log(1 - Z) infinite.
        log_alpha = (self.truncation - 1) * torch.log1p(-log_z.exp().clamp_max(1 - 1e-6))
        ratio = torch.log1p(-log_alpha.exp()) + self.log_acceptance(x) - log_z
        return self._log_normal(x) + torch.logaddexp(ratio, log_alpha.expand_as(ratio))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        def propose(count: int) -> Tensor:
            shape = (count, *self.event_shape)
            return temperature * normal_numbers(shape, self.dtype, self.device, generator)

        z = propose(n)
        waiting = torch.arange(n, device=self.device)
        for _ in range(self.truncation - 1):
            level = open_uniform((len(waiting),), self.dtype, self.device, generator)
            waiting = waiting[level.log() > self.log_acceptance(z[waiting])]
            if len(waiting) == 0:
                break
            z[waiting] = propose(len(waiting))
        return z


def quasi_normal(n: int, features: int) -> Tensor:
    """Standard normal points that fill space evenly (scrambled Sobol), the same every time."""
    u = torch.quasirandom.SobolEngine(features, scramble=True, seed=0).draw(n, dtype=torch.float64)
    return math.sqrt(2) * torch.erfinv(2 * in_unit(u, u.dtype) - 1)
