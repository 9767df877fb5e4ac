"""``x + g(x)`` with g a contraction (i-ResNet, residual flows)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.nets.randomness import randn_like
from modeflow.transforms.base import Transform

__all__ = ["Contractive"]

_EXACT_UP_TO = 64


class Contractive(Transform):
    r"""``u = x + g(x, c)`` with Lipschitz constant L < 1 in x.

    .. math:: \log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k

    In evaluation mode the log-determinant is that of the Jacobian, up to 64 features. Beyond, and while
    training with more than `exact_features`, the series is estimated without bias: the first terms always,
    the others as often as a Poisson number of them says (Russian roulette), weighted by one over the
    probability; its gradient comes from the Neumann series of :math:`(I + J)^{-1}`, so that only one
    vector-Jacobian product keeps its graph.

    The inverse iterates ``x <- u - g(x)`` until the certificate ``L/(1-L) |last step|`` is small.

    Arguments:
        g: the network, with an attribute `bound`, L.
        features: D. context_features: width of the context.
        exact_features: largest D for which the log-determinant is exact while training too.
        sure_terms: terms that are always taken. rate: mean number of the others.

    Raises:
        ConfigError: if L is not below one; from `inverse`, if the iteration does not get there.

    Reference:
        Behrmann et al., *Invertible Residual Networks*, 2019, https://arxiv.org/abs/1811.00995;
        Chen et al., *Residual Flows*, 2019, https://arxiv.org/abs/1906.02735
    """

    one_pass_inverse = False
    repeatable = False

    def __init__(
        self,
        g: nn.Module,
        features: int,
        context_features: int = 0,
        exact_features: int = 6,
        sure_terms: int = 2,
        rate: float = 2.0,
    ) -> None:
        super().__init__()
        self.bound = float(g.bound)  # type: ignore[arg-type]
        if not 0 < self.bound < 1:
            raise ConfigError(f"a residual layer needs a Lipschitz bound below 1, received {self.bound}")
        self.g = g
        self.features, self.context_features = features, context_features
        self.exact_features, self.sure_terms, self.rate = exact_features, sure_terms, rate
        self.exactness = "exact" if features <= _EXACT_UP_TO else "estimate"

    def _call(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.g(x, context if self.context_features else None)

    def _jacobian(self, value: Tensor, x: Tensor, create_graph: bool) -> Tensor:
        """``∂g/∂x`` of each row, ``(B, D, D)``."""
        lines = [
            torch.autograd.grad(value[:, i].sum(), x, create_graph=create_graph, retain_graph=True)[0]
            for i in range(value.shape[1])
        ]
        return torch.stack(lines, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        track = torch.is_grad_enabled()
        exact = self.features <= (self.exact_features if self.training else _EXACT_UP_TO)
        with torch.enable_grad():
            at = x if track and x.requires_grad else x.detach().requires_grad_(True)
            value = self._call(at, context)
            if exact:
                eye = torch.eye(self.features, dtype=x.dtype, device=x.device)
                logabsdet = torch.linalg.slogdet(eye + self._jacobian(value, at, track)).logabsdet
            else:
                logabsdet = self._roulette(value, at, track)
        if not track:
            value, logabsdet = value.detach(), logabsdet.detach()
        return x + value, logabsdet

    def _roulette(self, value: Tensor, x: Tensor, track: bool) -> Tensor:
        """Unbiased estimate of the log-determinant, with an unbiased gradient."""
        noise = randn_like(x)
        extra = int(torch.poisson(torch.tensor(self.rate)))
        series = torch.zeros_like(x[:, 0])
        # v'J^k, and Σ (-1)^k c_k v'J^k for the gradient; none of these products keeps its graph.
        product, neumann = noise, noise.clone()
        for k in range(1, self.sure_terms + extra + 1):
            (product,) = torch.autograd.grad(value, x, product, retain_graph=True)
            weight = 1 / self.probability(k - self.sure_terms)
            series = series + (-1) ** (k + 1) / k * weight * (product * noise).sum(1)
            neumann = neumann + (-1) ** k * weight * product
        if not track:
            return series
        (last,) = torch.autograd.grad(value, x, neumann.detach(), create_graph=True)
        surrogate = (last * noise).sum(1)
        return series.detach() + surrogate - surrogate.detach()

    def probability(self, k: int) -> float:
        """``P(N >= k)`` for the Poisson number of terms beyond the sure ones."""
        if k <= 0:
            return 1.0
        # One minus the distribution function would lose all digits for large k.
        shape, rate = (
            torch.tensor(float(k), dtype=torch.float64),
            torch.tensor(self.rate, dtype=torch.float64),
        )
        return float(torch.special.gammainc(shape, rate))

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        wanted = 10 * torch.finfo(u.dtype).eps
        with torch.no_grad():
            x = u
            most = math.ceil(math.log(wanted * (1 - self.bound)) / math.log(self.bound)) + 50
            for _ in range(most):
                step = u - self._call(x, context) - x
                x = x + step
                size = 1 + x.abs().amax() if x.numel() else x.new_ones(())
                certificate = self.bound / (1 - self.bound) * (step.abs().amax() if x.numel() else 0.0)
                if bool(certificate <= wanted * size):
                    break
            else:
                # Rounding alone keeps the last steps from vanishing: that much is no failure.
                if not bool(certificate <= 1e3 * wanted * size):
                    raise ConfigError(
                        f"the inverse of a residual layer did not converge in {most} iterations "
                        f"(certificate {float(certificate):.1g}): lower its Lipschitz coefficient"
                    )
        if torch.is_grad_enabled():
            x = self._attach(x, u, context)
        return x, -self.forward(x, context)[1]

    def _attach(self, x: Tensor, u: Tensor, context: Tensor | None) -> Tensor:
        """The same value, with the gradient of the implicit function theorem."""
        at = x.detach().requires_grad_(True)
        matrix = self._jacobian(self._call(at, context), at, create_graph=False)
        eye = torch.eye(self.features, dtype=x.dtype, device=x.device)
        rest = x + self._call(x, context) - u
        return x - torch.linalg.solve((eye + matrix).detach(), rest.unsqueeze(-1)).squeeze(-1)
