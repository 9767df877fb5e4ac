"""Encoders of images: from pixels to a small map of features, and to a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError

__all__ = ["ConvEncoder"]


class _Block(nn.Module):
    """``h + W2 a(W1 a(h))`` with 3x3 convolutions and group norm."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h: Tensor) -> Tensor:
        update = self.conv1(F.silu(self.norm1(h)))
        return h + self.conv2(F.silu(self.norm2(update)))


class ConvEncoder(nn.Module):
    """Residual network ``(B, C, H, W) -> (B, out_channels, H / 2^n, W / 2^n)``.

    Every halving is a convolution of stride two, after a residual block. Values are centred at the middle
    of `levels` values, so that pixels may be given as they are.

    Arguments:
        in_channels, out_channels: widths.
        hidden_channels: of all layers between, a multiple of 8 or less than it.
        halvings: n.
        levels: number of values of a pixel (256 for eight bits); None for inputs that are centred.

    Raises:
        ConfigError: for sizes below one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 64,
        halvings: int = 2,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, hidden_channels) < 1 or halvings < 0:
            raise ConfigError("the encoder's channels must be 1 or more, and its halvings 0 or more")
        groups = 8 if hidden_channels % 8 == 0 else 1
        self.levels = levels
        layers: list[nn.Module] = [nn.Conv2d(in_channels, hidden_channels, 3, padding=1)]
        for _ in range(halvings):
            layers += [_Block(hidden_channels, groups)]
            layers += [nn.Conv2d(hidden_channels, hidden_channels, 4, stride=2, padding=1)]
        layers += [_Block(hidden_channels, groups), nn.GroupNorm(groups, hidden_channels), nn.SiLU()]
        layers += [nn.Conv2d(hidden_channels, out_channels, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.levels is not None:
            x = (x + 0.5) / self.levels * 4 - 2
        out: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return out
