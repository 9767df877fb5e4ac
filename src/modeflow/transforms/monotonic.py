"""Monotone elementwise maps without a closed inverse: sigmoidal (NAF) and sums of squares (SOS)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.transforms.elementwise import Elementwise

__all__ = ["Monotonic", "SigmoidalElementwise", "SquaresElementwise", "invert_increasing"]


def invert_increasing(function: Callable[[Tensor], Tensor], target: Tensor, start: float = 4.0) -> Tensor:
    """Solve ``function(x) = target`` for an increasing elementwise function, by bracketing and bisection.

    Arguments:
        function: increasing and elementwise, onto the real line.
        target: shape ``(...)``.
        start: half-width of the first bracket; it doubles until it holds every root.
    """
    low, high = torch.full_like(target, -start), torch.full_like(target, start)
    for _ in range(60):
        too_high, too_low = function(low) > target, function(high) < target
        if not bool((too_high | too_low).any()):
            break
        low, high = torch.where(too_high, 2 * low, low), torch.where(too_low, 2 * high, high)
    for _ in range(30 if target.dtype == torch.float32 else 64):
        middle = 0.5 * (low + high)
        above = function(middle) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return 0.5 * (low + high)


class Monotonic(Elementwise):
    """Contract: `forward` in closed form; the inverse is found by bisection, and Newton steps from there.

    The last step carries the gradient (implicit function theorem).
    """

    one_pass_inverse = False

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            x = invert_increasing(lambda t: self.forward(t, params)[0], u)
            value, logderivative = self.forward(x, params)
            x = x - (value - u) * torch.exp(-logderivative)
            slope = torch.exp(self.forward(x, params)[1])
        x = x - (self.forward(x, params)[0] - u) / slope
        return x, -self.forward(x, params)[1]


def positive(raw: Tensor) -> tuple[Tensor, Tensor]:
    """``a = softplus(raw)`` and ``log a``, which is a number also where a is too small for one."""
    log_a = torch.where(raw < -30, raw, F.softplus(raw.clamp_min(-30)).log())
    return F.softplus(raw), log_a


class SigmoidalElementwise(Monotonic):
    r"""Deep sigmoidal flow's layer (NAF-DSF): a mixture of sigmoids, through a logit.

    .. math:: u = \operatorname{logit}\Big(\sum_j w_j\, \sigma(a_j x + b_j)\Big), \qquad
        w = \operatorname{softmax}, \quad a = \operatorname{softplus}

    Everything is computed from ``log σ`` of ±z, so that float32 tails hold. Zero parameters: the identity.

    Arguments:
        units: sigmoids of each entry; ``3 * units`` parameters.

    Reference:
        Huang et al., *Neural Autoregressive Flows*, 2018, https://arxiv.org/abs/1804.00779
    """

    def __init__(self, units: int = 8) -> None:
        super().__init__()
        if units < 1:
            raise ConfigError(f"units must be 1 or more, received {units}")
        self.units = units
        self.n_params = 3 * units

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        raw_w, raw_a, b = params.chunk(3, dim=-1)
        log_w = torch.log_softmax(raw_w, -1)
        a, log_a = positive(raw_a + math.log(math.e - 1))
        z = a * x.unsqueeze(-1) + b
        below, above = F.logsigmoid(z), F.logsigmoid(-z)
        log_s, log_rest = torch.logsumexp(log_w + below, -1), torch.logsumexp(log_w + above, -1)
        slope = torch.logsumexp(log_w + log_a + below + above, -1)
        return log_s - log_rest, slope - log_s - log_rest


class SquaresElementwise(Monotonic):
    r"""Sum-of-squares polynomial: the integral of a sum of squared polynomials, hence increasing.

    .. math:: u = c + \int_0^x \sum_{k} \Big(\sum_{l=0}^{r} a_{kl} t^l\Big)^2 dt

    In closed form, with its derivative; with ``k >= 2`` and enough degree it is universal on the interval
    ``[-tail_bound, tail_bound]``. Beyond it the map goes on linearly (a polynomial of a polynomial
    overflows at once in the tails). Zero parameters give the identity.

    Arguments:
        terms: squares in the sum, k.
        degree: r of each polynomial; ``terms * (degree + 1) + 1`` parameters.
        tail_bound: half-width of the interval; the data should be standardised.
        max_coefficient: soft bound on the coefficients a.

    Reference:
        Jaini et al., *Sum-of-Squares Polynomial Flow*, 2019, https://arxiv.org/abs/1905.02325
    """

    def __init__(
        self, terms: int = 4, degree: int = 3, tail_bound: float = 5.0, max_coefficient: float = 10.0
    ) -> None:
        super().__init__()
        self.max_coefficient = max_coefficient
        if not tail_bound > 0:
            raise ConfigError(f"tail_bound must be positive, received {tail_bound}")
        self.tail_bound = tail_bound
        if terms < 1 or degree < 0:
            raise ConfigError(f"terms must be 1 or more and degree 0 or more, received {terms}, {degree}")
        self.terms, self.degree = terms, degree
        self.n_params = terms * (degree + 1) + 1
        power = torch.arange(degree + 1)
        self.register_buffer("_sums", (power[:, None] + power[None, :]).flatten(), persistent=False)

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params[..., 0], params[..., 1:]
        # Softly bounded: far from the data a conditioner's output is large, and is squared in every layer.
        raw = raw / (1 + raw.abs() / self.max_coefficient)
        a = raw.unflatten(-1, (self.terms, self.degree + 1))
        first = torch.zeros_like(a[..., :1, :])
        # The first square starts as 1; the small floor keeps the slope away from zero.
        first[..., 0] = 1.0
        a = torch.cat((a[..., :1, :] + first, a[..., 1:, :]), dim=-2)
        inside = x.clamp(-self.tail_bound, self.tail_bound)
        powers = inside.unsqueeze(-1) ** torch.arange(2 * self.degree + 2, dtype=x.dtype, device=x.device)
        values = (a * powers[..., None, : self.degree + 1]).sum(-1)
        slope = values.square().sum(-1) + 1e-6
        # c_m = Σ_k Σ_{i+j=m} a_ki a_kj: coefficients of the sum of squares.
        products = (a.unsqueeze(-1) * a.unsqueeze(-2)).sum(-3).flatten(-2)
        sums: Tensor = self._sums  # type: ignore[assignment]
        coefficients = torch.zeros_like(powers[..., : 2 * self.degree + 1])
        coefficients = coefficients.index_add(-1, sums, products.expand(*coefficients.shape[:-1], -1))
        divisor = torch.arange(1, 2 * self.degree + 2, dtype=x.dtype, device=x.device)
        u = shift + (coefficients / divisor * powers[..., 1:]).sum(-1) + 1e-6 * inside
        return u + slope * (x - inside), slope.log()
