"""Recurrent transforms: a recurrence over the features carries what came before (TAN), and a leaky map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.transforms.base import Transform

__all__ = ["Leaky", "Recurrence", "RecurrentShift"]


class Recurrence(nn.Module):
    """States of a GRU that runs over the features: state i has seen features before i, and the context.

    Arguments:
        hidden_features: width of the state. context_features: width of the context.
    """

    def __init__(self, hidden_features: int, context_features: int = 0) -> None:
        super().__init__()
        self.gru = nn.GRU(1 + context_features, hidden_features, batch_first=True)
        self.first = nn.Parameter(torch.zeros(hidden_features))
        self.context_features = context_features
        self.from_context = nn.Linear(context_features, hidden_features) if context_features else None

    def start(self, rows: int, context: Tensor | None) -> Tensor:
        """The state before the first feature, ``(rows, hidden)``."""
        state = self.first.expand(rows, -1)
        return state if self.from_context is None else torch.tanh(state + self.from_context(context))

    def step(self, x: Tensor, state: Tensor, context: Tensor | None) -> Tensor:
        """The state after one more feature ``(B,)``."""
        given = x.view(-1, 1, 1)
        if self.context_features:
            assert context is not None
            given = torch.cat((given, context.unsqueeze(1)), -1)
        return self.gru(given, state.unsqueeze(0).contiguous())[0].squeeze(1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """States before every feature of ``x (B, D)``: ``(B, D, hidden)``."""
        start = self.start(len(x), context)
        if x.shape[1] == 1 or len(x) == 0:
            return start.unsqueeze(1).expand(-1, x.shape[1], -1)
        given = x[:, :-1].unsqueeze(-1)
        if self.context_features:
            assert context is not None
            given = torch.cat((given, context.unsqueeze(1).expand(-1, given.shape[1], -1)), -1)
        later, _ = self.gru(given, start.unsqueeze(0).contiguous())
        return torch.cat((start.unsqueeze(1), later), 1)


class RecurrentShift(Transform):
    r"""Each feature is shifted by what a recurrence makes of those before it: volume is preserved.

    .. math:: u_i = x_i + m(s_{i-1}, c), \qquad s_i = g(x_i, s_{i-1}, c)

    Sampling runs the recurrence again, feature by feature.

    Arguments:
        hidden_features: width of the state. context_features: width of the context.

    Reference:
        Oliva et al., *Transformation Autoregressive Networks*, 2018, https://arxiv.org/abs/1801.09819
    """

    one_pass_inverse = False

    def __init__(self, hidden_features: int = 64, context_features: int = 0) -> None:
        super().__init__()
        self.context_features = context_features
        self.recurrence = Recurrence(hidden_features, context_features)
        self.shift = nn.Sequential(nn.Linear(hidden_features, hidden_features), nn.Tanh())
        self.final = nn.Linear(hidden_features, 1)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)

    def _shift(self, state: Tensor) -> Tensor:
        return self.final(self.shift(state)).squeeze(-1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        return x + self._shift(self.recurrence(x, context)), x.new_zeros(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        if len(u) == 0:
            return u, u.new_zeros(0)
        state = self.recurrence.start(len(u), context)
        columns = []
        for i in range(u.shape[1]):
            columns.append(u[:, i] - self._shift(state))
            if i + 1 < u.shape[1]:
                state = self.recurrence.step(columns[-1], state, context)
        return torch.stack(columns, 1), u.new_zeros(u.shape[0])


class Leaky(Transform):
    r"""``u = x`` where positive, ``u = a x`` where negative, with one learned slope a in (0, 1).

    .. math:: \log|\det| = \#\{x_i < 0\} \log a

    Arguments:
        slope: a at the start.
    """

    def __init__(self, slope: float = 0.993) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.logit(torch.tensor(slope, dtype=torch.float64)).float())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        negative = (x < 0).to(x.dtype)
        log_slope = F.logsigmoid(self.raw)
        return torch.where(x < 0, x * log_slope.exp(), x), negative.sum(1) * log_slope

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        negative = (u < 0).to(u.dtype)
        log_slope = F.logsigmoid(self.raw)
        return torch.where(u < 0, u * (-log_slope).exp(), u), -negative.sum(1) * log_slope
