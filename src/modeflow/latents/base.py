"""What every latent-variable model offers beside a density."""

from __future__ import annotations

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.errors import ConfigError

__all__ = ["LatentModel"]


class LatentModel(Density):
    """``p(x) = ∫ p(z) p(x | z) dz``, with a posterior q(z|x) and an objective that fits all three.

    The estimators ask for the methods below; a model whose latent is not discrete is one of a single state.
    """

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

    def sample_with_states(
        self, n: int, generator: torch.Generator | None = None, state: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw ``(x, states)``, states numbered over those in use: zeros where the latent is not discrete.

        Raises:
            ConfigError: if there is no such state.
        """
        if state not in (None, 0):
            raise ConfigError(f"the latent is not discrete: there is no state {state}")
        with torch.no_grad():
            return self._sample(n, None, generator), torch.zeros(n, dtype=torch.long)

    def quick_log_prob(self, x: Tensor, epsilon: float) -> Tensor:
        """What validation is scored by while training: a bound that leaves out a mass of about `epsilon`."""
        return self.log_prob(x)

    def calibrate(self, x: Tensor, weight: Tensor | None = None) -> float:
        """Bring the posterior's confidence in line with rows that were not trained on, where it can be."""
        return 1.0
