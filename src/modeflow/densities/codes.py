"""Rows of codes by the chain rule: each code given those before it, by a masked network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from modeflow.densities.base import Density
from modeflow.densities.leaf_kinds import draw_categories, whole_codes
from modeflow.errors import ConfigError, DataError
from modeflow.nets.made import ResidualMADE
from modeflow.nets.stepwise import Stepwise, in_steps

__all__ = ["AutoregressiveCodes"]


class AutoregressiveCodes(Density):
    r"""``p(x | c) = Π_j p(x_j | x_{<j}, c)`` over codes, all probabilities by one masked network.

    .. math:: p(x_j = l \mid x_{<j}, c) = \mathrm{softmax}\big(0, \theta_j(x_{<j}, c)\big)_l

    Events are whole numbers ``0 .. L_j - 1``, held as floats; a code of L levels is told to the network, and
    scored, by L - 1 numbers (one of a binary code). Probabilities of a row in one pass; sampling takes a step
    for every code, each of which evaluates only the hidden units that it decides. A temperature raises every
    conditional probability to its inverse.

    Arguments:
        levels: L of every code, C of them.
        context_features: width of the context.
        hidden_features, blocks: of the network (`ResidualMADE`, with a direct map beside its layers).
        dropout: share of hidden units left out of a step of the training.

    Raises:
        ConfigError: no codes, or a number of levels below one.

    Reference:
        Germain et al., *MADE: Masked Autoencoder for Distribution Estimation*, 2015,
        https://arxiv.org/abs/1502.03509
    """

    tempers = True
    #: Levels are learned by numbers that may have to be large.
    decays = False
    _feature: Tensor
    _level: Tensor

    def __init__(
        self,
        levels: Sequence[int],
        context_features: int = 0,
        hidden_features: int = 128,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__((len(levels),), context_features)
        if not levels or min(levels) < 1:
            raise ConfigError(f"levels must list one number of 1 or more for every code, received {levels}")
        self.code_levels = tuple(int(n) for n in levels)
        self.levels = levels[0] if len(set(levels)) == 1 else None
        widths = [n - 1 for n in self.code_levels]
        self.net = ResidualMADE(
            len(levels),
            widths,
            hidden_features,
            context_features,
            blocks,
            dropout=dropout,
            inputs=widths,
            direct=True,
        )
        # Which feature and level each of the numbers says.
        feature = torch.arange(len(levels)).repeat_interleave(torch.tensor(widths))
        self.register_buffer("_feature", feature, persistent=False)
        self.register_buffer("_level", torch.cat([torch.arange(1, n) for n in levels]), persistent=False)
        #: Codes of as many levels, and where their numbers stand; None where that is everywhere.
        self._alike: list[tuple[int, Tensor | None, Tensor | None]] = []
        for n in sorted(set(self.code_levels) - {1}):
            codes = torch.tensor([j for j, other in enumerate(self.code_levels) if other == n])
            places = torch.isin(feature, codes).nonzero().flatten()
            every = len(codes) == len(levels)
            self._alike.append((n, None if every else codes, None if every else places))

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        codes = self._codes(x)
        return self._scores(codes, self.net(self._told(codes), context))

    def _log_prob_of_each(self, x: Tensor, contexts: Tensor) -> Tensor:
        # The first layer and the direct one see a row once, whatever the number of contexts.
        codes = self._codes(x).unsqueeze(1)
        return self._scores(codes, self.net(self._told(codes), contexts))

    def _codes(self, x: Tensor) -> Tensor:
        """The codes of rows.

        Raises:
            DataError: one that is missing, or no whole number of its levels.
        """
        missing = torch.isnan(x)
        if bool(missing.any()):
            row, j = (int(i) for i in missing.nonzero()[0])
            raise DataError(
                f"code {j} is missing in row {row + 1} of the batch, which a chain of codes cannot sum over: "
                "leaves of a tree do (latent='tree', likelihood='leaves'), or fill or drop such rows"
            )
        return whole_codes(x.mT, self.code_levels).mT

    def _told(self, codes: Tensor) -> Tensor:
        """What the network is told of codes ``(..., C)``: for every level but the first whether it is it."""
        return (codes[..., self._feature] == self._level).to(self.net.final.weight.dtype)

    def _scores(self, codes: Tensor, out: Tensor) -> Tensor:
        """The log-probability of codes ``(..., C)`` by the numbers of the network ``(..., outputs)``."""
        total = out.new_zeros(out.shape[:-1])
        for n, which, places in self._alike:
            theta = out if places is None else out[..., places.to(out.device)]
            given = codes if which is None else codes[..., which.to(out.device)]
            if n == 2:
                total = total + F.logsigmoid(theta * (2 * given - 1)).sum(-1)
                continue
            theta = F.pad(theta.unflatten(-1, (-1, n - 1)), (1, 0))
            index = given.expand(theta.shape[:-1]).unsqueeze(-1)
            chosen = theta.gather(-1, index).squeeze(-1)
            total = total + (chosen - torch.logsumexp(theta, -1)).sum(-1)
        return total

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        layers = self.net.stepwise_layers(context)
        steps = Stepwise(layers, n) if layers is not None and in_steps(self.net, layers) else None
        ends = [0, *torch.tensor([m - 1 for m in self.code_levels]).cumsum(0).tolist()]
        codes = torch.zeros(n, len(self.code_levels), dtype=torch.long, device=self.device)
        for j in range(len(self.code_levels)):
            numbers = slice(ends[j], ends[j + 1])
            theta = self.net(self._told(codes), context)[:, numbers] if steps is None else steps.params(j)
            codes[:, j] = draw_categories(F.pad(theta, (1, 0)), generator, temperature)
            if steps is not None:
                steps.put(j, self._told(codes)[:, numbers])
        return codes.to(self.dtype)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Start at codes that say nothing of each other, each as frequent as in the rows ``(N, C)``."""
        codes = self._codes(x)
        for j, n in enumerate(self.code_levels):
            share = (torch.bincount(codes[:, j], minlength=n).double() + 0.5).log()
            self.net.final.bias[self._feature == j] = (share[1:] - share[0]).to(self.net.final.bias)
