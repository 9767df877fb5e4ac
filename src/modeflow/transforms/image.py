"""Invertible layers for images ``(B, channels, height, width)``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeflow.errors import ConfigError
from modeflow.transforms.base import Transform, sum_event

__all__ = [
    "ActNorm",
    "Flatten",
    "Invertible1x1",
    "Logit",
    "Rescale",
    "Squeeze",
]


class Squeeze(Transform):
    """``(C, H, W) -> (4C, H/2, W/2)``: every block of 2x2 pixels becomes four channels, next to each other.

    Raises:
        ConfigError: if height or width is odd.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b, c, h, w = x.shape
        if h % 2 or w % 2:
            raise ConfigError(f"an image of {h} x {w} cannot be squeezed: height and width must be even")
        x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        return x.reshape(b, 4 * c, h // 2, w // 2), x.new_zeros(b)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        b, c, h, w = u.shape
        u = u.reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
        return u.reshape(b, c // 4, 2 * h, 2 * w), u.new_zeros(b)


class Flatten(Transform):
    """``(*shape) -> (D,)``; the log-determinant is zero."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(x.shape[0])

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return u.reshape(u.shape[0], *self.shape), u.new_zeros(u.shape[0])


class Logit(Transform):
    r"""From the unit interval to the real line, with the ends pulled in by alpha.

    .. math:: s = \alpha + (1 - 2\alpha) x, \qquad u = \operatorname{logit}(s), \qquad
        \log|\det| = \sum \log(1 - 2\alpha) - \log s - \log(1 - s)

    With alpha > 0 the ends 0 and 1 have finite images; the inverse of what lies beyond them is outside the
    unit interval.

    Arguments:
        alpha: at least 0, less than a half (0.05 in RealNVP).

    Raises:
        ConfigError: for another alpha.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 <= alpha < 0.5:
            raise ConfigError(f"alpha must be at least 0 and less than 0.5, received {alpha}")
        self.alpha = float(alpha)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        width = 1 - 2 * self.alpha
        log_s, log_rest = torch.log(self.alpha + width * x), torch.log(self.alpha + width * (1 - x))
        # Through a tensor, so that the constant has the type of the data.
        constant = torch.log(torch.full_like(x, width))
        return log_s - log_rest, sum_event(constant - log_s - log_rest)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        width = 1 - 2 * self.alpha
        x = (torch.sigmoid(u) - self.alpha) / width
        constant = torch.log(torch.full_like(u, width))
        return x, sum_event(F.logsigmoid(u) + F.logsigmoid(-u) - constant)


class Rescale(Transform):
    r"""``u = scale * x + shift`` with fixed numbers; ``D log scale`` is the log-determinant."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ConfigError(f"scale must be positive, received {scale}")
        self.scale, self.shift = float(scale), float(shift)

    def _logabsdet(self, x: Tensor) -> Tensor:
        entries = x[0].numel() if len(x) else 0
        return x.new_full((x.shape[0],), entries * math.log(self.scale))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.scale * x + self.shift, self._logabsdet(x)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (u - self.shift) / self.scale, -self._logabsdet(u)


class ActNorm(Transform):
    r"""``u = (x + b) exp(s)`` per channel, set by the first training batch to mean 0 and variance 1.

    .. math:: \log|\det| = H W \sum_c s_c

    For images and for vectors ``(B, D)``. Whether it is set is stored with the parameters, so that a loaded
    layer is never set again. A channel that is constant over the first batch gets scale one; a batch that
    is not finite sets nothing.

    Arguments:
        channels: of the image, or features of the vector.

    Reference:
        Kingma and Dhariwal, *Glow*, 2018, https://arxiv.org/abs/1807.03039
    """

    initialised: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set bias and scale from a batch, whatever they were."""
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])
        if len(rows) < 2 or not bool(torch.isfinite(rows).all()):
            return
        std, mean = torch.std_mean(rows, dim=0)
        # Relative to the size of the values: rounding errors of a constant are no spread.
        constant = std <= 1e-5 * (1e-6 + mean.abs())
        self.bias.copy_(-mean)
        self.log_scale.copy_(-torch.where(constant, torch.ones_like(std), std).log())
        self.initialised.fill_(True)

    def _place(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if x.shape[1] != len(self.bias):
            raise ConfigError(f"ActNorm of {len(self.bias)} channels received {x.shape[1]}")
        view = (-1, *[1] * (x.dim() - 2))
        pixels = x[0, 0].numel() if len(x) else 1
        logabsdet = pixels * self.log_scale.sum()
        return self.bias.view(view), self.log_scale.view(view), logabsdet.expand(x.shape[0])

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.training and not bool(self.initialised):
            self.initialise(x)
        bias, log_scale, logabsdet = self._place(x)
        return (x + bias) * torch.exp(log_scale), logabsdet

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        bias, log_scale, logabsdet = self._place(u)
        return u * torch.exp(-log_scale) - bias, -logabsdet


class Invertible1x1(Transform):
    r"""A learned linear map of the channels, the same at every pixel: ``u_ij = W x_ij``.

    .. math:: \log|\det| = H W \log|\det W|, \qquad W = P L (U + \operatorname{diag}(\sigma e^{s}))

    With ``lu=True`` (the second form) P and the signs σ are fixed, L is unit lower and U strictly upper
    triangular, and the log-determinant is the sum of s. Starts as a random rotation.

    Arguments:
        channels: C.
        lu: store the factors instead of W.
        generator: of the rotation; torch's global one if None.

    Reference:
        Kingma and Dhariwal, *Glow*, 2018, https://arxiv.org/abs/1807.03039
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int, lu: bool = True, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.channels, self.lu = channels, lu
        noise = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
        weight = torch.linalg.qr(noise).Q
        if not lu:
            self.weight = nn.Parameter(weight.to(torch.get_default_dtype()))
            return
        default = torch.get_default_dtype()
        entries = channels * (channels - 1) // 2
        self.lower = nn.Parameter(torch.zeros(entries, dtype=default))
        self.upper = nn.Parameter(torch.zeros(entries, dtype=default))
        self.log_diagonal = nn.Parameter(torch.zeros(channels, dtype=default))
        self.register_buffer("permutation", torch.eye(channels, dtype=default))
        self.register_buffer("sign", torch.ones(channels, dtype=default))
        self._set(weight)

    @torch.no_grad()
    def _set(self, weight: Tensor) -> None:
        p, lower, upper = torch.linalg.lu(weight)
        diagonal = upper.diagonal()
        self.permutation.copy_(p)
        below, above = self._triangles()
        self.lower.copy_(lower[below[0], below[1]])
        self.upper.copy_(upper[above[0], above[1]])
        self.sign.copy_(diagonal.sign())
        self.log_diagonal.copy_(diagonal.abs().log())

    @classmethod
    def from_plain(cls, weight: Tensor) -> Invertible1x1:
        """The factorised layer that computes the same as the plain one of this weight ``(C, C)``.

        Raises:
            ConfigError: if the weight is not square or not invertible.
        """
        if weight.dim() != 2 or weight.shape[0] != weight.shape[1]:
            raise ConfigError(f"a 1x1 convolution needs a square weight, received {tuple(weight.shape)}")
        wide = weight.detach().double()
        if not bool(torch.isfinite(torch.linalg.slogdet(wide).logabsdet)):
            raise ConfigError("the weight of a 1x1 convolution must be invertible")
        layer = cls(weight.shape[0]).to(weight.dtype)
        layer._set(wide)
        return layer

    def factors(self) -> tuple[Tensor, Tensor]:
        """L and U of the factorised layer, with their diagonals."""
        diagonal = self.sign * torch.exp(self.log_diagonal)
        below, above = self._triangles()
        lower = torch.eye(self.channels, dtype=self.lower.dtype, device=self.lower.device)
        lower = lower.index_put((below[0], below[1]), self.lower)
        return lower, torch.diag(diagonal).index_put((above[0], above[1]), self.upper)

    def _triangles(self) -> tuple[Tensor, Tensor]:
        """Row and column of the free entries of L and of U."""
        n, where = self.channels, self.lower.device
        return torch.tril_indices(n, n, -1, device=where), torch.triu_indices(n, n, 1, device=where)

    def matrix(self) -> Tensor:
        """W, shape ``(C, C)``."""
        if not self.lu:
            return self.weight
        lower, upper = self.factors()
        return self.permutation @ lower @ upper

    def _logabsdet(self, x: Tensor) -> Tensor:
        log = self.log_diagonal.sum() if self.lu else torch.linalg.slogdet(self.weight).logabsdet
        return (x.shape[2] * x.shape[3] * log).expand(x.shape[0])

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return torch.einsum("ij,bjhw->bihw", self.matrix(), x), self._logabsdet(x)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        columns = u.movedim(1, 0).reshape(self.channels, -1)
        if self.lu:
            lower, upper = self.factors()
            columns = torch.linalg.solve_triangular(
                lower, self.permutation.mT @ columns, upper=False, unitriangular=True
            )
            columns = torch.linalg.solve_triangular(upper, columns, upper=True)
        else:
            columns = torch.linalg.solve(self.weight, columns)
        b, c, h, w = u.shape
        return columns.reshape(c, b, h, w).movedim(0, 1), -self._logabsdet(u)
