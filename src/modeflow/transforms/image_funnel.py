"""A convolutional funnel: an image becomes one of half its height and width, exactly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modeflow.transforms.image import Invertible1x1, Squeeze
from modeflow.transforms.image_coupling import ImageConditioner
from modeflow.transforms.surjections import Surjection, gaussian_log_prob, normal, soft_log_scale

__all__ = ["ConvFunnel"]


class ConvFunnel(Surjection):
    r"""A convolution of kernel and stride two that is invertible in the last pixel of every 2×2 patch.

    .. math:: z = W\,(x_+ + V x_-) , \qquad
        \log p(x) = \log p(z) + \tfrac{HW}{4} \log|\det W|
        + \sum \log N\big(x_-; \mu(z, c), \sigma(z, c)^2\big)

    where :math:`x_-` are the other three pixels, given the 3×3 neighbourhood of z. Exact: z is a function of
    x, and together with :math:`x_-` determines it.

    Arguments:
        shape: ``(C, H, W)``, of even height and width.
        conditioner: factory of the network for μ and log σ, ``(C, 6C, context_features, (H/2, W/2))``.
        context_features: width of the context.
        generator: of the rotation that W starts as.

    Reference:
        Klein et al., *Funnels: Exact maximum likelihood with dimensionality reduction*, 2021,
        https://arxiv.org/abs/2112.08069
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        conditioner: ImageConditioner,
        context_features: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.channels, self.context_features = channels, context_features
        self.squeeze = Squeeze()
        self.linear = Invertible1x1(channels, generator=generator)
        self.side = nn.Conv2d(3 * channels, channels, 1)
        nn.init.zeros_(self.side.weight)
        self.conditioner = conditioner(channels, 6 * channels, context_features, (height // 2, width // 2))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(x_+, x_-)``: after the squeeze the four pixels of a patch lie next to each other."""
        pixels = self.squeeze(x)[0].unflatten(1, (self.channels, 4))
        return pixels[:, :, 3], pixels[:, :, :3].flatten(1, 2)

    def _join(self, last: Tensor, others: Tensor) -> Tensor:
        pixels = torch.cat((others.unflatten(1, (self.channels, 3)), last.unsqueeze(2)), 2)
        return self.squeeze.inverse(pixels.flatten(1, 2))[0]

    def _gaussian(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        mean, raw = self.conditioner(z, context if self.context_features else None).chunk(2, dim=1)
        return mean, soft_log_scale(raw)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        last, others = self._split(x)
        z, logabsdet = self.linear(last + self.side(others))
        mean, log_scale = self._gaussian(z, context)
        return z, logabsdet + gaussian_log_prob((others - mean) * torch.exp(-log_scale), log_scale)

    def sample(
        self,
        u: Tensor,
        context: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        mean, log_scale = self._gaussian(u, context)
        others = mean + temperature * log_scale.exp() * normal(mean, generator)
        return self._join(self.linear.inverse(u)[0] - self.side(others), others)
