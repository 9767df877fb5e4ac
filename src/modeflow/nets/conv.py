"""Convolutional conditioners for images, with an optional context added to the channels of every block.

All map ``(B, in_channels, H, W) [, (B, C)] -> (B, out_channels, H, W)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.nets.made import hidden_degrees
from modeflow.nets.mlp import start_near_zero
from modeflow.nets.randomness import Dropout, Dropout2d

__all__ = ["AttentionConvNet", "ChannelMADE", "ConvNet", "ConvResNet", "ZeroConv2d"]


class ZeroConv2d(nn.Conv2d):
    """A convolution that starts as zero, its output multiplied by ``exp(3 * scale)`` per channel (Glow)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)
        self.scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.exp(3 * self.scale)[:, None, None]


def _channels_last(x: Tensor) -> Tensor:
    """The same values, the channels of a pixel side by side: what convolutions are fastest on."""
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _store_channels_last(module: nn.Module) -> None:
    """Store the weights of all convolutions as `_channels_last`: not reordered at every step."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = _channels_last(layer.weight.data)


class _FromContext(nn.Module):
    """The context as a shift of the channels; zero where there is none."""

    def __init__(self, context_features: int, channels: int, near_zero: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(context_features, channels, bias=False) if context_features else None
        if near_zero and self.linear is not None:
            start_near_zero(self.linear)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        if self.linear is None or context is None:
            return h
        return h + self.linear(context)[:, :, None, None]


class _FromMap(nn.Module):
    """A context that is a small image, flat, as a shift of every pixel: convolved, then resized."""

    def __init__(self, shape: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.shape = shape
        self.conv = nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            return h
        shift = _channels_last(self.conv(_channels_last(context.view(-1, *self.shape))))
        return add_resized(h, shift)


def add_resized(h: Tensor, shift: Tensor) -> Tensor:
    """``h`` plus a map of another size: every entry spread over its pixels, or averaged where it has more."""
    (height, width), (rows, columns) = h.shape[-2:], shift.shape[-2:]
    if (height, width) == (rows, columns):
        return h + shift
    if height % rows or width % columns:
        return h + F.adaptive_avg_pool2d(shift, (height, width))
    # Broadcast, not resized: no image is made of it, nor a gradient of one.
    blocks = h.unflatten(-2, (rows, height // rows)).unflatten(-1, (columns, width // columns))
    return (blocks + shift[:, :, :, None, :, None]).flatten(-2).flatten(-3, -2)


def from_context(
    context_features: int, channels: int, shape: tuple[int, int, int] | None = None, near_zero: bool = False
) -> nn.Module:
    """What a context adds to the channels of an image: the same at every pixel, or by place.

    Arguments:
        context_features: width of the context, 0 for none.
        channels: of the image.
        shape: ``(channels, height, width)`` of a context that is itself an image, flat; None for a vector.
        near_zero: start close to adding nothing.
    """
    if shape is None or not context_features:
        return _FromContext(context_features, channels, near_zero)
    layer = _FromMap(shape, channels)
    if near_zero:
        start_near_zero(layer.conv)
    return layer


class ConvNet(nn.Module):
    """Glow's conditioner: 3x3, ReLU, 1x1, ReLU, and a 3x3 convolution that starts as zero.

    Arguments:
        in_channels, out_channels, context_features: widths.
        hidden_channels: of the two hidden layers (512 in the paper).
        context_shape: of a context that is an image, flat (`from_context`).

    Reference:
        Kingma and Dhariwal, *Glow*, 2018, https://arxiv.org/abs/1807.03039
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        context_features: int = 0,
        hidden_channels: int = 64,
        context_shape: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.second = nn.Conv2d(hidden_channels, hidden_channels, 1)
        self.final = ZeroConv2d(hidden_channels, out_channels)
        self.context_first = from_context(context_features, hidden_channels, context_shape)
        # A map is resized to every pixel each time: once is enough.
        again = 0 if context_shape is not None else context_features
        self.context_second = from_context(again, hidden_channels)
        _store_channels_last(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = F.relu(self.context_first(self.first(_channels_last(x)), context))
        h = F.relu(self.context_second(self.second(h), context))
        return self.final(h)


class ConvResNet(nn.Module):
    """Residual network of 3x3 convolutions: ``h + W2 a(W1 a(h) + context)`` in every block.

    Arguments:
        in_channels, out_channels, context_features: widths.
        hidden_channels: width of the hidden layers.
        blocks: number of residual blocks, two convolutions each.
        dropout: probability of dropping a hidden channel inside a block, while training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        context_features: int = 0,
        hidden_channels: int = 64,
        blocks: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.initial = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.from_context = _FromContext(context_features, hidden_channels)
        self.first = nn.ModuleList(
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1) for _ in range(blocks)
        )
        self.second = nn.ModuleList(
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1) for _ in range(blocks)
        )
        self.contexts = nn.ModuleList(_FromContext(context_features, hidden_channels) for _ in range(blocks))
        self.dropout = Dropout2d(dropout)
        self.final = nn.Conv2d(hidden_channels, out_channels, 1)
        for layer in (*self.second, self.final):
            start_near_zero(layer)
        _store_channels_last(self)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.from_context(self.initial(_channels_last(x)), context)
        for first, second, shift in zip(self.first, self.second, self.contexts, strict=True):
            update = F.relu(shift(first(F.relu(h)), context))
            h = h + second(self.dropout(update))
        return self.final(F.relu(h))


def concat_elu(x: Tensor) -> Tensor:
    """``[elu(x), elu(-x)]`` along the channels."""
    return F.elu(torch.cat((x, -x), dim=1))


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _GatedConv(nn.Module):
    """``h + a * sigmoid(b)``, with ``a, b`` from two convolutions with concat-ELU."""

    def __init__(self, channels: int, context_features: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.from_context = _FromContext(context_features, channels)
        self.dropout = Dropout(dropout)
        self.gate = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.norm = _ChannelNorm(channels)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        update = self.from_context(self.first(concat_elu(h)), context)
        a, b = self.gate(self.dropout(concat_elu(update))).chunk(2, dim=1)
        return self.norm(h + a * torch.sigmoid(b))


class _GatedAttention(nn.Module):
    """Multi-head self-attention over the pixels, with a learned embedding of their positions, gated."""

    def __init__(self, channels: int, size: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(0.01 * torch.randn(channels, *size))
        # Without a bias: one added to every key alike cancels in the softmax.
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.gate = nn.Conv2d(channels, 2 * channels, 1)
        self.norm = _ChannelNorm(channels)

    def forward(self, h: Tensor) -> Tensor:
        batch, channels, height, width = h.shape
        qkv = self.qkv(h + self.position)
        # (B, 3, heads, pixels, channels per head)
        qkv = qkv.view(batch, 3, self.heads, channels // self.heads, height * width).mT
        mixed = F.scaled_dot_product_attention(*qkv.unbind(1))
        a, b = self.gate(mixed.mT.reshape(batch, channels, height, width)).chunk(2, dim=1)
        return self.norm(h + a * torch.sigmoid(b))


class AttentionConvNet(nn.Module):
    """Flow++'s conditioner: blocks of a gated convolution and gated self-attention over all pixels.

    Arguments:
        in_channels, out_channels, context_features: widths.
        size: height and width of the images (each position has an embedding of its own).
        hidden_channels: width of the hidden layers, a multiple of `heads`.
        blocks, heads: number of blocks, and of attention heads.
        dropout: inside the gated convolutions, while training.

    Raises:
        ConfigError: if `heads` does not divide `hidden_channels`.

    Reference:
        Ho et al., *Flow++*, 2019, https://arxiv.org/abs/1902.00275
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        context_features: int,
        size: tuple[int, int],
        hidden_channels: int = 32,
        blocks: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if heads < 1 or hidden_channels % heads:
            raise ConfigError(
                f"hidden_channels must be a multiple of heads, received {hidden_channels} and {heads}"
            )
        self.initial = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.convs = nn.ModuleList(
            _GatedConv(hidden_channels, context_features, dropout) for _ in range(blocks)
        )
        self.attentions = nn.ModuleList(_GatedAttention(hidden_channels, size, heads) for _ in range(blocks))
        self.final = nn.Conv2d(hidden_channels, out_channels, 3, padding=1)
        start_near_zero(self.final)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.initial(x)
        for conv, attention in zip(self.convs, self.attentions, strict=True):
            h = attention(conv(h, context))
        return self.final(h)


class _MaskedConv2d(nn.Conv2d):
    """A 3x3 convolution whose weight is multiplied by a 0/1 mask ``(out, in)``."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0], 3, padding=1)
        self.register_buffer("mask", mask[:, :, None, None].to(self.weight.dtype), persistent=False)
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=1)


class ChannelMADE(nn.Module):
    """Autoregressive over channels: output channel i sees channels before i, at all pixels, and the rest.

    ``(B, channels, H, W), (B, side_channels, H, W) | None [, (B, C)] -> (B, channels, params, H, W)``.
    The side image and the context bypass the masks.

    Arguments:
        channels: of the image modelled. params: outputs for each of its entries.
        side_channels: of the image seen as a whole, 0 for none.
        context_features: width of the context.
        hidden_channels: of the two hidden layers.
    """

    def __init__(
        self,
        channels: int,
        params: int,
        side_channels: int = 0,
        context_features: int = 0,
        hidden_channels: int = 32,
    ) -> None:
        super().__init__()
        self.channels, self.params = channels, params
        # One: there are hidden units that see the side image and the context only.
        degrees = hidden_degrees(channels, hidden_channels, 1)
        order = torch.arange(1, channels + 1)
        self.initial = _MaskedConv2d(degrees[:, None] >= order[None, :])
        self.side = nn.Conv2d(side_channels, hidden_channels, 3, padding=1) if side_channels else None
        self.from_context = _FromContext(context_features, hidden_channels)
        self.hidden = _MaskedConv2d(degrees[:, None] >= degrees[None, :])
        self.final = _MaskedConv2d(order.repeat_interleave(params)[:, None] > degrees[None, :])
        start_near_zero(self.final)
        self.context_final = _FromContext(context_features, channels * params, near_zero=True)

    def forward(self, x: Tensor, side: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        h = self.initial(x)
        if self.side is not None:
            h = h + self.side(side)
        h = F.relu(self.from_context(h, context))
        h = F.relu(self.hidden(h))
        return self.context_final(self.final(h), context).unflatten(1, (self.channels, self.params))
