r"""How good a fitted density is, by draws from it: bounds, importance weights and their diagnostics.

With :math:`w = \tilde p(x) / q(x)`, x ~ q: :math:`E[\log w] \le \log E[w] = \log Z`. The first is the
evidence lower bound, the second is estimated by a mean. How far a mean of so many weights can be trusted is
said by the effective sample size :math:`(\sum w)^2 / \sum w^2` and by the shape k of their tail
(`modeflow.inference.pareto`).

None of these sees a part of the target where q drew nothing at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.densities.steps import where_drawn
from modeflow.errors import ConfigError
from modeflow.inference.pareto import RELIABLE_K, smooth_log_weights
from modeflow.inference.targets import LogProb
from modeflow.transforms.base import Exactness

__all__ = ["Estimate", "Importance", "importance", "weigh"]

#: Rows drawn and scored at once.
_CHUNK = 4096
#: Share of the draws below which the effective sample size is called low.
_LOW_ESS = 0.1


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated.

    Attributes:
        value: nats. standard_error: of it. kind: what it is, ``"lower bound"`` or ``"estimate"``.
        of: what it is a bound or an estimate of.
    """

    value: float
    standard_error: float
    kind: Exactness
    of: str = "log Z"

    def __str__(self) -> str:
        what = f"{self.kind} of {self.of}"
        return f"{self.value:.4f} ± {self.standard_error:.4f} nats ({what})"


@dataclass(frozen=True)
class Importance:
    """Draws of a density q and their weights for a target.

    Attributes:
        samples: of q, ``(N, *event)``.
        log_weights: ``log p̃(x) - log q(x)``, nats, float64, ``(N,)``.
        smoothed: of weights whose largest are smoothed (`smooth_log_weights`), normalised logarithms,
            ``(N,)``.
        elbo: mean of `log_weights`. log_normalizer: logarithm of the mean weight, the estimate of log Z; its
            standard error is that of a mean, and too small where `pareto_k` is large.
        effective: effective sample size. pareto_k: shape of the tail of the weights.
    """

    samples: Tensor
    log_weights: Tensor
    smoothed: Tensor
    elbo: Estimate
    log_normalizer: Estimate
    effective: float
    pareto_k: float

    def __len__(self) -> int:
        return len(self.log_weights)

    @property
    def reliable(self) -> bool:
        """Whether k is at most 0.7 and the effective sample size a tenth of the draws or more."""
        return self.pareto_k <= RELIABLE_K and self.effective >= _LOW_ESS * len(self)

    def resample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws of the target, ``(n, *event)``: of `samples` by their smoothed weights, some repeated."""
        edges = self.smoothed.exp().cumsum(0)
        # One random number for all: evenly spaced levels repeat a draw as often as its weight says, up to
        # one.
        first = where_drawn(torch.rand, (1,), edges, generator)
        level = (torch.arange(n, dtype=edges.dtype) + first) / max(n, 1) * edges[-1]
        return self.samples[torch.searchsorted(edges, level).clamp_max(len(edges) - 1)]

    def expectation(self, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean of a function of x under the target, and its standard error.

        Arguments:
            function: ``(N, *event) -> (N, ...)``.
        """
        values = function(self.samples)
        share = self.smoothed.exp().to(values).view(-1, *(1,) * (values.dim() - 1))
        mean = (share * values).sum(0)
        return mean, (share * (values - mean)).square().sum(0).sqrt()

    def lines(self) -> list[str]:
        """These numbers in plain text, a line each."""
        share = 100 * self.effective / len(self)
        return [
            f"evidence bound   {self.elbo}",
            f"log Z            {self.log_normalizer}",
            f"effective draws  {self.effective:.0f} of {len(self)} ({share:.0f} %)",
            f"Pareto k         {self.pareto_k:.2f} (reliable up to 0.7)",
        ]

    def warnings(self) -> list[str]:
        """What speaks against these numbers, and what to do, a line each."""
        said = []
        if self.pareto_k > RELIABLE_K:
            said.append(
                f"Pareto k is {self.pareto_k:.2f}, above {RELIABLE_K}: the weights have a heavy tail, and "
                "log Z and what is resampled may be further off than is said; fit longer, with more draws, "
                "states or a richer flow, or go on from draws with modeflow.inference.hmc"
            )
        if not self.effective >= _LOW_ESS * len(self):
            said.append(
                f"the effective sample size is {self.effective:.0f} of {len(self)} draws: the fit is far "
                "from the target; fit longer (steps), with more states (n_states) or a richer flow"
            )
        return said


def weigh(samples: Tensor, log_weights: Tensor) -> Importance:
    """The diagnostics of weights.

    Arguments:
        samples: ``(N, *event)``. log_weights: ``(N,)``, nats.

    Raises:
        ConfigError: fewer than two draws, or a weight that is no number.
    """
    logs = log_weights.detach().double().cpu()
    n = len(logs)
    if n < 2 or bool(logs.isnan().any()) or bool((logs == torch.inf).any()):
        raise ConfigError(
            f"importance weights need 2 draws or more with densities that are numbers, received {n}"
        )
    spread = float(logs.std()) if bool(logs.isfinite().all()) else math.nan
    elbo = Estimate(float(logs.mean()), spread / math.sqrt(n), "lower bound")
    top = float(logs.max())
    if top == -math.inf:
        nothing = Estimate(-math.inf, math.nan, "estimate")
        return Importance(samples, logs, torch.full_like(logs, -math.log(n)), elbo, nothing, 0.0, math.inf)
    w = (logs - top).exp()
    mean = float(w.mean())
    log_z = Estimate(top + math.log(mean), float(w.std()) / (mean * math.sqrt(n)), "estimate")
    smooth, k = smooth_log_weights(logs.numpy())
    smoothed = torch.log_softmax(torch.from_numpy(np.ascontiguousarray(smooth)), 0)
    effective = float(w.sum().square() / w.square().sum())
    return Importance(samples, logs, smoothed, elbo, log_z, effective, k)


@torch.no_grad()
def importance(
    log_prob: LogProb,
    density: Density,
    draws: int = 4096,
    context: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Importance:
    """Draw from a density and weigh the draws for a target.

    Arguments:
        log_prob: of the target, ``(B, *event) -> (B,)``, up to a constant.
        density: q, whose density is exact. draws: N.
        context: of q, one row ``(context_features,)``; None where it is unconditional.
        generator: source of randomness.

    Raises:
        ConfigError: a density that is not exact.
    """
    if density.exactness != "exact":
        raise ConfigError(
            f"importance weights need a density that is exact; log_prob of {type(density).__name__} is "
            f"{'an' if density.exactness == 'estimate' else 'a'} {density.exactness}"
        )
    samples, logs = [], []
    for start in range(0, draws, _CHUNK):
        x = density.sample(min(_CHUNK, draws - start), context, generator).to(density.dtype)
        samples.append(x)
        logs.append(log_prob(x).double() - density.log_prob(x, context).double())
    return weigh(torch.cat(samples), torch.cat(logs))
