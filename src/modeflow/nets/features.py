"""A small classifier of small images, whose last hidden layer is used as features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SmallClassifier"]


class SmallClassifier(nn.Module):
    """Grey images 28 x 28, values 0 to 1, to `features` numbers and to the logits of `classes`.

    Three convolutions of stride two and a hidden layer.
    """

    def __init__(self, classes: int = 38, features: int = 64, channels: int = 24) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1)
        self.hidden = nn.Linear(2 * channels * 16, features)
        self.out = nn.Linear(features, classes)

    def features(self, x: Tensor) -> Tensor:
        """``(B, 1, 28, 28) -> (B, features)``."""
        h = x - 0.5
        for layer in (self.conv1, self.conv2, self.conv3):
            h = F.silu(layer(h))
        return torch.tanh(self.hidden(h.flatten(1)) / 3) * 3

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(F.silu(self.features(x)))
        return out
