"""Densities by the chain rule: each feature given those before it, by a masked network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.densities.base import Density
from modeflow.errors import ConfigError, nearest
from modeflow.nets.agnostic import AgnosticMADE
from modeflow.nets.randomness import stream
from modeflow.transforms.noise import normal_numbers, open_uniform
from modeflow.transforms.surjections import soft_log_scale

__all__ = ["CONDITIONALS", "AutoregressiveDensity"]


class Conditional(nn.Module):
    """Contract: the density of one entry given its parameters ``(..., n_params)``, and its sampler."""

    n_params: int

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        raise NotImplementedError

    def sample(self, params: Tensor, uniform: Tensor, normal: Tensor, temperature: float = 1.0) -> Tensor:
        """An entry from its parameters, one uniform and one standard normal number, at a temperature."""
        raise NotImplementedError


class GaussianConditional(Conditional):
    """``N(μ, e^{2s})``: two parameters."""

    n_params = 2

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        mean, raw = params.unbind(-1)
        s = soft_log_scale(raw)
        return -0.5 * ((x - mean) * torch.exp(-s)).square() - s - 0.5 * math.log(2 * math.pi)

    def sample(self, params: Tensor, uniform: Tensor, normal: Tensor, temperature: float = 1.0) -> Tensor:
        mean, raw = params.unbind(-1)
        return mean + temperature * torch.exp(soft_log_scale(raw)) * normal


class MixtureConditional(Conditional):
    """A mixture of M Gaussians: M weights, means and log-scales."""

    def __init__(self, components: int) -> None:
        super().__init__()
        if components < 1:
            raise ConfigError(f"components must be 1 or more, received {components}")
        self.n_params = 3 * components
        # Components start apart (equal ones would get equal gradients for ever), together of variance one.
        offset = torch.linspace(-0.7, 0.7, components) if components > 1 else torch.zeros(1)
        self.register_buffer("offset", offset, persistent=False)
        self.log_scale = 0.5 * math.log(1 - float(offset.square().mean()))

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, means, raw = params.chunk(3, dim=-1)
        offset: Tensor = self.offset  # type: ignore[assignment]
        scale = self.log_scale + soft_log_scale(raw)
        return torch.log_softmax(logits, -1), means + offset.to(params.dtype), scale

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        log_weight, mean, s = self._split(params)
        z = (x.unsqueeze(-1) - mean) * torch.exp(-s)
        return torch.logsumexp(log_weight - 0.5 * z.square() - s, -1) - 0.5 * math.log(2 * math.pi)

    def sample(self, params: Tensor, uniform: Tensor, normal: Tensor, temperature: float = 1.0) -> Tensor:
        log_weight, mean, s = self._split(params)
        below = log_weight.exp().cumsum(-1) < uniform.unsqueeze(-1).to(params.dtype)
        index = below.sum(-1, keepdim=True).clamp_max(mean.shape[-1] - 1)
        spread = temperature * s.gather(-1, index).squeeze(-1).exp()
        return mean.gather(-1, index).squeeze(-1) + spread * normal


class BernoulliConditional(Conditional):
    """A binary entry: one logit. `log_prob` is then the logarithm of a probability."""

    n_params = 1

    def log_prob(self, x: Tensor, params: Tensor) -> Tensor:
        logit = params[..., 0]
        return x * F.logsigmoid(logit) + (1 - x) * F.logsigmoid(-logit)

    def sample(self, params: Tensor, uniform: Tensor, normal: Tensor, temperature: float = 1.0) -> Tensor:
        if temperature == 0:
            return (params[..., 0] > 0).to(params.dtype)
        # The two probabilities raised to 1 / temperature.
        return (uniform < torch.sigmoid(params[..., 0] / temperature)).to(params.dtype)


CONDITIONALS = ("gaussian", "mixture", "bernoulli")


class AutoregressiveDensity(Density):
    r"""``p(x) = Π_d p(x_d | x_{<d}, c)`` with the parameters of all conditionals from one MADE.

    With several masks (orders and connectivities) that share their weights, the density is their mixture
    with equal weights, which is still exact:

    .. math:: p(x) = \frac{1}{M} \sum_{k=1}^{M} \prod_d p_k(x_d \mid x_{\text{before } d \text{ in order } k})

    While training, each batch uses one mask in turn of chance. Density one pass a mask, sampling D passes, in
    which a temperature multiplies the scale of every Gaussian, or is that of every binary entry.

    Arguments:
        features: D.
        conditional: ``"gaussian"``, ``"mixture"`` (of `components` Gaussians) or ``"bernoulli"``.
        hidden_features: widths of the hidden layers.
        context_features: width of the context.
        n_masks: orders and connectivities.
        seed: of the masks.

    Reference:
        Germain et al., *MADE*, 2015, https://arxiv.org/abs/1502.03509
    """

    tempers = True

    def __init__(
        self,
        features: int,
        context_features: int = 0,
        conditional: str = "gaussian",
        hidden_features: Sequence[int] = (64, 64),
        components: int = 10,
        n_masks: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__((features,), context_features)
        if conditional not in CONDITIONALS:
            raise ConfigError(
                f"conditional must be one of {', '.join(CONDITIONALS)}; received {conditional!r}"
                f"{nearest(conditional, CONDITIONALS)}"
            )
        kinds = {
            "gaussian": GaussianConditional,
            "mixture": lambda: MixtureConditional(components),
            "bernoulli": BernoulliConditional,
        }
        self.conditional: Conditional = kinds[conditional]()  # type: ignore[operator]
        self.net = AgnosticMADE(
            features, self.conditional.n_params, hidden_features, context_features, n_masks, seed=seed
        )

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        n = self.net.n_masks
        if self.training and n > 1:
            # One mask a batch: the loss is then an unbiased estimate of its mean over masks, a bound.
            return self._under(x, context, int(torch.randint(n, (), generator=stream(torch.device("cpu")))))
        parts = [self._under(x, context, k) for k in range(n)]
        return parts[0] if n == 1 else torch.logsumexp(torch.stack(parts), 0) - math.log(n)

    def _under(self, x: Tensor, context: Tensor | None, mask: int) -> Tensor:
        return self.conditional.log_prob(x, self.net(x, context, mask)).sum(-1)

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        features, where = self.event_shape[0], generator.device if generator is not None else self.device
        uniform = open_uniform((n, features), self.dtype, self.device, generator)
        normal = normal_numbers((n, features), self.dtype, self.device, generator)
        which = torch.randint(self.net.n_masks, (n,), generator=generator, device=where).to(self.device)
        x = torch.zeros(n, features, dtype=self.dtype, device=self.device)
        for k in range(self.net.n_masks):
            rows = torch.nonzero(which == k).flatten()
            if len(rows) == 0:
                continue
            part = x[rows]
            given = None if context is None else context[rows]
            for d in self.net.orders[k].tolist():
                params = self.net(part, given, k)[:, d]
                column = self.conditional.sample(params, uniform[rows, d], normal[rows, d], temperature)
                part = part.index_copy(1, torch.tensor([d], device=x.device), column.unsqueeze(1))
            x[rows] = part
        return x
