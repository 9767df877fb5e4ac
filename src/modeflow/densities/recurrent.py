"""Autoregressive mixtures whose parameters a recurrence supplies (TAN's RAM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.densities.autoregressive import MixtureConditional
from modeflow.densities.base import Density
from modeflow.transforms.noise import normal_numbers, open_uniform
from modeflow.transforms.recurrent import Recurrence

__all__ = ["RecurrentDensity"]


class RecurrentDensity(Density):
    r"""Each feature is a mixture of Gaussians given the state of a GRU that ran over those before it.

    .. math:: p(x \mid c) = \prod_i \sum_k \pi_k(h_i)\, N(x_i; \mu_k(h_i), \sigma_k^2(h_i)), \qquad
        h_i = g(x_{i-1}, h_{i-1}, c)

    Arguments:
        features: D. context_features: width of the context.
        hidden_features: width of the state. components: Gaussians of each mixture.

    Reference:
        Oliva et al., *Transformation Autoregressive Networks*, 2018, https://arxiv.org/abs/1801.09819
    """

    tempers = True

    def __init__(
        self, features: int, context_features: int = 0, hidden_features: int = 64, components: int = 10
    ) -> None:
        super().__init__((features,), context_features)
        self.conditional = MixtureConditional(components)
        self.recurrence = Recurrence(hidden_features, context_features)
        self.hidden = nn.Linear(hidden_features, hidden_features)
        self.final = nn.Linear(hidden_features, self.conditional.n_params)
        with torch.no_grad():
            self.final.weight.mul_(1e-2)
            self.final.bias.zero_()

    def _params(self, state: Tensor) -> Tensor:
        return self.final(torch.relu(self.hidden(state)))

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.conditional.log_prob(x, self._params(self.recurrence(x, context))).sum(-1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        features = self.event_shape[0]
        uniform = open_uniform((n, features), self.dtype, self.device, generator)
        normal = normal_numbers((n, features), self.dtype, self.device, generator)
        if n == 0:
            return normal
        state = self.recurrence.start(n, context)
        columns: list[Tensor] = []
        for i in range(features):
            params = self._params(state)
            columns.append(self.conditional.sample(params, uniform[:, i], normal[:, i], temperature))
            if i + 1 < features:
                state = self.recurrence.step(columns[-1], state, context)
        return torch.stack(columns, 1)
