"""Densities of whole numbers, pixels above all, from a density of real numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modeflow.densities.base import Density
from modeflow.densities.bases import Logistic
from modeflow.densities.bounded import BoundedFlow
from modeflow.densities.flow import Flow
from modeflow.errors import ConfigError
from modeflow.flows.stack import check_sizes, split_mask
from modeflow.nets.conv import AttentionConvNet
from modeflow.nets.mlp import ResidualMLP
from modeflow.transforms.base import Composite, Inverse, Transform
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.image import Flatten, Logit, Rescale
from modeflow.transforms.image_coupling import ImageCoupling
from modeflow.transforms.logistic_mixture import LogisticMixtureElementwise
from modeflow.transforms.surjections import Rounding

__all__ = ["Dequantized"]


# The flows of the noise e map its logit to logistic noise. (Gaussian noise, as in the paper, would make q
# vanish faster than any power at the edges of a bin, and the importance weights 1/q of infinite variance.)
# At the start they are nearly the identity, and q nearly uniform.


class _Guided(nn.Module):
    """A conditioner on a checkerboard that also sees an image, flat, at the head of the context."""

    def __init__(
        self, net: Callable[[int], nn.Module], kept_channels: int, shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.shape = shape
        self.size = shape[0] * shape[1] * shape[2]
        # The checkerboard halves the width; the two columns of the image become channels of their own.
        self.net = net(kept_channels + 2 * shape[0])

    def forward(self, kept: Tensor, context: Tensor) -> Tensor:
        image, rest = context[:, : self.size], context[:, self.size :]
        c, h, w = self.shape
        columns = image.reshape(-1, c, h, w // 2, 2).movedim(-1, 2).flatten(1, 2)
        out: Tensor = self.net(torch.cat((kept, columns), 1), rest if rest.shape[1] else None)
        return out


def _image_noise(
    shape: tuple[int, int, int], context: int, couplings: int, components: int, hidden: int, blocks: int
) -> Flow:
    channels, height, width = shape
    if width % 2:
        raise ConfigError(f"variational dequantisation needs an even width, received {width}")
    size = channels * height * width

    def guided(inputs: int, outputs: int, context_features: int, half: tuple[int, int]) -> nn.Module:
        def net(seen: int) -> nn.Module:
            heads = next(n for n in (4, 2, 1) if hidden % n == 0)
            return AttentionConvNet(seen, outputs, context, half, hidden, blocks, heads)

        return _Guided(net, inputs, shape)

    layers: list[Transform] = [Logit(0.0)]
    for i in range(couplings):
        mixture = LogisticMixtureElementwise(components)
        layer = ImageCoupling(shape, "checkerboard", mixture, guided, size + context, flip=i % 2 == 1)
        # Noise is drawn, so this is the direction that must be in closed form.
        layers.append(Inverse(layer))
    transform = Composite([*layers, Flatten(shape)])
    return Flow(transform, Logistic(size), size + context, shape)


def _vector_noise(
    features: int, context: int, couplings: int, components: int, hidden: int, blocks: int
) -> Flow:
    def net(inputs: int, outputs: int, given: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden, given, blocks)

    layers: list[Transform] = [Logit(0.0)]
    for i in range(couplings):
        mixture = LogisticMixtureElementwise(components)
        layers.append(Inverse(Coupling(split_mask(features, i), mixture, net, features + context)))
    return Flow(Composite(layers), Logistic(features), features + context)


def Dequantized(
    model: Density,
    levels: int,
    *,
    kind: str = "uniform",
    alpha: float | None = None,
    couplings: int = 4,
    components: int = 4,
    hidden: int = 32,
    blocks: int = 2,
    draws: int = 16,
    entry: Transform | None = None,
) -> BoundedFlow:
    r"""Probability of whole numbers 0 to ``levels - 1`` under a density of real numbers. A lower bound.

    .. math:: \log P(n) \ge E_{e \sim q(e | n)}\Big[\log p\Big(\frac{n + e}{L} - \frac12\Big)
        - D \log L - \log q(e | n)\Big]

    Averaged over draws of e inside the logarithm, which tightens the bound. In bits per dimension:
    `modeflow.metrics.bits_per_dim`. Fit it by its `objective`, where one draw a row is taken.

    Arguments:
        model: the density, over images ``(C, H, W)`` or vectors ``(D,)``; its context is that of the result.
        levels: L, 256 for images of eight bits. Samples beyond the range are moved to its ends.
        kind: ``"uniform"`` for q = 1, ``"variational"`` for a flow fitted with the model (Flow++).
        alpha: None for values in ±1/2; else for ``logit(alpha + (1 - 2 alpha) (n + e) / L)``.
        couplings, components, hidden, blocks: the flow q: its number of couplings, each of logistic mixtures,
            and the width and depth of their networks.
        draws: of e, over which `log_prob` averages.
        entry: a map from ``[0, levels)`` to where the model lives, in the place of those of `alpha`
            (`modeflow.transforms.PixelGaussianize`).

    Raises:
        ConfigError: fewer than two levels, an unknown kind, or sizes that do not fit.

    Reference:
        Ho et al., *Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
        Architecture Design*, 2019, https://arxiv.org/abs/1902.00275
    """
    check_sizes(couplings=couplings, components=components, hidden=hidden, blocks=blocks)
    if not isinstance(levels, int) or levels < 2:
        raise ConfigError(f"levels must be an integer of 2 or more, received {levels!r}")
    if kind not in ("uniform", "variational"):
        raise ConfigError(f"kind must be 'uniform' or 'variational', received {kind!r}")
    shape, context = model.event_shape, model.context_features
    noise: Flow | None = None
    if kind == "variational" and len(shape) == 3:
        image = (shape[0], shape[1], shape[2])
        noise = _image_noise(image, context, couplings, components, hidden, blocks)
    elif kind == "variational":
        noise = _vector_noise(shape[0], context, couplings, components, hidden, blocks)
    parts: list[Transform] = [Rounding(noise, context, levels)]
    if entry is not None:
        parts.append(entry)
    else:
        parts += [Rescale(1 / levels, -0.5)] if alpha is None else [Rescale(1 / levels), Logit(alpha)]
    bounded = BoundedFlow(Composite(parts), model, context, shape, draws)
    bounded.levels = levels
    return bounded
