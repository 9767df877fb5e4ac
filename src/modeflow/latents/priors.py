r"""Priors over the latent z: of states, and of a continuous z by name.

====================  ===============================================================
name                  p(z)
====================  ===============================================================
``normal``            N(0, I)
``mixture``           a mixture of 16 Gaussians, learned (`GaussianMixtureBase`)
``flow``              a spline flow of 4 coupling layers, learned (`modeflow.flows.NSF`)
``diffusion-bridge``  20 steps back from noise, learned (`DiffusionBridge`): a bound
``vamp``              the mean of q(z|u) of 50 pseudo-inputs u, learned (`VampPrior`)
``sphere``            uniform on the unit sphere, for posteriors on it (`UniformSphere`)
====================  ===============================================================

Codes have priors of their own, `modeflow.densities.SequencePrior`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, check_temperature
from modeflow.densities.bridge import DiffusionBridge
from modeflow.densities.mixtures import GaussianMixtureBase
from modeflow.densities.normal import StandardNormal
from modeflow.densities.sphere import UniformSphere
from modeflow.errors import ConfigError
from modeflow.flows.spline import NSF
from modeflow.latents.vamp import VampPrior
from modeflow.options import check_choice

__all__ = ["PRIORS", "CategoricalPrior", "build_prior"]


def _mixture(features: int) -> Density:
    return GaussianMixtureBase(features, 16)


def _flow(features: int) -> Density:
    return NSF(features, layers=4, hidden_features=32, blocks=1, tail_bound=5.0)


def _bridge(features: int) -> Density:
    return DiffusionBridge(features, hidden_features=64, draws=1)  # those of z are draws enough


#: Priors of a continuous z by name, each made from the width of z; `VampPrior` from an encoder and inputs.
PRIORS: Mapping[str, Callable[..., Density]] = {
    "normal": StandardNormal,
    "mixture": _mixture,
    "flow": _flow,
    "diffusion-bridge": _bridge,
    "vamp": VampPrior,
    "sphere": UniformSphere,
}


def build_prior(
    name: str,
    features: int,
    encoder: nn.Module | None = None,
    inputs: Tensor | None = None,
    unit: float = 1.0,
) -> Density:
    """A prior of a continuous z by name.

    Arguments:
        name: in `PRIORS`. features: L.
        encoder, inputs, unit: of a `VampPrior`, which needs the first two.

    Raises:
        ConfigError: for an unknown name, a z that it is not for, or what it needs and is not given.
    """
    check_choice("prior", name, PRIORS)
    if PRIORS[name] is not VampPrior:
        return PRIORS[name](features)
    if encoder is None or inputs is None:
        raise ConfigError("prior='vamp' is made of an encoder: give build_prior the encoder and the inputs")
    return VampPrior(encoder, inputs, features, unit)


class CategoricalPrior(Density):
    r"""Categorical prior :math:`p(z = k) = \pi_k` over K states, uniform or learned.

    States can be switched off (`active`); the probabilities of the others are renormalised, so that the
    density stays a density after dead states are pruned. Its events are numbers of states.

    Arguments:
        n_states: K.
        learned: learn the probabilities; otherwise they are uniform over the active states.
    """

    active: Tensor
    tempers = True

    def __init__(self, n_states: int, learned: bool = True) -> None:
        super().__init__(())
        self.n_states = self.levels = n_states
        self.learned = learned
        self.register_buffer("active", torch.ones(n_states, dtype=torch.bool))
        if learned and n_states > 1:
            self.logits = nn.Parameter(torch.zeros(n_states))
        else:
            self.register_buffer("logits", torch.zeros(n_states))

    def log_probs(self) -> Tensor:
        """Return ``log pi``, shape ``(K,)``; minus infinity for states that are switched off."""
        logits = self.logits.masked_fill(~self.active, float("-inf"))
        return torch.log_softmax(logits, dim=0)

    @torch.no_grad()
    def set_probs(self, probs: Tensor) -> None:
        """Set the probabilities ``(K,)`` (a learned prior only; a uniform one stays uniform)."""
        if self.learned:
            self.logits.copy_(probs.clamp_min(1e-6).log().to(self.logits))

    @torch.no_grad()
    def switch_off(self, states: Tensor) -> None:
        """Switch states off; the probabilities of the others are renormalised."""
        self.active[states.to(self.active.device)] = False

    def active_states(self) -> Tensor:
        """Indices of the states in use, shape ``(A,)``."""
        return torch.nonzero(self.active).flatten()

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.log_probs()[x.long()]

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        """States, ``(n,)``; probabilities are raised to ``1 / temperature``, which has to be above 0."""
        check_temperature(temperature, "above 0")
        if n == 0:  # `multinomial` refuses to draw nothing
            return torch.zeros(0, dtype=torch.long, device=self.logits.device)
        probs = torch.softmax(self.log_probs() / temperature, 0)
        if generator is not None:
            probs = probs.to(generator.device)
        return torch.multinomial(probs, n, replacement=True, generator=generator).to(self.logits.device)
