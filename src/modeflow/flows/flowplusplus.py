"""Flow++: couplings of logistic mixtures, for vectors and for images."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from modeflow.densities.flow import Flow
from modeflow.densities.normal import StandardNormal
from modeflow.errors import ConfigError
from modeflow.flows.image import Shape, alternating_steps, check_image
from modeflow.flows.recipes import recipe
from modeflow.flows.stack import check_sizes, split_mask, stack
from modeflow.nets.conv import AttentionConvNet
from modeflow.nets.mlp import ResidualMLP
from modeflow.transforms.base import Composite, Transform
from modeflow.transforms.coupling import Coupling
from modeflow.transforms.image import Flatten, Squeeze
from modeflow.transforms.logistic_mixture import LogisticMixtureElementwise

__all__ = ["FlowPlusPlus", "FlowPlusPlusImage"]


@recipe("flowpp", "Ho et al. 2019, arXiv:1902.00275", sample="1 pass, bisections")
def FlowPlusPlus(
    features: int,
    context_features: int = 0,
    *,
    layers: int = 6,
    components: int = 8,
    hidden_features: int = 64,
    blocks: int = 2,
    dropout: float = 0.0,
    mixing: str = "lu",
    context_affine: str = "auto",
    seed: int = 0,
) -> Flow:
    r"""Coupling flow of logistic mixtures (Flow++) for vectors.

    .. math:: u_a = x_a, \qquad u_b = e^{a} \operatorname{logit} F_{\text{mix}}(x_b;\ \theta(x_a, c)) + b

    The density costs one pass a layer; sampling one pass and a bisection a layer.

    Arguments:
        features, context_features: widths of data and context.
        layers: number of coupling layers.
        components: logistics in each mixture.
        hidden_features, blocks, dropout: the residual conditioner.
        mixing, context_affine, seed: as in `NSF`.

    Raises:
        ConfigError: for sizes below one, or an unknown `mixing` or `context_affine`.

    Reference:
        Ho et al., *Flow++*, 2019, https://arxiv.org/abs/1902.00275
    """
    check_sizes(features=features, layers=layers, hidden_features=hidden_features, components=components)

    def conditioner(inputs: int, outputs: int, context: int) -> nn.Module:
        return ResidualMLP(inputs, outputs, hidden_features, context, blocks, dropout=dropout)

    def layer(i: int) -> Transform:
        # Narrower bounds than for images: rows far out would otherwise be thrown farther by every layer.
        elementwise = LogisticMixtureElementwise(components, max_log_scale=3.0, max_log_slope=2.0)
        return Coupling(split_mask(features, i), elementwise, conditioner, context_features)

    return stack(features, context_features, layers, layer, mixing, context_affine, seed)


@recipe("flowpp-image", "Ho et al. 2019, arXiv:1902.00275", event="image", sample="1 pass, bisections")
def FlowPlusPlusImage(
    shape: Shape,
    context_features: int = 0,
    *,
    couplings: tuple[int, int, int] = (4, 2, 3),
    components: int = 8,
    hidden_channels: int = 32,
    blocks: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
    seed: int = 0,
) -> Flow:
    """Flow++ for images: couplings of logistic mixtures with convolutions and self-attention.

    Checkerboard couplings, a squeeze, channel couplings and checkerboard couplings again, each after an
    ActNorm and an invertible 1x1 convolution; one scale. Train it within `Dequantized`, with
    ``kind="variational"``.

    Arguments:
        shape: ``(channels, height, width)``; height even, width divisible by four.
        context_features: width of the context, 0 for none.
        couplings: numbers of couplings: checkerboard, channel, checkerboard.
        components: logistics in each mixture (32 in the paper).
        hidden_channels, blocks, heads, dropout: the coupling nets (96, 10, 4, 0.2 in the paper).
        seed: of the rotations that the 1x1 convolutions start as.

    Returns:
        a flow over ``shape``.

    Raises:
        ConfigError: for sizes that do not fit.

    Reference:
        Ho et al., *Flow++*, 2019, https://arxiv.org/abs/1902.00275
    """
    check_sizes(components=components, hidden_channels=hidden_channels, blocks=blocks)
    check_image(shape, 1)
    if len(couplings) != 3 or min(couplings) < 0 or sum(couplings) == 0:
        raise ConfigError(f"couplings must be three numbers of couplings, received {couplings!r}")
    channels, height, width = shape
    if couplings[2] and width % 4:
        raise ConfigError(f"checkerboards after the squeeze need a width divisible by 4, received {width}")
    generator = torch.Generator().manual_seed(seed)

    def net(inputs: int, outputs: int, context: int, size: tuple[int, int]) -> nn.Module:
        return AttentionConvNet(inputs, outputs, context, size, hidden_channels, blocks, heads, dropout)

    def steps(here: Shape, number: int, mask: Literal["channel", "checkerboard"]) -> list[Transform]:
        return alternating_steps(
            here,
            number,
            lambda: LogisticMixtureElementwise(components),
            net,
            context_features,
            generator,
            mask,
        )

    small = (4 * channels, height // 2, width // 2)
    layers = [
        *steps(shape, couplings[0], "checkerboard"),
        Squeeze(),
        *steps(small, couplings[1], "channel"),
        *steps(small, couplings[2], "checkerboard"),
        Flatten(small),
    ]
    base = StandardNormal(channels * height * width)
    return Flow(Composite(layers), base, context_features, tuple(shape))
