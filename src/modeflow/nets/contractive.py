"""Networks whose Lipschitz constant is bounded by spectral normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ContractiveMLP", "LipSwish", "SpectralConv2d", "SpectralLinear"]


class SpectralLinear(nn.Linear):
    """A linear map of operator norm at most `coefficient`: ``W min(1, c/σ)``, σ its largest singular value.

    σ comes from a singular-value decomposition, each time: exact, without the stale estimate of a power
    iteration, and at the widths of tables as fast.
    """

    def __init__(self, inputs: int, outputs: int, coefficient: float = 0.97, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.coefficient = coefficient

    def normalised(self) -> Tensor:
        """The weight that acts."""
        sigma = torch.linalg.matrix_norm(self.weight, ord=2)
        return self.weight * (self.coefficient / sigma).clamp_max(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised(), self.bias)


class SpectralConv2d(nn.Conv2d):
    """A convolution (stride one, zero padding that keeps the size) of operator norm at most `coefficient`.

    The norm is that of the convolution as an operator on images of the size at hand, by power iteration on
    the convolution and its transpose; the norm of the reshaped kernel would not bound it.

    Arguments:
        channels_in, channels_out, kernel: of the convolution; the kernel is odd.
        coefficient: c. tolerance: relative change of σ at which the iteration stops. most: of iterations.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        coefficient: float = 0.97,
        tolerance: float = 1e-3,
        most: int = 200,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2)
        self.coefficient, self.tolerance, self.most = coefficient, tolerance, most
        self._same = kernel // 2
        # Where the last iteration ended; another image size starts anew.
        self._direction: Tensor | None = None

    def norm(self, height: int, width: int) -> Tensor:
        """σ of the operator on images ``(height, width)``, differentiable in the kernel."""
        shape = (1, self.in_channels, height, width)
        with torch.no_grad():
            v = self._direction
            if v is None or v.shape != shape or v.dtype != self.weight.dtype:
                # A fixed start, so that the result depends on the weight alone.
                count = self.in_channels * height * width
                v = torch.linspace(1, 2, count, dtype=torch.float64).to(self.weight).reshape(shape).cos()
            v = F.normalize(v.flatten(), dim=0).view(shape)
            sigma = v.new_zeros(())
            for _ in range(self.most):
                u = F.conv2d(v, self.weight, padding=self._same)
                v = F.conv_transpose2d(u, self.weight, padding=self._same)
                size = v.norm()
                v, before, sigma = v / size.clamp_min(1e-30), sigma, size.sqrt()
                if (sigma - before).abs() <= 1e-2 * self.tolerance * sigma:
                    break
            self._direction = v.clone() if self.training else None
        # At the singular vector the gradient of |W v| is that of σ.
        return F.conv2d(v, self.weight, padding=self._same).norm()

    def forward(self, x: Tensor) -> Tensor:
        sigma = self.norm(x.shape[-2], x.shape[-1]) * (1 + self.tolerance)
        weight = self.weight * (self.coefficient / sigma).clamp_max(1.0)
        return F.conv2d(x, weight, self.bias, padding=self._same)


class LipSwish(nn.Module):
    """``x σ(β x) / 1.1`` with a learned β > 0: slope at most one in absolute value, smooth."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(F.softplus(self.raw) * x) / 1.1


class ContractiveMLP(nn.Module):
    """``g(x, c)`` with Lipschitz constant in x at most ``coefficient ** layers`` < 1, ``(B, D) -> (B, D)``.

    The context is added, through a linear map without a bound, to the first hidden layer.

    Arguments:
        features: D. hidden_features: widths. context_features: width of the context.
        coefficient: norm bound of every linear layer.
    """

    def __init__(
        self,
        features: int,
        hidden_features: Sequence[int] = (64, 64),
        context_features: int = 0,
        coefficient: float = 0.97,
    ) -> None:
        super().__init__()
        widths = [features, *hidden_features, features]
        self.layers = nn.ModuleList(SpectralLinear(a, b, coefficient) for a, b in pairwise(widths))
        self.activations = nn.ModuleList(LipSwish() for _ in hidden_features)
        self.from_context = nn.Linear(context_features, widths[1]) if context_features else None
        self.bound = coefficient ** len(self.layers)
        with torch.no_grad():
            self.layers[-1].weight.mul_(1e-2)  # type: ignore[operator]
            self.layers[-1].bias.zero_()  # type: ignore[operator]

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i == 0 and self.from_context is not None:
                x = x + self.from_context(context)
            if i + 1 < len(self.layers):
                x = self.activations[i](x)
        return x
