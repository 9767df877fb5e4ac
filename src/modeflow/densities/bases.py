"""Bases with independent coordinates: logistic, Student-t, uniform."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.transforms.noise import in_unit, open_uniform

__all__ = ["Logistic", "StudentT", "Uniform"]


class _Independent(Density):
    """Independent coordinates: subclasses give the log-density of an entry, and draw entries."""

    def __init__(self, features: int) -> None:
        super().__init__((features,))
        self.features = features
        # Carries device and type, which a density without parameters would not have.
        self.register_buffer("_like", torch.zeros(()), persistent=False)

    def _entry_log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _entries(self, uniform: Tensor) -> Tensor:
        """The inverse of the distribution function at ``u`` in (0, 1)."""
        raise NotImplementedError

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self._entry_log_prob(x).sum(-1)

    def _uniform(self, n: int, generator: torch.Generator | None) -> Tensor:
        # Neither 0 nor 1, where inverse distribution functions are infinite.
        return open_uniform((n, self.features), torch.float64, self.device, generator)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        # Of a density of one place and one scale; where `tempers` is False the temperature is one.
        entries = self._entries(self._uniform(n, generator)).to(self.dtype)
        return entries if temperature == 1.0 else temperature * entries

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        x = self._sample(n, None, generator)
        return x, self._log_prob(x, None)


class Logistic(_Independent):
    r"""Standard logistic coordinates: ``log p(x) = -softplus(x) - softplus(-x)``, the base of NICE."""

    tempers = True

    def _entry_log_prob(self, x: Tensor) -> Tensor:
        return -F.softplus(x) - F.softplus(-x)

    def _entries(self, uniform: Tensor) -> Tensor:
        return torch.logit(uniform)


class Uniform(_Independent):
    """Uniform on ``[low, high]`` in every coordinate; the log-density is minus infinity outside."""

    def __init__(self, features: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(features)
        if not low < high:
            raise ConfigError(f"a uniform base needs low < high, received {low} and {high}")
        self.low, self.high = float(low), float(high)

    def _entry_log_prob(self, x: Tensor) -> Tensor:
        inside = (x >= self.low) & (x <= self.high)
        level = x.new_full((), -math.log(self.high - self.low))
        return torch.where(inside, level, x.new_full((), -math.inf))

    def _entries(self, uniform: Tensor) -> Tensor:
        # In the type of the samples, so that rounding leads to no end of the interval.
        return self.low + (self.high - self.low) * in_unit(uniform, self.dtype)


class StudentT(_Independent):
    r"""Student-t coordinates with learned degrees of freedom ν > 1, one for each.

    .. math:: \log p(x) = \log\Gamma\tfrac{\nu+1}{2} - \log\Gamma\tfrac{\nu}{2} - \tfrac12\log(\nu\pi)
        - \tfrac{\nu+1}{2}\log\big(1 + \tfrac{x^2}{\nu}\big)

    Its tails are polynomial, as those of a flow over a Gaussian base never are.

    Reference:
        Alexanderson and Henter, *Robust model training and generalisation with Studentising flows*, 2020,
        https://arxiv.org/abs/2006.06599
    """

    tempers = True

    def __init__(self, features: int, degrees_of_freedom: float = 10.0) -> None:
        super().__init__(features)
        if not degrees_of_freedom > 1:
            raise ConfigError(f"degrees_of_freedom must be above 1, received {degrees_of_freedom}")
        self.raw = nn.Parameter(torch.full((features,), math.log(math.expm1(degrees_of_freedom - 1))))

    def degrees_of_freedom(self) -> Tensor:
        """ν of every coordinate, shape ``(D,)``."""
        return 1 + F.softplus(self.raw)

    def _entry_log_prob(self, x: Tensor) -> Tensor:
        nu = self.degrees_of_freedom()
        scale = torch.lgamma((nu + 1) / 2) - torch.lgamma(nu / 2) - 0.5 * torch.log(nu * math.pi)
        return scale - 0.5 * (nu + 1) * torch.log1p(x.square() / nu)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        from scipy.special import stdtrit

        u = self._uniform(n, generator).cpu().numpy()
        nu = self.degrees_of_freedom().detach().double().cpu().numpy()
        return temperature * torch.from_numpy(stdtrit(nu, u)).to(self.device, self.dtype)

    def rsample_and_log_prob(
        self,
        n: int = 1,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("StudentT has no reparametrised sampler: its samples depend on ν")
