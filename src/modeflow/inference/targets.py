r"""Targets: log-densities that are known up to a constant, ``log p(x) = log p̃(x) - log Z``.

A target is anything that maps ``(B, *event)`` to ``(B,)`` by operations of torch: a function, or an object
with such a `log_prob`. Those of this file are the ones of the literature, with what is known exactly of each.

============  ==============================================  =============================
name          density                                         known
============  ==============================================  =============================
``u1``        a ring with two thick sides                     log Z by quadrature, samples
``u2``        a sine wave                                     log Z, samples
``u3``        the wave, parted by a bump                      log Z, samples
``u4``        the wave, parted by a step                      log Z, samples
``funnel``    a Gaussian whose width is another's exponent    log Z = 0, spreads, samples
``banana``    a Gaussian bent along a parabola                log Z = 0, spreads, samples
``mixture``   Gaussian islands, on a ring if not given        log Z = 0, spreads, samples
============  ==============================================  =============================
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from modeflow.densities.steps import normal_like, where_drawn
from modeflow.errors import ConfigError, nearest
from modeflow.options import check_positive, check_sizes

__all__ = ["TARGETS", "LogProb", "Target", "as_target", "check_log_prob", "check_tensor", "named_target"]

#: ``(B, *event) -> (B,)``, nats, up to a constant.
LogProb = Callable[[Tensor], Tensor]

_LOG_2PI = math.log(2 * math.pi)


class Target:
    """A density that is known up to a constant.

    Arguments:
        log_prob: ``(B, *event_shape) -> (B,)``, nats, up to a constant.
        event_shape: shape of one event.
        name: for people.
        log_normalizer: log Z, where it is known.
        confinement: what was added to make the target integrable, in words; empty where nothing was.
        marginal_sds: standard deviation of every coordinate, ``event_shape``, where they are known.
        sampler: ``(n, generator) -> (n, *event_shape)``, exact draws, where there are such.
    """

    def __init__(
        self,
        log_prob: LogProb,
        event_shape: Sequence[int],
        name: str = "target",
        log_normalizer: float | Callable[[], float] | None = None,
        confinement: str = "",
        marginal_sds: Tensor | None = None,
        sampler: Callable[[int, torch.Generator | None], Tensor] | None = None,
    ) -> None:
        self._log_prob = log_prob
        self.event_shape = tuple(int(n) for n in event_shape)
        self.name = name
        self._log_normalizer = log_normalizer
        self.confinement = confinement
        self.marginal_sds = marginal_sds
        self._sampler = sampler

    def __repr__(self) -> str:
        return f"Target({self.name!r}, event_shape={self.event_shape})"

    @property
    def log_normalizer(self) -> float | None:
        """log Z, nats; None where it is not known."""
        if callable(self._log_normalizer):
            self._log_normalizer = self._log_normalizer()
        return self._log_normalizer

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-density up to a constant, nats: ``(B, *event_shape) -> (B,)``."""
        return self._log_prob(x)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws ``(n, *event_shape)``, float64.

        Raises:
            ConfigError: where there is no exact sampler.
        """
        if self._sampler is None:
            raise ConfigError(f"target '{self.name}' has no exact sampler: use modeflow.inference.hmc")
        return self._sampler(n, generator)


# -- energies of Rezende and Mohamed ---------------------------------------------------------------

#: Half-width of the strip |z1| <= 4 that U2 to U4 are confined to, and the softness of its ends.
_EDGE, _SOFT = 4.0, 0.2
_CONFINED = "|z1| <= 4, softly: 1/2 (max(|z1| - 4, 0) / 0.2)^2 is added to the energy"
#: Length of the strip with its soft ends: the integral over z1 of exp(-confinement).
_STRIP = 2 * _EDGE + math.sqrt(2 * math.pi) * _SOFT


def _square(x: Tensor, mean: Tensor | float, sd: float) -> Tensor:
    return -0.5 * ((x - mean) / sd).square()


def _u1(z: Tensor) -> Tensor:
    # The small number keeps the gradient of the norm finite at the origin.
    radius = (z.square().sum(-1) + 1e-24).sqrt()
    sides = torch.logaddexp(_square(z[:, 0], 2.0, 0.6), _square(z[:, 0], -2.0, 0.6))
    return _square(radius, 2.0, 0.4) + sides


def _u1_log_normalizer() -> float:
    """In polar coordinates, by the trapezoidal rule, which is exact to rounding for a smooth decay."""
    radius = torch.linspace(0, 8, 4001, dtype=torch.float64)
    angle = torch.arange(512, dtype=torch.float64) * (2 * math.pi / 512)
    r, a = torch.cartesian_prod(radius, angle).unbind(1)
    density = r * _u1(torch.stack((r * a.cos(), r * a.sin()), 1)).exp()
    return math.log(float(density.sum()) * (8 / 4000) * (2 * math.pi / 512))


def _u1_sample(n: int, generator: torch.Generator | None) -> Tensor:
    """By rejection: r from N(2, 0.4²) within (0, 6), weighed by r, and the angle by the sides."""
    found: list[Tensor] = []
    while sum(map(len, found)) < n:
        like = torch.empty(16 * n + 64, dtype=torch.float64)
        radius = 2 + 0.4 * normal_like(like, generator)
        angle, level = (where_drawn(torch.rand, like.shape, like, generator) for _ in range(2))
        angle = 2 * math.pi * angle
        z = torch.stack((radius * angle.cos(), radius * angle.sin()), 1)
        sides = torch.logaddexp(_square(z[:, 0], 2.0, 0.6), _square(z[:, 0], -2.0, 0.6)).exp()
        # The sides sum to at most 1 + exp(-(4 / 0.6)² / 2).
        share = radius / 6 * sides / (1 + math.exp(-0.5 * (4 / 0.6) ** 2))
        found.append(z[(radius > 0) & (radius < 6) & (level < share)])
    return torch.cat(found)[:n]


def _w1(z1: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * z1)


def _w2(z1: Tensor) -> Tensor:
    return 3 * torch.exp(-0.5 * ((z1 - 1) / 0.6).square())


def _w3(z1: Tensor) -> Tensor:
    return 3 * torch.sigmoid((z1 - 1) / 0.3)


#: Of each wave its branches: from z1 to the middle of z2, and the standard deviation around it.
_WAVES: dict[str, tuple[tuple[Callable[[Tensor], Tensor], float], ...]] = {
    "u2": ((_w1, 0.4),),
    "u3": ((_w1, 0.35), (lambda z: _w1(z) - _w2(z), 0.35)),
    "u4": ((_w1, 0.4), (lambda z: _w1(z) - _w3(z), 0.35)),
}


def _wave(name: str) -> Target:
    branches = _WAVES[name]
    sds = torch.tensor([sd for _, sd in branches], dtype=torch.float64)

    def log_prob(z: Tensor) -> Tensor:
        each = torch.stack([_square(z[:, 1], middle(z[:, 0]), sd) for middle, sd in branches])
        outside = (z[:, 0].abs() - _EDGE).clamp_min(0) / _SOFT
        return torch.logsumexp(each, 0) - 0.5 * outside.square()

    def sample(n: int, generator: torch.Generator | None) -> Tensor:
        like = torch.empty(n, dtype=torch.float64)
        along, which = (where_drawn(torch.rand, like.shape, like, generator) for _ in range(2))
        beyond, noise = (normal_like(like, generator) for _ in range(2))
        # z1: even on [-4, 4], or half a Gaussian beyond one of the ends, by their lengths.
        place = along * _STRIP - 0.5 * _STRIP
        end = place.sign() * (_EDGE + _SOFT * beyond.abs())
        z1 = torch.where(place.abs() <= _EDGE, place, end)
        branch = torch.searchsorted(sds.cumsum(0) / sds.sum(), which).clamp_max(len(sds) - 1)
        middles = torch.stack([middle(z1) for middle, _ in branches])
        z2 = middles.gather(0, branch[None])[0] + sds[branch] * noise
        return torch.stack((z1, z2), 1)

    log_z = 0.5 * _LOG_2PI + math.log(float(sds.sum())) + math.log(_STRIP)
    return Target(log_prob, (2,), name, log_z, _CONFINED, None, sample)


# -- others ----------------------------------------------------------------------------------------


def _funnel(features: int = 2, scale: float = 1.0) -> Target:
    check_sizes(features=features - 1)
    check_positive("scale", scale)

    def log_prob(x: Tensor) -> Tensor:
        v, rest = x[:, 0], x[:, 1:]
        widths = -0.5 * rest.square() * torch.exp(-2 * v).unsqueeze(1) - v.unsqueeze(1) - 0.5 * _LOG_2PI
        return _square(v, 0.0, scale) - math.log(scale) - 0.5 * _LOG_2PI + widths.sum(1)

    def sample(n: int, generator: torch.Generator | None) -> Tensor:
        noise = normal_like(torch.empty(n, features, dtype=torch.float64), generator)
        v = scale * noise[:, :1]
        return torch.cat((v, v.exp() * noise[:, 1:]), 1)

    sds = torch.full((features,), math.exp(scale**2), dtype=torch.float64)
    sds[0] = scale
    return Target(log_prob, (features,), "funnel", 0.0, "", sds, sample)


def _banana(scale: float = 10.0, curvature: float = 0.02) -> Target:
    check_positive("scale", scale)
    middle = curvature * scale**2

    def log_prob(x: Tensor) -> Tensor:
        bent = x[:, 1] - curvature * x[:, 0].square() + middle
        return _square(x[:, 0], 0.0, scale) + _square(bent, 0.0, 1.0) - math.log(scale) - _LOG_2PI

    def sample(n: int, generator: torch.Generator | None) -> Tensor:
        noise = normal_like(torch.empty(n, 2, dtype=torch.float64), generator)
        first = scale * noise[:, 0]
        return torch.stack((first, noise[:, 1] + curvature * first.square() - middle), 1)

    sds = torch.tensor([scale, math.sqrt(1 + 2 * curvature**2 * scale**4)], dtype=torch.float64)
    return Target(log_prob, (2,), "banana", 0.0, "", sds, sample)


def _mixture(
    means: Any = None, sds: Any = 0.5, weights: Any = None, islands: int = 8, radius: float = 5.0
) -> Target:
    check_sizes(islands=islands)
    if means is None:
        angle = torch.arange(islands, dtype=torch.float64) * (2 * math.pi / islands)
        means = radius * torch.stack((angle.cos(), angle.sin()), 1)
    centre = torch.as_tensor(means, dtype=torch.float64)
    if centre.dim() != 2 or not len(centre):
        raise ConfigError(f"mixture: means need shape (islands, features), received {tuple(centre.shape)}")
    k, d = centre.shape
    scale = torch.as_tensor(sds, dtype=torch.float64).expand(k)
    share = torch.full((k,), 1 / k) if weights is None else torch.as_tensor(weights)
    if share.shape != (k,) or not bool((share > 0).all()) or not bool((scale > 0).all()):
        raise ConfigError(f"mixture: {k} islands need as many weights and sds, all above 0")
    share = share.double() / share.double().sum()

    def log_prob(x: Tensor) -> Tensor:
        mean, sd, weight = (part.to(x) for part in (centre, scale, share))
        away = (x.unsqueeze(1) - mean).square().sum(-1) / sd.square()
        return torch.logsumexp(weight.log() - 0.5 * away - d * (sd.log() + 0.5 * _LOG_2PI), 1)

    def sample(n: int, generator: torch.Generator | None) -> Tensor:
        noise = normal_like(torch.empty(n, d, dtype=torch.float64), generator)
        which = where_drawn(torch.rand, (n,), noise, generator)
        island = torch.searchsorted(share.cumsum(0), which).clamp_max(k - 1)
        return centre[island] + scale[island, None] * noise

    middle = share @ centre
    variance = share @ (centre.square() + scale.square().unsqueeze(1)) - middle.square()
    return Target(log_prob, (d,), "mixture", 0.0, "", variance.sqrt(), sample)


#: Targets by name; options are those of the functions.
TARGETS: Mapping[str, Callable[..., Target]] = {
    "u1": lambda: Target(_u1, (2,), "u1", _u1_log_normalizer, "", None, _u1_sample),
    "u2": functools.partial(_wave, "u2"),
    "u3": functools.partial(_wave, "u3"),
    "u4": functools.partial(_wave, "u4"),
    "funnel": _funnel,
    "banana": _banana,
    "mixture": _mixture,
}


def named_target(name: str, **options: Any) -> Target:
    r"""A target of the literature by its name.

    The energies U1 to U4 (:math:`\tilde p = e^{-U}`) are those of Rezende and Mohamed, table 1. U2 to U4 do
    not depend on z1 but through the middle of z2, so that :math:`e^{-U}` has no integral over the plane: here
    they are confined to the strip |z1| <= 4 with soft ends (`Target.confinement`). The funnel is
    ``x_1 ~ N(0, scale²)``, ``x_i | x_1 ~ N(0, e^{2 x_1})``; the banana
    ``x_1 ~ N(0, scale²)``, ``x_2 | x_1 ~ N(curvature (x_1² - scale²), 1)``.

    Arguments:
        name: one of `TARGETS`.
        options: of ``funnel`` `features`, `scale`; of ``banana`` `scale`, `curvature`; of ``mixture`` `means`
            ``(K, D)``, `sds` and `weights`, or `islands` and `radius` of a ring.

    Raises:
        ConfigError: for an unknown name or option, or a value that is not allowed.

    Reference:
        Rezende and Mohamed, *Variational Inference with Normalizing Flows*, 2015,
        https://arxiv.org/abs/1505.05770
        Zhang, Blei and Naesseth, *Transport Score Climbing*, 2022, https://arxiv.org/abs/2202.01841
    """
    if name not in TARGETS:
        known = ", ".join(TARGETS)
        raise ConfigError(f"target {name!r} is not known{nearest(str(name), TARGETS)} (one of {known})")
    try:
        return TARGETS[name](**options)
    except TypeError as error:
        raise ConfigError(f"target '{name}': {error}") from error


def as_target(target: Any, event_shape: Sequence[int] | int | None = None) -> Target:
    """A target of a name, of an object with `log_prob`, or of a function ``(B, *event) -> (B,)``.

    Arguments:
        target: one of these. event_shape: of an event, where the target does not say.

    Raises:
        ConfigError: something else, or a target whose shape nobody knows.
    """
    if isinstance(target, str):
        return named_target(target)
    if isinstance(target, Target):
        return target
    log_prob = getattr(target, "log_prob", target)
    if not callable(log_prob):
        raise ConfigError(
            "the target must be a name, a function of (B, *event) or an object with log_prob, received "
            f"{target!r}"
        )
    shape = (event_shape,) if isinstance(event_shape, int) else event_shape
    shape = getattr(target, "event_shape", None) if shape is None else shape
    if shape is None:
        raise ConfigError("the target does not say what it takes: pass event_shape=(D,)")
    return Target(log_prob, tuple(shape), getattr(log_prob, "__name__", "target"))


def check_tensor(name: str, value: Any) -> None:
    """Raise `ConfigError` where an argument is no tensor."""
    if not isinstance(value, Tensor):
        raise ConfigError(f"{name} must be a tensor, received {type(value).__name__}: torch.as_tensor(...)")


def check_log_prob(log_prob: LogProb, x: Tensor) -> None:
    """Whether a user's function can be used as a log-density, on some rows ``(B, *event)``.

    Raises:
        ConfigError: it returns another shape than ``(B,)``, is finite nowhere, or gives no gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        value = log_prob(x)
        if not isinstance(value, Tensor) or tuple(value.shape) != (len(x),):
            received = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"the target must map {tuple(x.shape)} to ({len(x)},), one number a row; received {received}"
            )
        if not bool(value.isfinite().any()):
            raise ConfigError(
                f"the target is finite at none of {len(x)} rows: start where it has density (start=rows)"
            )
        if not value.requires_grad:
            raise ConfigError(
                "the target gives no gradient: write it with operations of torch on its argument"
            )
        (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        if gradient is None:
            raise ConfigError("the target does not depend on its argument: its gradient is none")
