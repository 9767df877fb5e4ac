r"""A mixture of Gaussians with full covariances: every marginal and conditional in closed form.

.. math:: q(x_m \mid x_o) = \sum_k \frac{\pi_k N(x_o; \mu_{k,o}, \Sigma_{k,oo})}{q(x_o)}\,
    N\!\left(x_m;\ \mu_{k,m} + \Sigma_{k,mo} \Sigma_{k,oo}^{-1} (x_o - \mu_{k,o}),\
    \Sigma_{k,mm} - \Sigma_{k,mo} \Sigma_{k,oo}^{-1} \Sigma_{k,om}\right)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from modeflow.densities.base import Density
from modeflow.densities.leaf_kinds import category_at
from modeflow.errors import ConfigError
from modeflow.transforms.noise import normal_numbers, open_uniform

__all__ = ["GaussianMixture"]

#: Numbers of the matrices of rows, components and columns that are held at once.
_BLOCK = 2**22


class GaussianMixture(Density):
    r"""``q(x) = Σ_k π_k N(x; μ_k, Σ_k)`` of rows with missing cells (NaN), which are integrated out.

    Its numbers are given, not learned by gradient. Which cells a row lacks may differ from row to row.

    Arguments:
        weights: π, ``(K,)``. means: μ, ``(K, F)``. covariances: Σ, ``(K, F, F)``, positive definite.

    Raises:
        ConfigError: other shapes, or a covariance that is none.
    """

    leaves_out = True
    weights: Tensor
    means: Tensor
    covariances: Tensor
    factors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        super().__init__((means.shape[-1],))
        count, features = means.shape
        if weights.shape != (count,) or covariances.shape != (count, features, features):
            raise ConfigError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)} and covariances "
                f"{tuple(covariances.shape)} are of no mixture"
            )
        factors, wrong = torch.linalg.cholesky_ex(covariances)
        if bool(wrong.any()):
            raise ConfigError("a covariance is not positive definite")
        for name, value in (
            ("weights", weights / weights.sum()),
            ("means", means),
            ("covariances", covariances),
            ("factors", factors),
        ):
            self.register_buffer(name, value)

    @property
    def noise_width(self) -> int:
        """Uniform numbers that `drawn` takes for a row: for the component, and one a column."""
        return 1 + self.event_shape[0]

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        holes = x.isnan().any(1)
        if not bool(holes.any()):
            return self._joint(x).logsumexp(1)
        found = x.new_empty(len(x))
        found[~holes] = self._joint(x[~holes]).logsumexp(1)
        parts = [self._observed(part)[0].logsumexp(1) for part in self._blocks(x[holes])]
        found[holes] = torch.cat(parts)
        return found

    def _blocks(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(max(1, _BLOCK // self.covariances.numel()))

    def _joint(self, x: Tensor) -> Tensor:
        """``log π_k N(x; μ_k, Σ_k)`` of whole rows, ``(B, K)``."""
        found = []
        for weight, mean, factor in zip(self.weights, self.means, self.factors, strict=True):
            z = torch.linalg.solve_triangular(factor, (x - mean).mT, upper=False)
            found.append(weight.log() - factor.diagonal().log().sum() - 0.5 * z.square().sum(0))
        return torch.stack(found, 1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def _observed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``log π_k N(x_o; ...)`` of rows, ``(B, K)``, and the matrices that take what is observed to the
        mean of what is missing, ``Σ_mo Σ_oo⁻¹`` in the rows and columns of these, zero elsewhere,
        ``(B, K, F, F)``."""
        there = ~x.isnan()
        both = (there.unsqueeze(2) & there.unsqueeze(1)).unsqueeze(1)
        # A column that is missing is one of unit variance that has nothing to do with others.
        inner = torch.where(both, self.covariances, torch.diag_embed((~there).to(x)).unsqueeze(1))
        factor = torch.linalg.cholesky(inner)
        away = torch.where(there.unsqueeze(1), x.unsqueeze(1) - self.means, 0.0)
        z = torch.linalg.solve_triangular(factor, away.unsqueeze(-1), upper=False).squeeze(-1)
        size = there.sum(1, keepdim=True).to(x)
        volume = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = self.weights.log() - volume - 0.5 * z.square().sum(-1) - 0.5 * size * math.log(2 * math.pi)
        across = torch.where((there.unsqueeze(2) & ~there.unsqueeze(1)).unsqueeze(1), self.covariances, 0.0)
        return log_prob, torch.cholesky_solve(across, factor).mT

    @torch.no_grad()
    def drawn(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Completions of rows, and their density given the cells that are there.

        A whole row is drawn from the component, and what it lacks moved by what the observed cells are away
        from it: that is a draw of the conditional.

        Arguments:
            x: rows ``(B, F)``. noise: uniform numbers, ``(S, B, noise_width)``.

        Returns:
            full rows ``(S, B, F)``, and ``log q(x_m | x_o)``, nats, ``(S, B)``.
        """
        full, of_there, first = [], [], 0
        for block in self._blocks(x):
            log_prob, moves = self._observed(block)
            of_there.append(log_prob.logsumexp(1))
            full.append(self._completed(block, log_prob, moves, noise[:, first : first + len(block)]))
            first += len(block)
        rows = torch.cat(full, 1)
        log_q = self.log_prob(rows.flatten(0, 1)).view(rows.shape[:2]) - torch.cat(of_there)
        return rows, log_q

    def _completed(self, x: Tensor, log_prob: Tensor, moves: Tensor, noise: Tensor) -> Tensor:
        """Full rows ``(S, B, F)``."""
        draws, missing, b = len(noise), x.isnan(), torch.arange(len(x), device=x.device)
        k = category_at(log_prob.repeat(draws, 1), noise[..., 0].flatten()).view(draws, -1)
        normal = math.sqrt(2) * torch.erfinv(2 * noise[..., 1:].double() - 1).to(x)
        known, parts = torch.where(missing, 0.0, x), []
        size = max(1, _BLOCK // (len(x) * x.shape[1] ** 2))
        for which, some in zip(k.split(size), normal.split(size), strict=True):
            other = self.means[which] + (self.factors[which] @ some.unsqueeze(-1)).squeeze(-1)
            away = torch.where(missing, 0.0, known - other)
            moved = other + (moves[b, which] @ away.unsqueeze(-1)).squeeze(-1)
            parts.append(torch.where(missing, moved, known))
        return torch.cat(parts)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        level = open_uniform((n,), torch.float64, self.device, generator)
        k = category_at(self.weights.log().expand(n, -1), level)
        noise = normal_numbers((n, *self.event_shape), self.dtype, self.device, generator)
        return self.means[k] + (self.factors[k] @ noise.unsqueeze(-1)).squeeze(-1)
