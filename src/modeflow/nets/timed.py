"""Vector fields: networks of a point, a time and a context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.nets.mlp import start_near_zero

__all__ = ["ConcatSquash", "NoiseNet"]


class ConcatSquashLayer(nn.Module):
    """``(W x + b) σ(w_g t + b_g + V_g c) + w_t t + V_t c``."""

    def __init__(self, inputs: int, outputs: int, context_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1 + context_features, outputs)
        self.shift = nn.Linear(1 + context_features, outputs, bias=False)

    def forward(self, x: Tensor, when: Tensor) -> Tensor:
        return self.linear(x) * torch.sigmoid(self.gate(when)) + self.shift(when)


class ConcatSquash(nn.Module):
    """Vector field ``g(t, x, c)``, ``(B, D) -> (B, D)``: layers gated and shifted by time and context.

    Arguments:
        features: D. hidden_features: widths. context_features: width of the context.

    Reference:
        Grathwohl et al., *FFJORD*, 2019, https://arxiv.org/abs/1810.01367
    """

    def __init__(
        self, features: int, hidden_features: Sequence[int] = (64, 64), context_features: int = 0
    ) -> None:
        super().__init__()
        widths = [features, *hidden_features, features]
        self.layers = nn.ModuleList(ConcatSquashLayer(a, b, context_features) for a, b in pairwise(widths))
        last: ConcatSquashLayer = self.layers[-1]  # type: ignore[assignment]
        start_near_zero(last.linear)
        start_near_zero(last.shift)

    def forward(self, t: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        when = t.to(x).reshape(1, 1).expand(x.shape[0], 1)
        if context is not None:
            when = torch.cat((when, context), 1)
        for i, layer in enumerate(self.layers):
            x = layer(x, when)
            if i + 1 < len(self.layers):
                # Smooth: a solver of order four loses its order at kinks.
                x = torch.tanh(x)
        return x


class _TimedBlock(nn.Module):
    """``h + W2 a(W1 a(h) + W_t when)``."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, features)
        self.when = nn.Linear(features, features)
        self.second = nn.Linear(features, features)

    def forward(self, h: Tensor, when: Tensor) -> Tensor:
        update: Tensor = self.second(F.silu(self.first(F.silu(h)) + self.when(when)))
        return h + update


class NoiseNet(nn.Module):
    """Residual network ``ε(x, t, c)``, ``(B, D), (B,) -> (B, D)``, with sines and cosines of the time.

    Arguments:
        features: D. hidden_features: width. context_features: width of the context.
        blocks: residual blocks. frequencies: of the time.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int = 128,
        context_features: int = 0,
        blocks: int = 3,
        frequencies: int = 8,
    ) -> None:
        super().__init__()
        waves = math.pi * 2.0 ** torch.linspace(-1, 4, frequencies)
        self.register_buffer("waves", waves, persistent=False)
        self.initial = nn.Linear(features + context_features, hidden_features)
        self.when = nn.Linear(2 * frequencies, hidden_features)
        self.blocks = nn.ModuleList(_TimedBlock(hidden_features) for _ in range(blocks))
        self.final = nn.Linear(hidden_features, features)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        phase = t.unsqueeze(1) * self.waves.to(x)  # type: ignore[operator]
        when = F.silu(self.when(torch.cat((phase.sin(), phase.cos()), 1)))
        h = self.initial(x if context is None else torch.cat((x, context), 1))
        for block in self.blocks:
            h = block(h, when)
        out: Tensor = self.final(F.silu(h))
        return out
