"""Flows whose density is a lower bound because a layer draws: CIF, and AEF with an external code."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from modeflow.densities.base import Loss, weighted_mean
from modeflow.densities.bounded import BoundedFlow
from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows.recipes import recipe
from modeflow.flows.spline import spline_layer
from modeflow.flows.stack import check_sizes, context_layers, stack_layers
from modeflow.nets import ResidualMLP
from modeflow.transforms import (
    AffineElementwise,
    Augment,
    Composite,
    Coupling,
    Indexed,
    LULinear,
    Permutation,
    Subset,
    Transform,
)

__all__ = ["AEF", "CIF", "NoisyAEF"]


@recipe("cif", "Cornish et al. 2020, arXiv:1909.13833", density="lower bound", log_prob="1 pass a draw (16)")
def CIF(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 4,
    index_features: int = 2,
    hidden_features: int = 64,
    blocks: int = 2,
    bins: int = 8,
    draws: int = 16,
    context_affine: str = "auto",
    seed: int = 0,
) -> BoundedFlow:
    """Continuously indexed flow: every layer has a latent index of its own. A lower bound.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of layers, each a spline coupling with an index.
        index_features: width of each index.
        hidden_features, blocks, bins: of the couplings, as in `NSF`; the index has networks as wide.
        draws: of the indices over which `log_prob` averages.
        context_affine, seed: as in `NSF`.

    Reference:
        Cornish et al., *Relaxing Bijectivity Constraints with Continuously Indexed Normalising Flows*, 2020,
        https://arxiv.org/abs/1909.13833
    """
    check_sizes(
        features=features, layers=layers, index_features=index_features, hidden_features=hidden_features
    )
    generator = torch.Generator().manual_seed(seed)
    spline = spline_layer(features, context_features, hidden_features, blocks, bins)

    def net(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden_features, context, 1)

    parts = context_layers(features, context_features, context_affine)
    for i in range(layers):
        order = [Permutation.random(features, generator)] if features > 1 else []
        inner = Composite([*order, LULinear(features), spline(i)])
        parts.append(Indexed(inner, features, index_features, net, context_features))
    return BoundedFlow(Composite(parts), StandardNormal(features), context_features, draws=draws)


def _code_layers(
    features: int,
    core: Tensor,
    context_features: int,
    layers: int,
    hidden_features: int,
    bins: int,
    generator: torch.Generator,
) -> list[Transform]:
    """Encoder, decoder and the flows of the code: ``(core, shell) -> (z, deviation)``."""
    latent = len(core)
    shell = torch.ones(features, dtype=torch.bool)
    shell[core] = False

    def net(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden_features, context, 2)

    def flow() -> list[Transform]:
        spline = spline_layer(latent, context_features, hidden_features, 1, bins)
        return stack_layers(latent, layers, spline, "lu", generator)

    if latent == features:
        return flow()
    return [
        Subset(features, core, Composite(flow())),
        Coupling(shell, AffineElementwise(), net, context_features),
        Coupling(~shell, AffineElementwise(), net, context_features),
        Subset(features, core, Composite(flow())),
    ]


def _latent(latent: int | None, features: int) -> int:
    size = max(1, features // 2) if latent is None else latent
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= features:
        raise ConfigError(f"latent must be an integer from 1 to features ({features}), received {latent!r}")
    return size


@recipe("aef", "Silvestri et al. 2023, arXiv:2205.09546")
def AEF(
    features: int,
    context_features: int = 0,
    *,
    latent: int | None = None,
    layers: int = 4,
    hidden_features: int = 64,
    bins: int = 8,
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    r"""Autoencoding flow, the exact internal variant: a core of features is coded given the others.

    .. math:: z_1 = \mu_e(s) + \sigma_e(s) f(c), \quad \delta = \frac{s - \mu_d(z_1)}{\sigma_d(z_1)}, \quad
        z_0 = g(z_1)

    Arguments:
        features, context_features: widths of data and context.
        latent: features of the core, drawn from `seed`; half of them if None.
        layers: spline couplings of f and of g. hidden_features, bins: widths, and bins of the splines.
        context_affine: first an affine map per context, as in `NSF`.
        seed: of the choice of the core and the permutations.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Silvestri et al., *Deterministic training of generative autoencoders using invertible layers*, 2023,
        https://arxiv.org/abs/2205.09546
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, bins=bins)
    generator = torch.Generator().manual_seed(seed)
    parts = context_layers(features, context_features, context_affine)
    # The permutation is stored with the model, and chooses the core: its first features.
    parts += [Permutation.random(features, generator)] if features > 1 else []
    core = torch.arange(_latent(latent, features))
    parts += _code_layers(features, core, context_features, layers, hidden_features, bins, generator)
    return Flow(Composite(parts), StandardNormal(features), context_features)


class Measurement(nn.Module):
    """``(W x, log τ)``: mean and log-scale of noisy linear measurements."""

    def __init__(self, features: int, outputs: int, noise: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs, bias=False)
        self.log_noise = math.log(noise)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        mean = self.linear(x)
        # Through the soft bound on log-scales (see `soft_log_scale`), to come out as log τ.
        raw = self.log_noise / (1 - abs(self.log_noise) / 7.0)
        return torch.cat((mean, torch.full_like(mean, raw)), 1)


class CodedFlow(BoundedFlow):
    r"""A bounded flow whose code costs less in the first steps of training, as in a VAE.

    .. math:: -\log p(x \mid z) + \beta\,(\log q(z \mid x) - \log p(z))

    An encoder that sees all of x can make the code forget it, at once and for nothing, before the decoder has
    learned to read the code: the bound stays at a decoder without one. While β rises from 0 to 1 there is
    nothing to be gained by that.

    Arguments:
        transform: layers, those of `before`, then what adds the code behind the features, then others.
        features: of x. before: layers that come before the code. decoder: the layer of ``p(x | z)``.
        kl_warmup_steps: optimiser steps over which β rises. draws, context_features: as of `BoundedFlow`.
    """

    def __init__(
        self,
        transform: Composite,
        features: int,
        context_features: int,
        draws: int,
        before: int,
        decoder: int,
        kl_warmup_steps: int,
    ) -> None:
        size = features + sum(part.extra for part in transform.transforms if isinstance(part, Augment))
        super().__init__(transform, StandardNormal(size), context_features, (features,), draws)
        self.before, self.decoder, self.kl_warmup_steps = before, decoder, kl_warmup_steps

    def objective(self, x: Tensor, weight: Tensor | None = None, step: int | None = None) -> Loss:
        beta = 1.0 if step is None else min(1.0, (step + 1) / max(1, self.kl_warmup_steps))
        if beta == 1.0 or self.context_features:
            return super().objective(x, weight, step)
        self._check_event(x)
        features, h = self.event_shape[0], x
        of_rows = of_code = x.new_zeros(len(x))
        assert isinstance(self.transform, Composite)
        for i, part in enumerate(self.transform.transforms):
            h, logabsdet = part(h)
            if i < self.before or i == self.decoder:
                of_rows = of_rows + logabsdet
            else:
                of_code = of_code + logabsdet
        nll = weighted_mean(-of_rows - _normal(h[:, :features]), weight)
        kl = weighted_mean(-of_code - _normal(h[:, features:]), weight)
        return Loss(nll + beta * kl, {"nll": (nll + kl).detach()})


def _normal(z: Tensor) -> Tensor:
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)


@recipe(
    "aef-noisy",
    "Silvestri et al. 2023, arXiv:2205.09546",
    density="lower bound",
    log_prob="1 pass a draw (16)",
)
def NoisyAEF(
    features: int,
    context_features: int = 0,
    *,
    latent: int | None = None,
    noise: float = 0.1,
    layers: int = 4,
    hidden_features: int = 64,
    bins: int = 8,
    draws: int = 16,
    kl_warmup_steps: int = 500,
    context_affine: str = "auto",
    seed: int = 0,
) -> BoundedFlow:
    r"""Autoencoding flow with an external core: noisy linear measurements of all features. A lower bound.

    .. math:: w = W x + \tau\epsilon, \qquad \log p(x) \ge E_\epsilon[\log p(w, x) - \log N(w; W x, \tau^2 I)]

    Without the noise the objective is unbounded; with it, it is an evidence lower bound.

    Arguments:
        features, context_features: widths of data and context.
        latent: measurements; half as many as features, but two at least, if None (one number, of two or
            more features on islands, tends to be ignored). noise: τ, of standardised data.
        layers, hidden_features, bins: as in `AEF`.
        draws: of the noise over which `log_prob` averages.
        kl_warmup_steps: optimiser steps over which what the code costs rises to its due (`CodedFlow`); of
            a flow that is fitted by itself, not as the likelihood of a latent.
        context_affine, seed: as in `AEF`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Silvestri et al., *Deterministic training of generative autoencoders using invertible layers*, 2023,
        https://arxiv.org/abs/2205.09546
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, bins=bins)
    if not 1e-2 <= noise <= 10:
        raise ConfigError(f"noise must lie between 0.01 and 10, received {noise!r}")
    generator = torch.Generator().manual_seed(seed)
    size = _latent(min(features, max(2, features // 2)) if latent is None else latent, features)
    whole_number = isinstance(kl_warmup_steps, int) and not isinstance(kl_warmup_steps, bool)
    if not whole_number or kl_warmup_steps < 0:
        raise ConfigError(f"kl_warmup_steps must be an integer of 0 or more, received {kl_warmup_steps!r}")
    parts = context_layers(features, context_features, context_affine)
    before = len(parts)
    parts.append(Augment(features, size, lambda i, o, c: Measurement(i, o // 2, noise)))
    core = torch.arange(features, features + size)
    parts += _code_layers(features + size, core, context_features, layers, hidden_features, bins, generator)
    # The last but one of the layers: the flow of the code comes after it.
    return CodedFlow(
        Composite(parts), features, context_features, draws, before, len(parts) - 2, kl_warmup_steps
    )
