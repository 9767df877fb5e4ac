"""Encoders of images: from pixels to a small map of features, and to a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError

__all__ = ["ConvEncoder", "ConvVectorEncoder", "ResidualBlock", "norm_groups"]


def norm_groups(channels: int) -> int:
    """Groups of a group norm: at most eight, each of four channels or more (a single value has no scale)."""
    return next((n for n in (8, 4, 2) if channels % n == 0 and channels // n >= 4), 1)


class ResidualBlock(nn.Module):
    """``h + W2 a(W1 a(h))`` with 3x3 convolutions and group norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        groups = norm_groups(channels)
        self.norm1, self.norm2 = nn.GroupNorm(groups, channels), nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, h: Tensor) -> Tensor:
        update = self.conv1(F.silu(self.norm1(h)))
        return h + self.conv2(F.silu(self.norm2(update)))


class ConvEncoder(nn.Module):
    """Residual network ``(B, C, H, W) -> (B, out_channels, H / 2^n, W / 2^n)``.

    Every halving is a convolution of stride two: the first one at once, for a residual block at full size
    would cost more than all that follows; the others after a block. Values are centred at the middle of
    `levels` values, so that pixels may be given as they are.

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
        self.levels = levels
        kernel, stride = (4, 2) if halvings else (3, 1)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, hidden_channels, kernel, stride, padding=1)]
        for _ in range(halvings - 1):
            layers += [ResidualBlock(hidden_channels)]
            layers += [nn.Conv2d(hidden_channels, hidden_channels, 4, stride=2, padding=1)]
        layers += [ResidualBlock(hidden_channels)]
        layers += [nn.GroupNorm(norm_groups(hidden_channels), hidden_channels)]
        layers += [nn.SiLU()]
        layers += [nn.Conv2d(hidden_channels, out_channels, 1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.levels is not None:
            x = (x + 0.5) / self.levels * 4 - 2
        out: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return out


class ConvVectorEncoder(nn.Module):
    """`ConvEncoder`, then a linear layer over the whole map: ``(B, C, H, W) -> (B, outputs)``.

    Arguments:
        shape: ``(C, H, W)``. outputs: width of the result.
        hidden_channels, halvings, levels: as in `ConvEncoder`.

    Raises:
        ConfigError: for sizes below one, or an image that cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        outputs: int,
        hidden_channels: int = 64,
        halvings: int = 2,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        height, width = shape[1] >> halvings, shape[2] >> halvings
        if min(height, width) < 1:
            raise ConfigError(f"an image of {shape[1]} x {shape[2]} cannot be halved {halvings} times")
        # A few channels a place are enough for a layer that sees all places.
        narrow = max(1, hidden_channels // 4)
        self.convs = ConvEncoder(shape[0], narrow, hidden_channels, halvings, levels)
        self.linear = nn.Linear(narrow * height * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(F.silu(self.convs(x)).flatten(1))
        return out
