"""A prior over strings of codes by a diffusion bridge over what they are embedded as."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from modeflow.densities.bridge import DiffusionBridge
from modeflow.densities.sequences import SequencePrior
from modeflow.nets.timed import NoiseNet
from modeflow.transforms.noise import in_row_noise, row_noise, standard_normal

__all__ = ["BridgeCodes", "Codebook"]

#: Spread of what is around a code at the start; the least of it, and of τ.
_SPREAD, _LEAST = 0.2, 0.02


class Codebook(Protocol):
    """What the prior asks of what makes codes."""

    code_features: int

    @property
    def codebook(self) -> Tensor:
        """All codes, ``(V, d)``."""


class CodeNoise(nn.Module):
    r"""ε of noised strings: what it is given the code at every position, averaged over what codes there are.

    .. math:: w_{jv} \propto \exp\Big(-\frac{|y_j - \sqrt{\bar a} c_v|^2}{2 (\bar a s^2 + 1 - \bar a)}
        + \theta_{jv}\Big), \qquad \epsilon_j = \frac{\sqrt{1 - \bar a}}{\bar a s^2 + 1 - \bar a}
        \sum_v w_{jv} (y_j - \sqrt{\bar a} c_v)

    Without θ this is right of independent positions, each c_v + s ξ of a v that is uniform. θ is a network's,
    which sees what each position says of itself, the w without θ: it is zero at the start.

    Arguments:
        length: L. n_codes: V. quantizer: whose codes they are. hidden_features, blocks: of the network.
    """

    def __init__(
        self, length: int, n_codes: int, quantizer: Codebook, hidden_features: int, blocks: int
    ) -> None:
        super().__init__()
        self._quantizer = (quantizer,)  # a part of the model, not of this
        self.sizes = (length, n_codes)
        self.net = NoiseNet(length * n_codes, hidden_features, 0, blocks)
        self.log_spread = nn.Parameter(torch.tensor(math.log(_SPREAD)))

    @property
    def codebook(self) -> Tensor:
        """The codes, ``(V, d)``."""
        return self._quantizer[0].codebook.to(self.log_spread.dtype)

    @property
    def spread(self) -> Tensor:
        """s."""
        return _LEAST + self.log_spread.exp()

    def forward(self, y: Tensor, abar: Tensor, time: Tensor) -> Tensor:
        share = abar.view(-1, 1, 1)
        total = share * self.spread.square() + 1 - share
        off = y.unflatten(1, (self.sizes[0], 1, -1)) - (share.sqrt() * self.codebook).unsqueeze(1)
        score = -0.5 * off.square().sum(-1) / total
        said = torch.softmax(score, -1)
        learned = self.net((self.sizes[1] * said - 1).flatten(1), time).unflatten(1, self.sizes)
        weights = torch.softmax(score + learned, -1)
        mean = (weights.unsqueeze(2) @ off).squeeze(2)
        return ((1 - share).sqrt() / total * mean).flatten(1)


class BridgeCodes(SequencePrior):
    r"""Strings of codes near a point, of all positions at once, that a `DiffusionBridge` draws.

    .. math:: p(z) = \int p(z^0) \prod_j p(z_j \mid z^0_j)\, dz^0, \qquad
        p(z_j = v \mid z^0_j) \propto e^{-|z^0_j - c_v|^2 / \tau}

    `log_prob` is a lower bound, by importance weights of `draws` points about the codes of the string,
    :math:`r(z^0 \mid z) = N(c_z, s^2)`, each with a path of the bridge; s and τ are learned. Over all strings
    it adds up to at most one, on average over its noise. A model is fitted by `lengths`, one draw of the
    evidence lower bound at one random time, whose gradient also reaches what the codes are embedded as.

    It has no order: a string is drawn in the T steps of the bridge, however long it is.

    Arguments:
        n_codes, length: V and L. quantizer: whose codes they are.
        steps, hidden_features, blocks, draws: of the bridge, over L d numbers.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Cohen et al., *Diffusion bridges vector quantized Variational AutoEncoders*, 2022,
        https://arxiv.org/abs/2202.04895
    """

    tempers = False
    exactness = "lower bound"
    of_codebook = True

    def __init__(
        self,
        n_codes: int,
        length: int,
        quantizer: Codebook,
        steps: int = 20,
        hidden_features: int = 128,
        blocks: int = 2,
        draws: int = 8,
    ) -> None:
        super().__init__(n_codes, length)
        noise = CodeNoise(length, n_codes, quantizer, hidden_features, blocks)
        features = length * int(quantizer.code_features)
        self.bridge = DiffusionBridge(features, steps, draws=draws, denoiser=noise)
        self.log_tau = nn.Parameter(torch.tensor(math.log(2 * _SPREAD**2)))

    @property
    def noise(self) -> CodeNoise:
        """What says ε, and what codes are embedded as."""
        assert isinstance(self.bridge.denoiser, CodeNoise)
        return self.bridge.denoiser

    def log_choice(self, point: Tensor) -> Tensor:
        """``log p(z_j = v | z^0_j)``, ``(B, L, V)``, at points ``(B, L, d)``."""
        distance = (point.unsqueeze(2) - self.noise.codebook).square().sum(-1)
        return torch.log_softmax(-distance / (_LEAST + self.log_tau.exp()), -1)

    def _weight(self, codes: Tensor, embedded: Tensor, whole: bool) -> Tensor:
        """One draw of ``log p(z, z^0) - log r(z^0 | z)``, ``(B,)``: of a whole path, or at one time of it."""
        spread = self.noise.spread
        noise = standard_normal(embedded)
        point = embedded + spread * noise
        choice = self.log_choice(point).gather(2, codes.unsqueeze(-1)).flatten(1).sum(1)
        around = (-0.5 * (noise.square() + math.log(2 * math.pi)) - spread.log()).flatten(1).sum(1)
        flat = point.flatten(1)
        return choice + (self.bridge.log_weight(flat) if whole else self.bridge.estimate(flat)) - around

    def lengths(self, codes: Tensor, embedded: Tensor, log_q: Tensor) -> Tensor:
        return -self._weight(codes, embedded, False)

    def _log_prob(self, x: Tensor, context: Tensor | None) -> Tensor:
        codes = x.long()
        embedded = self.noise.codebook[codes]
        if self.training and not in_row_noise():
            return self._weight(codes, embedded, True)
        weights = []
        for draw in range(self.bridge.draws):
            with row_noise(x, draw, self):
                weights.append(self._weight(codes, embedded, True))
        return torch.logsumexp(torch.stack(weights), 0) - math.log(len(weights))

    def _sample(
        self,
        n: int,
        context: Tensor | None,
        generator: torch.Generator | None,
        temperature: float = 1.0,
    ) -> Tensor:
        point = self.bridge._sample(n, None, generator).unflatten(1, (self.length, -1))
        probs = self.log_choice(point).exp().flatten(0, 1)
        if n == 0:  # `multinomial` refuses to draw nothing
            return torch.zeros(0, self.length, dtype=torch.long, device=probs.device)
        where = probs.device if generator is None else generator.device
        drawn = torch.multinomial(probs.to(where), 1, generator=generator)
        return drawn.view(n, self.length).to(probs.device)
