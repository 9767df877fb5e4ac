r"""Rows of codes, angles and reals by the chain rule, given any context.

.. math::
    p(x \mid c) = \prod_j p(k_j \mid k_{<j}, c)\; \prod_i p(\alpha_i \mid \alpha_{<i}, k, c)\;
    N\big(T(r; c, k, \alpha);\, 0, I\big)\, \left|\det \frac{\partial T}{\partial r}\right|

Codes k by a masked network, angles α by mixtures of wrapped Gaussians, reals r by a flow T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.codes import AutoregressiveCodes
from modeflow.densities.features import Feature, check_flags, hide_absent
from modeflow.densities.leaf_kinds import WIDEST_ANGLE, draw_categories, wrapped, wrapped_log_prob
from modeflow.densities.row_flow import RowContext, ThroughFlow, refuse_missing
from modeflow.errors import ConfigError
from modeflow.nets import MLP
from modeflow.transforms.surjections import normal

__all__ = ["GivenAngle", "MixedRows"]

#: Wrapped Gaussians that an angle is a mixture of; the smallest scale of one, and the usual one at the start.
_COMPONENTS, _LEAST_ANGLE, _USUAL_ANGLE = 6, 0.01, 0.6
#: What does take missing cells.
_REMEDY = "use latent='tree' with likelihood='leaves', or fill or drop such rows"


class GivenAngle(nn.Module):
    r"""``p(α | row, c) = Σ_m w_m Σ_t N(α + 2 π t; μ_m, s_m²)``, w, μ and s by a network of what is known.

    Arguments:
        features: of a row. known: indices of those that the angle depends on.
        context_features: width of c. hidden_features: of the network.
    """

    decays = False

    def __init__(
        self,
        features: Sequence[Feature],
        known: Sequence[int],
        context_features: int,
        hidden_features: int = 64,
    ) -> None:
        super().__init__()
        self.context = RowContext(features, known)
        width = context_features + self.context.features
        self.net = MLP(width, 3 * _COMPONENTS, (hidden_features, hidden_features) if width else ())
        around = torch.linspace(-math.pi, math.pi, _COMPONENTS + 1)[:-1]
        self.register_buffer("around", around, persistent=False)

    def _mixture(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights, means and scales, ``(B, M)`` each."""
        given = self.context(x, context)
        weight, mean, raw = self.net(x.new_zeros(len(x), 0) if given is None else given).chunk(3, -1)
        start = math.log(_USUAL_ANGLE / (WIDEST_ANGLE - _USUAL_ANGLE))
        scale = _LEAST_ANGLE + (WIDEST_ANGLE - _LEAST_ANGLE) * torch.sigmoid(raw + start)
        return torch.log_softmax(weight, -1), self.around + mean, scale

    def log_prob(self, angle: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """Of angles ``(B,)`` in rows ``(B, F)`` given c ``(B, C)``."""
        weight, mean, scale = self._mixture(x, context)
        return torch.logsumexp(weight + wrapped_log_prob(angle.unsqueeze(-1), mean, scale), -1)

    def sample(
        self, x: Tensor, context: Tensor | None, generator: torch.Generator | None, temperature: float
    ) -> Tensor:
        """Angles ``(B,)`` of rows that are known so far."""
        weight, mean, scale = self._mixture(x, context)
        which = draw_categories(weight, generator, temperature).unsqueeze(1)
        mean, scale = mean.gather(1, which)[:, 0], scale.gather(1, which)[:, 0]
        return wrapped(mean + temperature * scale * normal(mean, generator))


class MixedRows(ThroughFlow):
    """The density of rows of codes, angles and reals above.

    What a flag says is absent is no part of a row's density, and NaN in samples; all other cells must be
    there.

    Arguments:
        features: of a row. context_features: width of c.
        flow: the flow of the reals by the width of its context (c, then what it is told of the row).
        hidden_features, blocks, dropout: of the network of codes.

    Raises:
        ConfigError: no features; one in cells; a flag that is no code; or a flow that is not bijective and
            exact (of splines and permutations alone where reals can be absent).

    Reference:
        Germain et al., *MADE*, 2015, https://arxiv.org/abs/1502.03509; Dong et al., *Normalizing Flow with
        Variational Latent Representation*, 2022, https://arxiv.org/abs/2211.11638
    """

    tempers = True
    remedy = _REMEDY
    other_flow = "reals beside codes or angles need a flow of bijective layers, such as 'nsf-autoregressive'"
    instead = "choose another flow"

    def __init__(
        self,
        features: Sequence[Feature],
        context_features: int,
        flow: Callable[[int], Density],
        hidden_features: int = 128,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__((len(features),), context_features)
        check_flags(features)
        kinds = [feature.kind for feature in features]
        if "cells" in kinds or not kinds:
            raise ConfigError(
                "rows need features, and none in cells: those are leaves of a tree (latent='tree')"
            )
        self.columns = tuple(features)
        self.codes = [i for i, kind in enumerate(kinds) if kind == "code"]
        self.angles = [i for i, kind in enumerate(kinds) if kind == "circular"]
        self.reals: list[int] = []
        self.chain: AutoregressiveCodes | None = None
        if self.codes:
            levels = [features[i].levels for i in self.codes]
            self.chain = AutoregressiveCodes(levels, context_features, hidden_features, blocks, dropout)
            self.levels = self.chain.levels if len(self.codes) == len(features) else None
        self.given_angles = nn.ModuleList(
            GivenAngle(features, [*self.codes, *self.angles[:place]], context_features)
            for place in range(len(self.angles))
        )
        if "real" in kinds:
            context = RowContext(features)
            self.set_flow(features, context, flow(context_features + context.features), context_features)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        x = self._there_or_absent(x)
        return self._of_codes(x, context) + self._of_others(x, context)

    def _log_prob_of_each(self, x: Tensor, contexts: Tensor) -> Tensor:
        x, count = self._there_or_absent(x), len(contexts)
        total = x.new_zeros(len(x), count)
        if self.chain is not None:
            total = total + self.chain._log_prob_of_each(x[:, self.codes], contexts)
        if self.angles or self.reals:
            others = self._of_others(x.repeat_interleave(count, 0), contexts.repeat(len(x), 1))
            total = total + others.view(len(x), count)
        return total

    def _there_or_absent(self, x: Tensor) -> Tensor:
        """Rows with NaN where a flag says that there is no value, and nowhere else but among codes."""
        x = hide_absent(x, self.columns)
        refuse_missing(x, self.columns, sorted([*self.angles, *self.reals]), self.remedy)
        return x

    def _of_codes(self, x: Tensor, context: Tensor | None) -> Tensor:
        return x.new_zeros(len(x)) if self.chain is None else self.chain._log_prob(x[:, self.codes], context)

    def _of_others(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Log-density of angles and reals, given the codes."""
        total = x.new_zeros(len(x))
        for part, i in zip(self.given_angles, self.angles, strict=True):
            there = ~x[:, i].isnan()
            found = part.log_prob(torch.where(there, x[:, i], 0.0), x, context)  # type: ignore[operator]
            total = total + torch.where(there, found, 0.0)
        if self.reals:
            u, logabsdet = self.straightened(x, context)
            u = u[:, self.reals]
            there = ~u.isnan()
            noise = -0.5 * torch.where(there, u, 0.0).square() - 0.5 * math.log(2 * math.pi) * there
            total = total + noise.sum(1) + logabsdet
        return total

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        x = torch.zeros(n, len(self.columns), dtype=self.dtype, device=self.device)
        if self.chain is not None:
            x[:, self.codes] = self.chain._sample(n, context, generator, temperature)
        x = hide_absent(x, self.columns)
        for part, i in zip(self.given_angles, self.angles, strict=True):
            drawn = part.sample(x, context, generator, temperature)  # type: ignore[operator]
            x[:, i] = torch.where(x[:, i].isnan(), torch.nan, drawn)
        if not self.reals:
            return x
        noise = temperature * normal(x[:, self.reals], generator)
        x[:, self.reals] = torch.where(x[:, self.reals].isnan(), torch.nan, noise)
        return self.bent(x, context)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Start the codes at their frequencies in rows ``(N, F)``."""
        if self.chain is not None:
            self.chain.start(x[:, self.codes])
