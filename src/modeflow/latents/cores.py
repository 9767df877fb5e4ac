r"""Posteriors that are a point: z is a core of x, mapped one to one given all that is not core.

With x = (core c, shell s), L entries of core, and a map F that is monotone in every entry of c,

.. math:: z = F(c; s), \qquad
    \log p(x) = \log p(z) + \log p(s \mid z) + \log \Big|\det \frac{\partial F}{\partial c}\Big|

which is a change of variables and no bound. The encoder is the network of a VAE, which is shown x with its
core blotted out; the decoder is that of a VAE, whose word on the core is left out; the prior is any. So
`CorePosterior` stands where `GaussianPosterior` does, with the same networks: what an evidence lower bound
pays for by ``-log q(z | x)`` is paid here by ``log|det|``. It is an autoencoding flow where F is affine, and
a funnel, a flow that drops s, whatever F is.

Of whole numbers the core is made continuous by uniform noise first, and the density is a probability, by its
lower bound:

.. math:: \log P(x) \ge E_u \Big[\log p(z) + \log P(s \mid z) + \log \Big|\det \frac{\partial z}{\partial c}
    \Big|\Big], \qquad z = F\big(\Phi^{-1}((c + u) / \text{levels}); s\big)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.latents.approximate import Approximate, Posterior
from modeflow.latents.starting import Looked, as_rows
from modeflow.transforms import AffineElementwise, RQSplineElementwise
from modeflow.transforms.elementwise import Elementwise
from modeflow.transforms.noise import in_unit, uniform_noise

__all__ = ["CorePoint", "CorePosterior", "CoreStart", "FunnelPosterior", "pivots"]

#: Rows by which the core is chosen.
_ROWS = 2000


class CorePoint(Approximate):
    r"""z of every row, ``F(c)``, whose log-density as a draw is ``-log|det ∂F/∂c|``.

    Arguments:
        core: c, ``(B, L)``, whole numbers where there are `levels`. params: of F, ``(B, L, P)``.
        apply: F, entry by entry. levels: of an entry; None for a number.
    """

    def __init__(self, core: Tensor, params: Tensor, apply: Elementwise, levels: int | None) -> None:
        self.core, self.params, self._apply, self._levels = core, params, apply, levels

    @property
    def location(self) -> Tensor:  # type: ignore[override]
        return self._at(torch.full_like(self.core, 0.5))[0]

    def _at(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z, and ``log|det|``, with this noise within a whole number, ``(B, L)``."""
        y, cost = _raised(self.core, noise, self._levels)
        z, each = self._apply(y, self.params)
        return z, (each + cost).sum(-1)

    def rsample_and_log_prob(self) -> tuple[Tensor, Tensor]:
        z, logabsdet = self._at(self.core if self._levels is None else uniform_noise(self.core))
        return z, -logabsdet

    def log_prob(self, z: Tensor) -> Tensor:
        raise ConfigError("z is a function of x: its posterior is a point, which has no density")

    def repeated(self, times: int) -> CorePoint:
        params = self.params.repeat(times, 1, 1)
        return CorePoint(self.core.repeat(times, 1), params, self._apply, self._levels)

    @property
    def moment_draws(self) -> float:
        return math.inf if self._levels is None else super().moment_draws

    def moments(self) -> tuple[Tensor, Tensor]:
        if self._levels is not None:
            return super().moments()
        z = self.location
        return z, torch.zeros_like(z)


def _raised(core: Tensor, noise: Tensor, levels: int | None) -> tuple[Tensor, Tensor | float]:
    """Numbers of R for entries of the core, and the log-derivative of each."""
    if levels is None:
        return core, 0.0
    y = torch.special.ndtri(in_unit((core + noise) / levels, core.dtype))
    return y, 0.5 * (y.square() + math.log(2 * math.pi)) - math.log(levels)


class CorePosterior(Posterior):
    r"""Autoencoding flow: ``z = m(s) + e^{a(s)} ⊙ c``, a core of x given the shell of the others. Exact.

    .. math:: \log p(x) = \log p(z) + \log p(s \mid z) + \textstyle\sum_j a_j(s)

    What is core is chosen from the rows by `CoreStart`, or by hand (`core`).

    Arguments:
        latent_features: L, fewer than the entries of x.
        make_net: from a number of outputs to the network from all of x to so many numbers.

    Attributes:
        core: which entries of x, flat, are coded, ``(L,)``; the first ones until they are chosen.

    Reference:
        Silvestri et al., *Deterministic training of generative autoencoders using invertible layers*, 2023,
        https://arxiv.org/abs/2205.09546
    """

    closed_kl = False
    starts = False
    point = True
    core: Tensor

    def __init__(self, latent_features: int, make_net: Callable[[int], nn.Module]) -> None:
        super().__init__(latent_features, make_net)
        self.register_buffer("core", torch.arange(latent_features))
        self.apply_to = self._map()

    @staticmethod
    def _map() -> Elementwise:
        """F, entry by entry."""
        return AffineElementwise()

    @classmethod
    def outputs(cls, latent_features: int) -> int:
        return latent_features * cls._map().n_params

    def check(self, likelihood: Density, prior: Density) -> None:
        super().check(likelihood, prior)
        entries = math.prod(likelihood.event_shape)
        if not likelihood.leaves_out:
            raise ConfigError(
                f"{type(self).__name__} needs a likelihood whose entries are independent given z, which "
                f"leaves out those that z codes; {type(likelihood).__name__} does not: take a decoder "
                "(likelihood='gaussian', 'bernoulli', 'logistic')"
            )
        if self.latent_features >= entries:
            raise ConfigError(
                f"z codes some of the entries of x given the others: features must be below {entries}, "
                f"received {self.latent_features}"
            )

    def seen(self, x: Tensor) -> Tensor:
        return x.flatten(1).index_fill(1, self.core, math.nan).view_as(x)

    def approximate(self, x: Tensor, likelihood: Density, prior: Density) -> CorePoint:
        flat, levels = x.flatten(1), likelihood.levels
        params = self._params(flat, x.shape[1:], levels)
        return CorePoint(flat.index_select(1, self.core), params, self.apply_to, levels)

    def fill(self, x: Tensor, z: Tensor, levels: int | None) -> Tensor:
        flat = x.flatten(1)
        core, _ = self.apply_to.inverse(z, self._params(flat, x.shape[1:], levels))
        if levels is not None:
            core = (levels * torch.special.ndtr(core)).floor().clamp(0, levels - 1)
        return flat.index_copy(1, self.core, core.to(flat)).view_as(x)

    def _params(self, flat: Tensor, event: torch.Size, levels: int | None) -> Tensor:
        """Of F, by what the network says of x without its core, ``(B, L, P)``."""
        blot = 0.0 if levels is None else (levels - 1) / 2
        numbers: Tensor = self.net(flat.index_fill(1, self.core, blot).view(len(flat), *event))
        return numbers.unflatten(1, (self.latent_features, -1))


class _Bent(Elementwise):
    """A monotone spline on ±5, then an affine map."""

    def __init__(self) -> None:
        super().__init__()
        self.spline, self.affine = RQSplineElementwise(tail_bound=5.0), AffineElementwise()
        self.n_params = self.spline.n_params + self.affine.n_params

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor]:
        of_spline, of_affine = params.split([self.spline.n_params, self.affine.n_params], -1)
        return of_spline, of_affine

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        of_spline, of_affine = self._split(params)
        bent, first = self.spline(x, of_spline)
        u, second = self.affine(bent, of_affine)
        return u, first + second

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        of_spline, of_affine = self._split(params)
        bent, second = self.affine.inverse(u, of_affine)
        x, first = self.spline.inverse(bent, of_spline)
        return x, first + second


class FunnelPosterior(CorePosterior):
    r"""Funnel: `CorePosterior` whose map F is a monotone spline, given the shell. Exact.

    .. math:: \log p(x) = \log p(z) + \log p(s \mid z) + \log|\det \partial F / \partial c|

    Reference:
        Klein et al., *Funnels: Exact maximum likelihood with dimensionality reduction*, 2021,
        https://arxiv.org/abs/2112.08069
    """

    @staticmethod
    def _map() -> Elementwise:
        return _Bent()


class CoreStart:
    """Chooses the core of a `CorePosterior`: the entries that linearly say most of the others (`pivots`).

    Of rows all of which agree on more entries than are left, it takes the first of these too.
    """

    rows: ClassVar[int] = _ROWS

    def __call__(self, model: Any, rows: Tensor | Looked, seed: int, steps: int | None = None) -> None:
        every = as_rows(rows)
        if len(every) < 2:
            return
        some = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[: self.rows]
        x = every[some.to(every.device)].flatten(1).double()
        model.encoder.core.copy_(pivots(x, model.latent_features))


def pivots(x: Tensor, count: int) -> Tensor:
    """Columns of rows ``(N, D)`` by the pivots of a Cholesky factor of their covariance, ``(count,)``.

    The first has the largest variance; each next one the largest that is left given those before.
    """
    centred = x - x.mean(0)
    left = centred.square().sum(0)
    chosen: list[int] = []
    for _ in range(count):
        best = int(left.argmax())
        chosen.append(best)
        direction = centred[:, best]
        if float(left[best]) > 0:
            centred = centred - torch.outer(direction, direction @ centred / (direction @ direction))
        left = centred.square().sum(0)
        left[chosen] = -1.0
    return torch.tensor(chosen, device=x.device)
