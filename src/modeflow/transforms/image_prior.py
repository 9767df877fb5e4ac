"""Multi-scale image flows: what is factored out at each level, and the conditional Gaussians it gets.

A conditional Gaussian prior of what is factored out is here an affine map to standard noise, so that the
whole remains a bijection from images to a flat vector, over one standard normal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError
from modeflow.nets.conv import ChannelMADE, ZeroConv2d, from_context
from modeflow.transforms.base import Transform, sum_event
from modeflow.transforms.elementwise import AffineElementwise

__all__ = ["ChannelPrior", "GaussianPrior", "MultiScale", "SplitPrior"]


class SplitPrior(nn.Module):
    """Contract: maps the half ``r`` that leaves, given the half ``kept`` (None at the end), to noise.

    Both directions return ``(values, logabsdet)`` as a `Transform` does.
    """

    def forward(self, r: Tensor, kept: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def inverse(self, u: Tensor, kept: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class GaussianPrior(SplitPrior):
    r"""Independent Gaussians, from one convolution of the kept half (Glow).

    .. math:: u = \big(r - \mu(z, c)\big)\, e^{-\log\sigma(z, c)}, \qquad
        \log|\det| = -\sum \log\sigma(z, c)

    Without a kept half, the mean and scale of every channel are learned. Starts as the identity.

    Arguments:
        channels: of what leaves. kept_channels: of what stays, 0 at the end.
        context_features: width of the context.
        context_shape: of a context that is an image, flat; None for a vector.
    """

    def __init__(
        self,
        channels: int,
        kept_channels: int = 0,
        context_features: int = 0,
        context_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.clip = AffineElementwise()
        self.bias = nn.Parameter(torch.zeros(2 * channels)) if not kept_channels else None
        self.conv = ZeroConv2d(kept_channels, 2 * channels) if kept_channels else None
        self.from_context = (
            from_context(context_features, 2 * channels, context_shape) if context_features else None
        )
        if self.from_context is not None:
            for parameter in self.from_context.parameters():
                nn.init.zeros_(parameter)

    def _params(self, like: Tensor, kept: Tensor | None, context: Tensor | None) -> Tensor:
        if self.conv is not None:
            params = self.conv(kept)
        else:
            assert self.bias is not None
            params = self.bias[None, :, None, None].expand(len(like), -1, *like.shape[2:])
        if self.from_context is not None:
            params = self.from_context(params, context)
        return params.unflatten(1, (2, like.shape[1])).movedim(1, -1)

    def forward(self, r: Tensor, kept: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, logderivative = self.clip.inverse(r, self._params(r, kept, context))
        return u, sum_event(logderivative)

    def inverse(self, u: Tensor, kept: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        r, logderivative = self.clip(u, self._params(u, kept, context))
        return r, sum_event(logderivative)


class ChannelPrior(SplitPrior):
    r"""Gaussians autoregressive over channels, given the kept half (mAR-SCF).

    .. math:: u_i = \big(r_i - \mu_i(r_{<i}, z, c)\big)\, e^{-\log\sigma_i(r_{<i}, z, c)}

    for channel i, at all pixels in parallel: sampling costs as many passes as there are channels. The
    original computes μ and σ with a convolutional LSTM over the channels; here it is a masked convolutional
    network (`ChannelMADE`).

    Arguments:
        channels: of what leaves. kept_channels: of what stays, 0 at the end.
        context_features: width of the context. hidden_channels: of the conditioner.

    Reference:
        Bhattacharyya et al., *Normalizing Flows with Multi-Scale Autoregressive Priors*, 2020,
        https://arxiv.org/abs/2004.03891
    """

    def __init__(
        self, channels: int, kept_channels: int = 0, context_features: int = 0, hidden_channels: int = 32
    ) -> None:
        super().__init__()
        self.clip = AffineElementwise()
        self.context_features = context_features
        self.conditioner = ChannelMADE(channels, 2, kept_channels, context_features, hidden_channels)

    def _params(self, r: Tensor, kept: Tensor | None, context: Tensor | None) -> Tensor:
        context = context if self.context_features else None
        return self.conditioner(r, kept, context).movedim(2, -1)

    def forward(self, r: Tensor, kept: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, logderivative = self.clip.inverse(r, self._params(r, kept, context))
        return u, sum_event(logderivative)

    def inverse(self, u: Tensor, kept: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        # Channels not yet known are never seen by channel i; zeros stand in for them.
        unknown = torch.zeros_like(u).unbind(1)
        channels: list[Tensor] = []
        total = u.new_zeros(u.shape[0])
        for i in range(u.shape[1]):
            r = torch.stack((*channels, *unknown[i:]), dim=1)
            channel, logderivative = self.clip(u[:, i], self._params(r, kept, context)[:, i])
            channels.append(channel)
            total = total + sum_event(logderivative)
        return torch.stack(channels, dim=1), total


class MultiScale(Transform):
    r"""Levels of an image flow: after each but the last, half of the channels leave.

    .. math:: (z_l, r_l) = f_l(z_{l-1}), \qquad u_l = P_l(r_l;\ z_l, c), \qquad
        u = [u_1, \dots, u_L], \quad r_L = f_L(z_{L-1})

    The second half of the channels leaves, to noise through the level's prior P; what is left at the end
    gets the last prior. The result is flat, ``(B, D)``.

    Arguments:
        levels: the transforms f.
        shapes: ``(C, H, W)`` of the output of each level.
        priors: for each level, given what stays (nothing at the last); None for the identity.
        context_features: width of the context.

    Raises:
        ConfigError: if the numbers of levels, shapes and priors differ, or a level has one channel to split.

    Reference:
        Dinh et al., *Density estimation using Real NVP*, 2017, https://arxiv.org/abs/1605.08803
    """

    def __init__(
        self,
        levels: Sequence[Transform],
        shapes: Sequence[tuple[int, int, int]],
        priors: Sequence[SplitPrior | None],
        context_features: int = 0,
    ) -> None:
        super().__init__()
        if not len(levels) == len(shapes) == len(priors) or not levels:
            raise ConfigError(
                f"a multi-scale transform needs one shape and one prior for each level, received "
                f"{len(levels)} levels, {len(shapes)} shapes and {len(priors)} priors"
            )
        if any(shape[0] < 2 for shape in shapes[:-1]):
            raise ConfigError("a level whose output has one channel cannot be split: squeeze it first")
        self.context_features = context_features
        self.levels = nn.ModuleList(levels)
        self.priors = nn.ModuleList(nn.Identity() if prior is None else prior for prior in priors)
        self.kept = [shape[0] // 2 for shape in shapes[:-1]] + [0]
        self.leaving = [(shape[0] - kept, *shape[1:]) for shape, kept in zip(shapes, self.kept, strict=True)]
        self.sizes = [c * h * w for c, h, w in self.leaving]

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        total = x.new_zeros(x.shape[0])
        parts: list[Tensor] = []
        z: Tensor | None = x
        for level, prior, kept in zip(self.levels, self.priors, self.kept, strict=True):
            h, logabsdet = level(z, context)
            total = total + logabsdet
            z, r = (h[:, :kept], h[:, kept:]) if kept else (None, h)
            if isinstance(prior, SplitPrior):
                r, logabsdet = prior(r, z, context)
                total = total + logabsdet
            parts.append(r.flatten(1))
        return torch.cat(parts, dim=1), total

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        total = u.new_zeros(u.shape[0])
        z: Tensor | None = None
        parts = u.split(self.sizes, dim=1)
        for i in reversed(range(len(self.levels))):
            r, prior = parts[i].reshape(u.shape[0], *self.leaving[i]), self.priors[i]
            if isinstance(prior, SplitPrior):
                r, logabsdet = prior.inverse(r, z, context)
                total = total + logabsdet
            h = r if z is None else torch.cat((z, r), dim=1)
            z, logabsdet = self.levels[i].inverse(h, context)  # type: ignore[operator]
            total = total + logabsdet
        assert z is not None
        return z, total
