r"""Diffusion bridges: a density as a chain of Gaussian steps back from noise, by an evidence lower bound.

Data z⁰ is led to noise by an Ornstein–Uhlenbeck process about z*, seen at T times; with
:math:`\bar a_t = \prod_{s \le t} a_s`, :math:`b_t = 1 - a_t`,

.. math:: q(z^t \mid z^{t-1}) = N\big(z^* + \sqrt{a_t} (z^{t-1} - z^*),\ v b_t\big), \qquad
    q(z^t \mid z^0) = N\big(z^* + \sqrt{\bar a_t} (z^0 - z^*),\ v (1 - \bar a_t)\big).

What leads from z^0 to z^t is a bridge, whose steps are known,

.. math:: q(z^{t-1} \mid z^t, z^0) = N\Big(z^* + \frac{\sqrt{\bar a_{t-1}}\, b_t}{1 - \bar a_t} (z^0 - z^*)
    + \frac{\sqrt{a_t} (1 - \bar a_{t-1})}{1 - \bar a_t} (z^t - z^*),\
    v b_t \frac{1 - \bar a_{t-1}}{1 - \bar a_t}\Big),

and the model is a chain in its place that has to do without z⁰: p(z^T) = N(z*, v), and

.. math:: p(z^{t-1} \mid z^t) = N\Big(z^* + \frac1{\sqrt{a_t}} \Big(z^t - z^*
    - b_t \sqrt{\tfrac{v}{1 - \bar a_t}}\ \epsilon_\theta(z^t, t)\Big),\ \sigma_t^2\Big).

Everything below is in units of it: z* = 0 and v = 1 are put in and taken out at the doors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.errors import ConfigError
from modeflow.nets.randomness import randn_like, stream
from modeflow.nets.timed import NoiseNet
from modeflow.options import check_sizes
from modeflow.transforms.noise import in_row_noise, normal_numbers, open_uniform, row_noise, standard_normal

__all__ = ["DiffusionBridge", "PlainNoise"]

#: Logits of ``ā`` at the first time and the last: noise of a tenth, and a signal of a thirtieth.
_FIRST, _LAST = 4.6, -6.9
#: Where σ_t² lies at the start, a logit.
_BETWEEN = 1.0


class PlainNoise(nn.Module):
    """ε as it would be of data of N(z*, v), and what a network (`modeflow.nets.NoiseNet`) adds to it.

    Arguments:
        features: D. hidden_features, blocks: of the network.
    """

    def __init__(self, features: int, hidden_features: int, blocks: int) -> None:
        super().__init__()
        self.net = NoiseNet(features, hidden_features, 0, blocks)

    def forward(self, y: Tensor, abar: Tensor, time: Tensor) -> Tensor:
        learned: Tensor = self.net(y, time)
        return (1 - abar).sqrt().unsqueeze(1) * y + learned


class DiffusionBridge(Density):
    r"""A density over vectors by T steps back from noise, see the module.

    .. math:: \log p(z^0) \ge E_q \Big[\log p(z^T) + \sum_{t=1}^T \log
        \frac{p(z^{t-1} \mid z^t)}{q(z^t \mid z^{t-1})}\Big]

    `log_prob` is this bound, tightened by importance weights of `draws` paths; its noise is a function of the
    row; while training, outside a stream of noise, it is one path's. What is learned by, `objective`, is an
    estimate of the bound at one random time of each row: right on average, one pass, with a gradient to z⁰
    too. σ_t² lies between the variance of the bridge, right where z^t tells z⁰, and v b_t, right of normal
    data; where, is learned.

    A density takes T S passes of the network, a sample T.

    Arguments:
        features: D.
        steps: T. ``ā_t`` has evenly spaced log-odds, from 0.99 to 0.001.
        hidden_features, blocks: of the network, see `PlainNoise`.
        draws: S. center, variance: z* and v.
        denoiser: what says ε in the place of `PlainNoise`, called with y^t ``(B, D)`` in units of the
            process, and of every row ``ā_t`` and t / T.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Cohen et al., *Diffusion bridges vector quantized Variational AutoEncoders*, 2022,
        https://arxiv.org/abs/2202.04895; Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020,
        https://arxiv.org/abs/2006.11239
    """

    exactness = "lower bound"

    def __init__(
        self,
        features: int,
        steps: int = 20,
        hidden_features: int = 128,
        blocks: int = 2,
        draws: int = 8,
        center: float = 0.0,
        variance: float = 1.0,
        denoiser: nn.Module | None = None,
    ) -> None:
        check_sizes(features=features, steps=steps, hidden_features=hidden_features, draws=draws)
        check_sizes(blocks=blocks)
        if not (math.isfinite(center) and 0 < variance < math.inf):
            raise ConfigError(
                f"center must be finite and variance finite and above 0, received {center!r} and {variance!r}"
            )
        super().__init__((features,))
        self.steps, self.draws = int(steps), int(draws)
        self.center, self.scale = float(center), math.sqrt(variance)
        self.denoiser = PlainNoise(features, hidden_features, blocks) if denoiser is None else denoiser
        #: Where σ_t² lies, a logit of every time.
        self.between = nn.Parameter(torch.full((self.steps,), _BETWEEN))

    # -- the chain, in units of the process: z* = 0, v = 1 ------------------------------------------

    def kept(self) -> tuple[Tensor, Tensor, Tensor]:
        """a_t, ``ā_t`` and ``ā_{t-1}`` of t = 1 .. T, ``(T,)`` each, in float64."""
        abar = torch.sigmoid(torch.linspace(_FIRST, _LAST, self.steps, dtype=torch.float64))
        before = torch.cat((abar.new_ones(1), abar[:-1]))
        return abar / before, abar, before

    def _rates(self, like: Tensor) -> tuple[Tensor, ...]:
        """`kept`, and σ_t² and the variance of the bridge, of the type and place of `like`."""
        a, abar, before = self.kept()
        bridge = (1 - a) * (1 - before) / (1 - abar)
        # At the first time the bridge ends at a point, which no density is: as narrow as at the second.
        least = bridge.clone()
        least[0] = bridge[min(1, self.steps - 1)] if self.steps > 1 else 0.1 * (1 - a[0])
        least = torch.minimum(least, 1 - a)
        low, high = least.log().to(like), (1 - a).log().to(like)
        sigma2 = torch.lerp(low, high, torch.sigmoid(self.between.to(like))).exp()
        return a.to(like), abar.to(like), before.to(like), sigma2, bridge.to(like)

    def noise(self, y: Tensor, number: Tensor) -> Tensor:
        """ε of y^t ``(B, D)`` at times ``t - 1 = number (B,)``."""
        found: Tensor = self.denoiser(y, self.kept()[1].to(y)[number], (number + 1).to(y) / self.steps)
        return found

    def between_ends(self, y: Tensor, after: Tensor, number: Tensor) -> Tensor:
        """The mean of q(y^{t-1} | y^t, y^0), ``(B, D)``, at times ``t - 1 = number (B,)``."""
        a, abar, before = (r.to(y)[number].unsqueeze(1) for r in self.kept())
        return (before.sqrt() * (1 - a) * y + a.sqrt() * (1 - before) * after) / (1 - abar)

    def _back(self, y: Tensor, number: Tensor, a: Tensor, abar: Tensor) -> Tensor:
        """The mean of p(y^{t-1} | y^t)."""
        b, total = (1 - a[number]).unsqueeze(1), (1 - abar[number]).unsqueeze(1)
        return (y - b * total.rsqrt() * self.noise(y, number)) * a[number].unsqueeze(1).rsqrt()

    def _path(self, y: Tensor) -> Tensor:
        """``log p(y^0 .. y^T) - log q(y^1 .. y^T | y^0)`` of a path drawn from q, ``(B,)``."""
        a, abar, _, sigma2, _ = self._rates(y)
        total = y.new_zeros(len(y))
        for t in range(self.steps):
            number = torch.full((len(y),), t, device=y.device)
            noise = standard_normal(y)
            after = a[t].sqrt() * y + (1 - a[t]).sqrt() * noise
            error = (y - self._back(after, number, a, abar)).square() / sigma2[t]
            # The constants of the two Gaussians are the same, but for their scales.
            ratio = 0.5 * (noise.square() - error + (1 - a[t]).log() - sigma2[t].log())
            total, y = total + ratio.sum(1), after
        return total + self._noise_log_prob(y)

    @staticmethod
    def _noise_log_prob(y: Tensor) -> Tensor:
        return -0.5 * (y.square() + math.log(2 * math.pi)).sum(1)

    def _at_one_time(self, y: Tensor) -> Tensor:
        """The bound with every term but the last in closed form, and of them one, at random, in place of
        all; ``(B,)``."""
        a, abar, _, sigma2, bridge = self._rates(y)
        rows = len(y)
        # Even spacing with one common offset: every batch sees all times, and each is still uniform.
        level = (open_uniform((), y.dtype, y.device) + torch.arange(rows, device=y.device) / rows) % 1
        level = level[torch.randperm(rows, device=y.device, generator=stream(y.device))]
        number = (level * self.steps).long().clamp_max(self.steps - 1)
        signal, total = abar[number].unsqueeze(1), (1 - abar[number]).unsqueeze(1)
        after = signal.sqrt() * y + total.sqrt() * randn_like(y)
        middle = self.between_ends(y, after, number)
        wide, narrow = sigma2[number].unsqueeze(1), bridge[number].unsqueeze(1)
        error = (middle - self._back(after, number, a, abar)).square()
        # Minus the KL of the bridge's step and the model's; at the first time, a point, log p(y^0 | y^1).
        first = (number == 0).unsqueeze(1)
        spread = torch.where(first, -math.log(2 * math.pi), 1 + narrow.clamp_min(1e-30).log())
        term = 0.5 * (spread - wide.log() - (error + narrow) / wide)
        end = 0.5 * (1 + (1 - abar[-1]).log() - (1 - abar[-1]) - abar[-1] * y.square())
        return self.steps * term.sum(1) + end.sum(1)

    # -- the contract -------------------------------------------------------------------------------

    def _inside(self, x: Tensor) -> tuple[Tensor, float]:
        return (x - self.center) / self.scale, -self.event_shape[0] * math.log(self.scale)

    def log_weight(self, x: Tensor) -> Tensor:
        """The logarithm of an unbiased estimate of p(x), ``(B,)``, nats, by one path: noise as a layer's."""
        y, constant = self._inside(x)
        return self._path(y) + constant

    def estimate(self, x: Tensor) -> Tensor:
        """An unbiased estimate of the evidence lower bound, ``(B,)``, nats, at one random time."""
        y, constant = self._inside(x)
        return self._at_one_time(y) + constant

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        if self.training and not in_row_noise():
            return self.log_weight(x)
        weights = []
        for draw in range(self.draws):
            with row_noise(x, draw, self):
                weights.append(self.log_weight(x))
        return torch.logsumexp(torch.stack(weights), 0) - math.log(self.draws)

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        """Minus the bound at one random time a row."""
        self._check_event(x)
        loss = weighted_mean(-self.estimate(x), weight)
        return Loss(loss, {"nll": loss.detach()})

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        def normal() -> Tensor:
            return normal_numbers((n, *self.event_shape), self.dtype, self.device, generator)

        y = normal()
        a, abar, _, sigma2, _ = self._rates(y)
        for t in reversed(range(self.steps)):
            number = torch.full((n,), t, device=y.device)
            y = self._back(y, number, a, abar) + sigma2[t].sqrt() * normal()
        return self.center + self.scale * y
