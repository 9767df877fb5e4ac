"""Decoders of images: from a vector or a small map of features to the parameters of every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.nets.encoder import ResidualBlock

__all__ = ["ConvDecoder"]


class ConvDecoder(nn.Module):
    """Residual network ``(B, C) -> (B, out_channels, H, W)``, C a flat map or a vector.

    A map is convolved; a vector starts a map by a linear layer. Every doubling spreads entries over four
    pixels before a convolution. The last layer works at full size and is the only one that does.

    Arguments:
        context_features: C. out_channels: of the image of parameters.
        size: ``(H, W)``.
        context_shape: ``(channels, height, width)`` of the map, whose size times ``2**n`` is that of the
            image; None for a vector.
        hidden_channels: of all layers between. doublings: n, where the context is a vector.
        channels_last: the order of numbers in memory, faster so; derivatives in forward mode need it off.

    Raises:
        ConfigError: for a map that does not fit, or sizes below one.
    """

    def __init__(
        self,
        context_features: int,
        out_channels: int,
        size: tuple[int, int],
        context_shape: tuple[int, int, int] | None = None,
        hidden_channels: int = 64,
        doublings: int = 2,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        if context_shape is not None:
            doublings = max(0, round(size[0] / context_shape[1]).bit_length() - 1)
        start = (size[0] >> doublings, size[1] >> doublings)
        fits = (start[0] << doublings, start[1] << doublings) == tuple(size)
        if not fits or (context_shape is not None and start != tuple(context_shape[1:])):
            here = start if context_shape is None else tuple(context_shape[1:])
            raise ConfigError(f"{here[0]} x {here[1]} cannot be doubled to {size[0]} x {size[1]}")
        if min(context_features, out_channels, hidden_channels) < 1:
            raise ConfigError("the decoder's channels must be 1 or more")
        self.context_shape = context_shape
        self.start = (hidden_channels, *start)
        self.first: nn.Module
        if context_shape is None:
            self.first = nn.Linear(context_features, hidden_channels * start[0] * start[1])
        else:
            self.first = nn.Conv2d(context_shape[0], hidden_channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_channels) for _ in range(max(doublings, 1)))
        self.ups = nn.ModuleList(
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1) for _ in range(max(doublings - 1, 0))
        )
        # Four parameters a place become one at each of four pixels: nothing wide runs at full size.
        self.shuffle = nn.PixelShuffle(2) if doublings else nn.Identity()
        self.final = nn.Conv2d(hidden_channels, out_channels * (4 if doublings else 1), 3, padding=1)

    def forward(self, context: Tensor) -> Tensor:
        h = context if self.context_shape is None else context.view(-1, *self.context_shape)
        h = self.first(h.contiguous(memory_format=self.layout) if h.dim() == 4 else h)
        h = h.view(-1, *self.start).contiguous(memory_format=self.layout)
        h = self.blocks[0](h)
        for block, up in zip(list(self.blocks)[1:], self.ups, strict=True):
            h = block(up(F.interpolate(h, scale_factor=2.0, mode="nearest")))
        out: Tensor = self.shuffle(self.final(F.silu(h)))
        return out
