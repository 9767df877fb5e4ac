"""Couplings of images, by channels or by a checkerboard, and the affine maps of Glow and RealNVP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.transforms.coupling import CouplingLayer
from modeflow.transforms.elementwise import Elementwise

__all__ = ["ImageConditioner", "ImageCoupling", "SigmoidAffineElementwise", "TanhAffineElementwise"]

ImageConditioner = Callable[[int, int, int, tuple[int, int]], nn.Module]
"""``(in_channels, out_channels, context_features, size) -> module``, called as ``module(x, context)``."""


class SigmoidAffineElementwise(Elementwise):
    """``u = (x + t) sigmoid(s + 2)``, Glow's: zero parameters give 0.88 x, and the slope is at most one."""

    n_params = 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        return (x + shift) * torch.sigmoid(raw + 2), F.logsigmoid(raw + 2)

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        # 1 / sigmoid(z) = 1 + exp(-z)
        return u * (1 + torch.exp(-raw - 2)) - shift, -F.logsigmoid(raw + 2)


class TanhAffineElementwise(Elementwise):
    """``u = x exp(alpha tanh(s)) + t`` with a learned alpha for all entries, RealNVP's."""

    n_params = 2

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        s = self.alpha * torch.tanh(raw)
        return x * torch.exp(s) + shift, s

    def inverse(self, u: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = params.unbind(-1)
        s = self.alpha * torch.tanh(raw)
        return (u - shift) * torch.exp(-s), -s


class ImageCoupling(CouplingLayer):
    r"""A coupling of images: half of the entries parametrise an elementwise map of the other half.

    .. math:: u_a = x_a, \qquad u_b = f(x_b;\ \theta(x_a, c)), \qquad \log|\det| = \sum_b \log f'(x_b; \theta)

    ``mask="channel"`` keeps the first half of the channels, ``"checkerboard"`` the pixels where row plus
    column is even; `flip` swaps the halves. The halves of a checkerboard are packed to half the width (pixel
    j of a packed row stands for columns 2j and 2j + 1), so the conditioner runs on no masked pixel.

    Arguments:
        shape: ``(C, H, W)`` of the images.
        mask: ``"channel"`` or ``"checkerboard"``.
        elementwise: the map of the moved entries.
        conditioner: factory ``(in_channels, out_channels, context_features, size)`` of the network θ.
        context_features: width of the context.
        flip: keep the other half.

    Raises:
        ConfigError: if there is nothing to keep: one channel, or a checkerboard of odd width.

    Reference:
        Dinh et al., *Density estimation using Real NVP*, 2017, https://arxiv.org/abs/1605.08803
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        mask: Literal["channel", "checkerboard"],
        elementwise: Elementwise,
        conditioner: ImageConditioner,
        context_features: int = 0,
        flip: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        if mask not in ("channel", "checkerboard"):
            raise ConfigError(f"mask must be 'channel' or 'checkerboard', received {mask!r}")
        if mask == "channel" and channels < 2:
            raise ConfigError("a channel coupling needs two channels or more: squeeze the image first")
        if mask == "checkerboard" and width % 2:
            raise ConfigError(f"a checkerboard coupling needs an even width, received {width}")
        self.shape, self.mask, self.flip = (channels, height, width), mask, flip
        self.context_features = context_features
        self.elementwise = elementwise
        self.one_pass_inverse = elementwise.one_pass_inverse
        if mask == "channel":
            first = channels // 2
            self.kept, self.moved = (channels - first, first) if flip else (first, channels - first)
            size = (height, width)
        else:
            self.kept = self.moved = channels
            size = (height, width // 2)
        self.conditioner = conditioner(self.kept, self.moved * elementwise.n_params, context_features, size)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(kept, moved)``, both of the same height and width."""
        if self.mask == "channel":
            first = self.shape[0] // 2
            a, b = x[:, :first], x[:, first:]
        else:
            pairs = x.unflatten(-1, (self.shape[2] // 2, 2))
            odd_row = (torch.arange(x.shape[2], device=x.device) % 2 == 1)[:, None]
            a = torch.where(odd_row, pairs[..., 1], pairs[..., 0])
            b = torch.where(odd_row, pairs[..., 0], pairs[..., 1])
        return (b, a) if self.flip else (a, b)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Undo `split`."""
        a, b = (moved, kept) if self.flip else (kept, moved)
        if self.mask == "channel":
            return torch.cat((a, b), dim=1)
        odd_row = (torch.arange(a.shape[2], device=a.device) % 2 == 1)[:, None]
        pairs = (torch.where(odd_row, b, a), torch.where(odd_row, a, b))
        return torch.stack(pairs, dim=-1).flatten(-2)

    def _params(self, kept: Tensor, context: Tensor | None) -> Tensor:
        context = context if self.context_features else None
        params = self.conditioner(kept, context)
        return params.unflatten(1, (self.moved, self.elementwise.n_params)).movedim(2, -1)
