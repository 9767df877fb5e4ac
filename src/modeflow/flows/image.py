"""Flows of images: Glow, RealNVP, spline couplings, autoregressive priors over channels, funnels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch

from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes
from modeflow.nets.conv import ConvNet, ConvResNet
from modeflow.transforms.base import Composite, Transform
from modeflow.transforms.elementwise import AdditiveElementwise, Elementwise, RQSplineElementwise
from modeflow.transforms.image import ActNorm, Flatten, Invertible1x1, Squeeze
from modeflow.transforms.image_coupling import (
    ImageConditioner,
    ImageCoupling,
    SigmoidAffineElementwise,
    TanhAffineElementwise,
)
from modeflow.transforms.image_funnel import ConvFunnel
from modeflow.transforms.image_prior import ChannelPrior, GaussianPrior, MultiScale, SplitPrior

__all__ = ["FunnelImage", "Glow", "MARPrior", "NSFImage", "RealNVPImage"]

Shape = tuple[int, int, int]
Prior = Callable[[int, int], SplitPrior | None]
"""``(channels, kept_channels) -> prior``."""


def check_image(shape: Shape, levels: int | None) -> int:
    """Check the shape of an image; return the number of levels: at most three where it is None.

    Raises:
        ConfigError: if `shape` is not three positive integers, or cannot be halved so often.
    """
    if len(shape) != 3:
        raise ConfigError(f"shape must be (channels, height, width), received {tuple(shape)}")
    channels, height, width = shape
    check_sizes(channels=channels, height=height, width=width)
    most = 0
    while height % 2 ** (most + 1) == 0 and width % 2 ** (most + 1) == 0:
        most += 1
    if most == 0:
        raise ConfigError(f"height and width must be even, received {height} x {width}: pad the images")
    if levels is None:
        return min(3, most)
    check_sizes(levels=levels)
    if levels > most:
        raise ConfigError(f"an image of {height} x {width} can be halved {most} times, not {levels}")
    return levels


def glow_step(
    shape: Shape,
    elementwise: Elementwise,
    conditioner: ImageConditioner,
    context_features: int,
    generator: torch.Generator,
    mask: Literal["channel", "checkerboard"] = "channel",
    flip: bool = False,
    lu: bool = True,
) -> list[Transform]:
    """ActNorm, an invertible 1x1 convolution and a coupling: Glow's step of flow."""
    coupling = ImageCoupling(shape, mask, elementwise, conditioner, context_features, flip)
    return [ActNorm(shape[0]), Invertible1x1(shape[0], lu, generator), coupling]


def multi_scale(
    shape: Shape,
    context_features: int,
    levels: int,
    level: Callable[[Shape, int], tuple[Transform, Shape]],
    prior: Prior,
) -> Flow:
    """Build the levels, each from the shape it receives and its number, over one standard normal."""
    parts: list[Transform] = []
    shapes: list[Shape] = []
    priors: list[SplitPrior | None] = []
    here = shape
    for i in range(levels):
        transform, out = level(here, i)
        parts.append(transform)
        shapes.append(out)
        kept = out[0] // 2 if i < levels - 1 else 0
        priors.append(prior(out[0] - kept, kept))
        here = (kept, out[1], out[2])
    transform = MultiScale(parts, shapes, priors, context_features)
    base = StandardNormal(shape[0] * shape[1] * shape[2])
    return Flow(transform, base, context_features, tuple(shape))


def glow_levels(
    shape: Shape,
    context_features: int,
    levels: int | None,
    steps: int,
    elementwise: Callable[[], Elementwise],
    conditioner: ImageConditioner,
    prior: Prior,
    lu: bool,
    seed: int,
    coupling_context: int | None = None,
) -> Flow:
    """Levels of a squeeze and `steps` of `glow_step` each; the couplings' context is that of all if None."""
    seen = context_features if coupling_context is None else coupling_context
    generator = torch.Generator().manual_seed(seed)

    def level(here: Shape, number: int) -> tuple[Transform, Shape]:
        out = (4 * here[0], here[1] // 2, here[2] // 2)
        layers: list[Transform] = [Squeeze()]
        for _ in range(steps):
            layers += glow_step(out, elementwise(), conditioner, seen, generator, lu=lu)
        return Composite(layers), out

    return multi_scale(shape, context_features, check_image(shape, levels), level, prior)


def alternating_steps(
    shape: Shape,
    number: int,
    elementwise: Callable[[], Elementwise],
    conditioner: ImageConditioner,
    context_features: int,
    generator: torch.Generator,
    mask: Literal["channel", "checkerboard"] = "checkerboard",
) -> list[Transform]:
    """`glow_step` again and again, the halves taking turns."""
    layers: list[Transform] = []
    for i in range(number):
        flip = i % 2 == 1
        layers += glow_step(shape, elementwise(), conditioner, context_features, generator, mask, flip)
    return layers


def _conv_net(hidden_channels: int, context_shape: Shape | None = None) -> ImageConditioner:
    return lambda inputs, outputs, context, size: ConvNet(
        inputs, outputs, context, hidden_channels, context_shape
    )


def _conv_res_net(hidden_channels: int, blocks: int, dropout: float = 0.0) -> ImageConditioner:
    return lambda inputs, outputs, context, size: ConvResNet(
        inputs, outputs, context, hidden_channels, blocks, dropout
    )


@recipe("glow", "Kingma and Dhariwal 2018, arXiv:1807.03039", event="image")
def Glow(
    shape: Shape,
    context_features: int = 0,
    *,
    levels: int | None = None,
    steps: int = 4,
    hidden_channels: int = 64,
    coupling: str = "affine",
    context_shape: Shape | None = None,
    context_in: str = "all",
    lu: bool = True,
    seed: int = 0,
) -> Flow:
    r"""Glow: levels of ActNorm, invertible 1x1 convolution and coupling, with learned split priors.

    .. math:: u_b = \big(x_b + t(x_a, c)\big)\, \sigma\big(s(x_a, c) + 2\big)

    Exact in both directions, one pass each. Train on dequantised images (`Dequantized`), of order one.

    Arguments:
        shape: ``(channels, height, width)``; height and width divisible by ``2**levels``.
        context_features: width of the context, 0 for none. It reaches every coupling and every prior.
        levels: how often the image is squeezed; as often as possible up to three if None.
        steps: of each level (32 in the paper). hidden_channels: of the coupling nets (512 in the paper).
        coupling: ``"affine"`` or ``"additive"``.
        context_shape: ``(channels, height, width)`` where the context is an image (a map of codes), flat: it
            then acts by place, resized to every level; None for a vector.
        context_in: ``"all"``: the context reaches couplings and priors; ``"priors"``: the priors alone (as
            in the official code of NVF).
        lu: LU-factorised 1x1 convolutions, or plain ones.
        seed: of the rotations they start as.

    Returns:
        a flow over ``shape``.

    Raises:
        ConfigError: for sizes that do not fit, or an unknown coupling.

    Reference:
        Kingma and Dhariwal, *Glow: Generative Flow with Invertible 1x1 Convolutions*, 2018,
        https://arxiv.org/abs/1807.03039
    """
    check_sizes(steps=steps, hidden_channels=hidden_channels)
    kinds: dict[str, type[Elementwise]] = {
        "affine": SigmoidAffineElementwise,
        "additive": AdditiveElementwise,
    }
    if coupling not in kinds:
        raise ConfigError(f"coupling must be 'affine' or 'additive', received {coupling!r}")
    if context_in not in ("all", "priors"):
        raise ConfigError(f"context_in must be 'all' or 'priors', received {context_in!r}")
    if context_shape is not None and math.prod(context_shape) != context_features:
        raise ConfigError(
            f"a context of shape {tuple(context_shape)} has {math.prod(context_shape)} numbers: "
            f"context_features is {context_features}"
        )
    return glow_levels(
        shape,
        context_features,
        levels,
        steps,
        kinds[coupling],
        _conv_net(hidden_channels, context_shape),
        lambda channels, kept: GaussianPrior(channels, kept, context_features, context_shape),
        lu,
        seed,
        context_features if context_in == "all" else 0,
    )


@recipe("nsf-image", "Durkan et al. 2019, arXiv:1906.04032", event="image")
def NSFImage(
    shape: Shape,
    context_features: int = 0,
    *,
    levels: int | None = None,
    steps: int = 3,
    hidden_channels: int = 32,
    blocks: int = 2,
    bins: int = 4,
    tail_bound: float = 3.0,
    dropout: float = 0.0,
    lu: bool = True,
    seed: int = 0,
) -> Flow:
    """Neural spline flow of images: Glow's levels with rational-quadratic spline couplings.

    Arguments:
        shape, context_features, levels, lu, seed: as in `Glow`.
        steps: of each level (7 in the paper).
        hidden_channels, blocks, dropout: the residual coupling nets.
        bins, tail_bound: of each spline; what lies beyond passes unchanged (ActNorm before it standardises).

    Returns:
        a flow over ``shape``.

    Raises:
        ConfigError: for sizes that do not fit.

    Reference:
        Durkan et al., *Neural Spline Flows*, 2019, https://arxiv.org/abs/1906.04032
    """
    check_sizes(steps=steps, hidden_channels=hidden_channels, bins=bins)
    return glow_levels(
        shape,
        context_features,
        levels,
        steps,
        lambda: RQSplineElementwise(bins, tail_bound),
        _conv_res_net(hidden_channels, blocks, dropout),
        lambda channels, kept: GaussianPrior(channels, kept, context_features),
        lu,
        seed,
    )


@recipe(
    "marprior",
    "Bhattacharyya et al. 2020, arXiv:2004.03891",
    event="image",
    sample="1 pass, channels passes of the priors",
)
def MARPrior(
    shape: Shape,
    context_features: int = 0,
    *,
    levels: int | None = None,
    steps: int = 4,
    hidden_channels: int = 64,
    prior_channels: int = 32,
    lu: bool = True,
    seed: int = 0,
) -> Flow:
    """Multi-scale autoregressive priors: Glow, whose priors are autoregressive over channels.

    The density costs one pass; sampling as many passes of a prior's net as its level has channels, whatever
    the number of pixels.

    Arguments:
        shape, context_features, levels, steps, hidden_channels, lu, seed: as in `Glow`.
        prior_channels: hidden channels of the priors (see `ChannelPrior` for how they differ from the paper).

    Returns:
        a flow over ``shape``.

    Raises:
        ConfigError: for sizes that do not fit.

    Reference:
        Bhattacharyya et al., *Normalizing Flows with Multi-Scale Autoregressive Priors*, 2020,
        https://arxiv.org/abs/2004.03891
    """
    check_sizes(steps=steps, hidden_channels=hidden_channels, prior_channels=prior_channels)
    return glow_levels(
        shape,
        context_features,
        levels,
        steps,
        SigmoidAffineElementwise,
        _conv_net(hidden_channels),
        lambda channels, kept: ChannelPrior(channels, kept, context_features, prior_channels),
        lu,
        seed,
    )


@recipe("realnvp-image", "Dinh et al. 2017, arXiv:1605.08803", event="image")
def RealNVPImage(
    shape: Shape,
    context_features: int = 0,
    *,
    levels: int | None = None,
    hidden_channels: int = 32,
    blocks: int = 2,
    dropout: float = 0.0,
) -> Flow:
    r"""RealNVP for images: checkerboard couplings, squeeze, channel couplings; half leaves at each level.

    .. math:: u_b = x_b\, e^{\alpha \tanh s(x_a, c)} + t(x_a, c)

    The last level has four checkerboard couplings and no squeeze. What leaves is standard normal. In the
    place of the running batch norm (whose Jacobian in training is not that of single rows) there is ActNorm.

    Arguments:
        shape: ``(channels, height, width)``; height divisible by ``2**(levels - 1)``, width once more.
        context_features: width of the context, 0 for none.
        levels: number of levels; as many as possible up to three if None.
        hidden_channels, blocks, dropout: the residual coupling nets (32 and 8 in the paper, for CIFAR-10).

    Returns:
        a flow over ``shape``.

    Raises:
        ConfigError: for sizes that do not fit.

    Reference:
        Dinh et al., *Density estimation using Real NVP*, 2017, https://arxiv.org/abs/1605.08803
    """
    check_sizes(hidden_channels=hidden_channels)
    count = check_image(shape, levels)
    net = _conv_res_net(hidden_channels, blocks, dropout)

    def couplings(here: Shape, mask: Literal["channel", "checkerboard"], number: int) -> list[Transform]:
        layers: list[Transform] = []
        for i in range(number):
            elementwise = TanhAffineElementwise()
            coupling = ImageCoupling(here, mask, elementwise, net, context_features, flip=i % 2 == 1)
            layers += [coupling, ActNorm(here[0])]
        return layers

    def level(here: Shape, i: int) -> tuple[Transform, Shape]:
        if i == count - 1:
            return Composite(couplings(here, "checkerboard", 4)), here
        out = (4 * here[0], here[1] // 2, here[2] // 2)
        layers = couplings(here, "checkerboard", 3)
        return Composite([*layers, Squeeze(), *couplings(out, "channel", 3)]), out

    return multi_scale(shape, context_features, count, level, lambda channels, kept: None)


@recipe("funnel-image", "Klein et al. 2021, arXiv:2112.08069", event="image")
def FunnelImage(
    shape: Shape,
    context_features: int = 0,
    *,
    levels: int | None = None,
    steps: int = 3,
    hidden_channels: int = 32,
    blocks: int = 2,
    bins: int = 4,
    tail_bound: float = 3.0,
    seed: int = 0,
) -> Flow:
    r"""Convolutional funnel: each level keeps a quarter of the numbers, and pays for the others. Exact.

    .. math:: z = W\,(x_+ + V x_-), \qquad \log p(x) = \log p(z) + \log|\det| + \log p(x_- | z)

    with `ConvFunnel`, and spline couplings as in `NSFImage` before and after it. The code has
    ``C H W / 4**levels`` numbers.

    Arguments:
        shape, context_features, levels, steps, hidden_channels, blocks, bins, tail_bound, seed: as in
            `NSFImage`. An image of one channel has checkerboard couplings.

    Returns:
        a flow over ``shape`` with a smaller noise; it draws what was dropped when it samples.

    Raises:
        ConfigError: for sizes that do not fit.

    Reference:
        Klein et al., *Funnels: Exact maximum likelihood with dimensionality reduction*, 2021,
        https://arxiv.org/abs/2112.08069
    """
    check_sizes(steps=steps, hidden_channels=hidden_channels, bins=bins)
    count = check_image(shape, levels)
    generator = torch.Generator().manual_seed(seed)
    net = _conv_res_net(hidden_channels, blocks)

    def couplings(here: Shape) -> list[Transform]:
        if here[2] % 2:  # a code of odd width has no checkerboard; its scale is free all the same
            return [ActNorm(here[0]), Invertible1x1(here[0], generator=generator)]
        return alternating_steps(
            here, steps, lambda: RQSplineElementwise(bins, tail_bound), net, context_features, generator
        )

    layers = couplings(shape)
    here = shape
    for _ in range(count):
        layers.append(ConvFunnel(here, net, context_features, generator))
        here = (here[0], here[1] // 2, here[2] // 2)
        layers += couplings(here)
    layers.append(Flatten(here))
    base = StandardNormal(here[0] * here[1] * here[2])
    return Flow(Composite(layers), base, context_features, tuple(shape))
