"""Score-based models: diffusion to noise, a learned score, and the likelihood of the probability-flow ODE."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density, Loss, weighted_mean
from modeflow.errors import ConfigError
from modeflow.nets import NoiseNet
from modeflow.nets.randomness import randn_like, stream
from modeflow.transforms.noise import normal_numbers, open_uniform
from modeflow.transforms.ode import ODE

__all__ = ["DIFFUSIONS", "Diffusion", "Schedule"]

DIFFUSIONS = ("vp", "subvp", "ve")
_FIRST = 1e-3
_CORRECTED_STEPS = 250
_SIGNAL_TO_NOISE = 0.16


class Schedule:
    r"""Mean, variance and rates of ``dx = f(x, t) dt + g(t) dW`` on ``[0, 1]``, all in closed form.

    VP: :math:`f = -\tfrac12 \beta x, g^2 = \beta, \beta = 0.1 + 19.9 t`; sub-VP: the same f,
    :math:`g^2 = \beta (1 - e^{-2I}), I = \int \beta`; VE: f = 0, :math:`\sigma(t) = 0.01 \cdot 1000^t`.

    Arguments:
        kind: ``"vp"``, ``"subvp"`` or ``"ve"``.
    """

    low, high = 0.01, 10.0

    def __init__(self, kind: str) -> None:
        if kind not in DIFFUSIONS:
            raise ConfigError(f"kind must be one of {', '.join(DIFFUSIONS)}; received {kind!r}")
        self.kind = kind
        #: Standard deviation of the noise at the end.
        self.last = self.high if kind == "ve" else 1.0

    def integral(self, t: Tensor) -> Tensor:
        """``I(t) = ∫ β``."""
        return 0.1 * t + 9.95 * t.square()

    def sigma(self, t: Tensor) -> Tensor:
        """σ(t) of VE."""
        return self.low * torch.exp(t * math.log(self.high / self.low))

    def mean(self, t: Tensor) -> Tensor:
        """m(t), the factor of x_0 in the mean of x_t."""
        return torch.ones_like(t) if self.kind == "ve" else torch.exp(-0.5 * self.integral(t))

    def variance(self, t: Tensor) -> Tensor:
        """v(t), the variance of x_t given x_0."""
        if self.kind == "ve":
            return self.sigma(t).square() - self.low**2
        one_minus = -torch.expm1(-self.integral(t))
        return one_minus.square() if self.kind == "subvp" else one_minus

    def drift(self, t: Tensor) -> Tensor:
        """a(t) in ``f(x, t) = a(t) x``."""
        return torch.zeros_like(t) if self.kind == "ve" else -0.5 * (0.1 + 19.9 * t)

    def diffusion(self, t: Tensor) -> Tensor:
        """``g(t)²``."""
        if self.kind == "ve":
            return 2 * math.log(self.high / self.low) * self.sigma(t).square()
        beta = 0.1 + 19.9 * t
        return beta * -torch.expm1(-2 * self.integral(t)) if self.kind == "subvp" else beta

    def clock(self, t: Tensor) -> Tensor:
        """An antiderivative of ``g² / v``; times even in it weight the loss as the likelihood does."""
        if self.kind == "ve":
            return self.variance(t).log()
        i = self.integral(t)
        return 2 * torch.log(torch.sinh(i / 2)) if self.kind == "subvp" else torch.log(torch.expm1(i))

    def time(self, clock: Tensor) -> Tensor:
        """The inverse of `clock`."""
        if self.kind == "ve":
            return 0.5 * torch.log((clock.exp() + self.low**2) / self.low**2) / math.log(self.high / self.low)
        i = 2 * torch.asinh((clock / 2).exp()) if self.kind == "subvp" else torch.log1p(clock.exp())
        return (-0.1 + torch.sqrt(0.01 + 39.8 * i)) / 19.9


class _Flow(nn.Module):
    """The field of the probability-flow ODE, ``f - g² s / 2``."""

    def __init__(self, schedule: Schedule, net: nn.Module) -> None:
        super().__init__()
        self.schedule, self.net = schedule, net

    def noise(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        """``E[ε | x_t]``: what it would be for standard normal data, and a learned correction."""
        s = self.schedule
        m, v = s.mean(t).unsqueeze(1), s.variance(t).unsqueeze(1)
        total = m.square() + v
        return v.sqrt() / total * x + self.net(x / total.sqrt(), t, context)

    def score(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        """``∇ log p_t(x)``, shape ``(B, D)``, at times ``(B,)``."""
        return -self.noise(x, t, context) / self.schedule.variance(t).sqrt().unsqueeze(1)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        when = t.to(x).expand(x.shape[0])
        s = self.schedule
        half = 0.5 * s.diffusion(when).unsqueeze(1)
        return s.drift(when).unsqueeze(1) * x - half * self.score(x, when, context)


class Diffusion(Density):
    r"""A diffusion of data to noise and its learned score.

    .. math:: \text{loss} = E_{t, \epsilon}\, \lambda(t)\, |\epsilon_\theta(m_t x + \sqrt{v_t}\,\epsilon, t)
        - \epsilon|^2, \qquad \frac{dx}{dt} = f - \tfrac12 g^2 s_\theta

    `log_prob` is that of the ODE from t = 0.001 to 1, an estimate: the steps of its solver decide (and beyond
    64 features a random trace). It is not what is trained.

    Arguments:
        features: D. context_features: width of the context.
        kind: see `Schedule`.
        hidden_features, blocks: of the network.
        weighting: λ as in the likelihood, ``g²/(2v)`` (times are drawn in proportion), or ``"noise"``, one.
        sampler: ``"ode"``, or ``"pc"``: reverse steps of the stochastic equation, each with a Langevin
            correction.
        steps: of the ODE, fourth order, closer together near the data.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*, 2021,
        https://arxiv.org/abs/2011.13456
    """

    tempers = True

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        kind: str = "vp",
        hidden_features: int = 128,
        blocks: int = 3,
        weighting: str = "likelihood",
        sampler: str = "ode",
        steps: int = 20,
    ) -> None:
        super().__init__((features,), context_features)
        for name, value, allowed in (
            ("weighting", weighting, ("likelihood", "noise")),
            ("sampler", sampler, ("ode", "pc")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be '{allowed[0]}' or '{allowed[1]}', received {value!r}")
        self.schedule = Schedule(kind)
        self.weighting, self.sampler = weighting, sampler
        net = NoiseNet(features, hidden_features, context_features, blocks)
        self.field = _Flow(self.schedule, net)
        root = torch.linspace(math.sqrt(_FIRST), 1, steps + 1, dtype=torch.float64)
        self.ode = ODE(self.field, features, context_features, root.square())
        self.exactness = self.ode.exactness

    def score(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """The learned ``∇ log p_t(x)`` at times ``(B,)``, shape ``(B, D)``."""
        return self.field.score(x, t, context)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        u, logabsdet = self.ode(x, context)
        z = u / self.schedule.last
        constant = math.log(self.schedule.last) + 0.5 * math.log(2 * math.pi)
        return (-0.5 * z.square() - constant).sum(1) + logabsdet

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        """Denoising loss of a batch, with one time and one noise a row (torch's global generator)."""
        self._check_event(x)
        s = self.schedule
        rows = x.shape[0]
        first, last = (x.new_tensor(t) for t in (_FIRST, 1.0))
        # Even spacing with one common offset: every batch sees all times, and each is still uniform.
        level = (open_uniform((), x.dtype, x.device) + torch.arange(rows, device=x.device) / rows) % 1
        level = level[torch.randperm(rows, device=x.device, generator=stream(x.device))]
        if self.weighting == "likelihood":
            low, high = s.clock(first), s.clock(last)
            t, factor = s.time(low + (high - low) * level), 0.5 * (high - low)
        else:
            t, factor = first + (last - first) * level, first.new_ones(())
        noise = randn_like(x)
        at = s.mean(t).unsqueeze(1) * x + s.variance(t).sqrt().unsqueeze(1) * noise
        error = (self.field.noise(at, t, None) - noise).square().sum(1)
        loss = weighted_mean(factor * error, weight)
        return Loss(loss, {"denoising": loss.detach()})

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        def normal() -> Tensor:
            return normal_numbers((n, *self.event_shape), self.dtype, self.device, generator)

        if temperature != 1.0 and self.sampler == "pc":
            raise ConfigError(
                "the sampler 'pc' has no use for a temperature: it draws at every step; sample with 'ode'"
            )
        u = temperature * self.schedule.last * normal()
        if n == 0:
            return u
        return self.ode.inverse(u, context)[0] if self.sampler == "ode" else self._correct(u, context, normal)

    def _correct(self, x: Tensor, context: Tensor | None, normal: Any) -> Tensor:
        """Reverse steps of the stochastic equation, each after a Langevin step at the same time."""
        root = torch.linspace(1, math.sqrt(_FIRST), _CORRECTED_STEPS + 1, dtype=torch.float64)
        times = root.square().to(x)
        s = self.schedule
        for now, then in itertools.pairwise(times):
            t = now.expand(len(x))
            score, noise = self.score(x, t, context), normal()
            size = 2 * (_SIGNAL_TO_NOISE * noise.norm() / score.norm().clamp_min(1e-12)).square()
            x = x + size * score + (2 * size).sqrt() * noise
            dt = now - then
            score = self.score(x, t, context)
            g2 = s.diffusion(now)
            x = x - (s.drift(now) * x - g2 * score) * dt + (g2 * dt).sqrt() * normal()
        # The noise that is left at the first time is taken off by its mean.
        t = times[-1].expand(len(x))
        v, m = s.variance(times[-1]), s.mean(times[-1])
        return (x + v * self.score(x, t, context)) / m
