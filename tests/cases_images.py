"""Cases of the conformance table: layers and flows of images, on images of a few pixels; Flow++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modeflow.densities import Density, Flow
from modeflow.flows import (
    FlowPlusPlus,
    FlowPlusPlusImage,
    FunnelImage,
    Glow,
    MARPrior,
    NSFImage,
    RealNVPImage,
    build_flow,
)
from modeflow.nets.conv import AttentionConvNet, ConvNet, ConvResNet
from modeflow.testing import DensityCase, TransformCase
from modeflow.transforms import (
    ActNorm,
    ChannelPrior,
    Composite,
    Coupling,
    Elementwise,
    Flatten,
    GaussianPrior,
    ImageCoupling,
    Inverse,
    Invertible1x1,
    LogisticMixtureElementwise,
    Logit,
    MultiScale,
    PixelBins,
    PixelGaussianize,
    Rescale,
    RQSplineElementwise,
    SigmoidAffineElementwise,
    Squeeze,
    TanhAffineElementwise,
    Transform,
)

Shape = tuple[int, int, int]
FIRST = torch.tensor([True, False, False])


def four_levels(t: Tensor) -> Tensor:
    """From the real line to [0, 4), where dequantised pixels of four levels lie."""
    return 4 * torch.sigmoid(t)


def any_seed() -> int:
    return int(torch.randint(1_000_000, ()))


def plain(inputs: int, outputs: int, context: int, size: tuple[int, int]) -> nn.Module:
    return ConvNet(inputs, outputs, context, 8)


def residual(inputs: int, outputs: int, context: int, size: tuple[int, int]) -> nn.Module:
    return ConvResNet(inputs, outputs, context, 8, 1)


def attention(inputs: int, outputs: int, context: int, size: tuple[int, int]) -> nn.Module:
    return AttentionConvNet(inputs, outputs, context, size, 8, 1, 2)


def coupling(
    shape: Shape,
    mask: Literal["channel", "checkerboard"],
    elementwise: Elementwise,
    net: Callable[..., nn.Module] = plain,
    context: int = 0,
    flip: bool = False,
) -> Callable[[], Transform]:
    return lambda: ImageCoupling(shape, mask, elementwise, net, context, flip)


def structure(shape: Shape, mask: str, flip: bool) -> Tensor:
    """Kept entries depend on themselves, moved ones on themselves and on kept ones within the kernel.

    For images so small that every kernel of two 3x3 convolutions covers them.
    """
    channel, row, column = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    kept = channel < shape[0] // 2 if mask == "channel" else (row + column) % 2 == 0
    kept = (kept ^ flip).flatten()
    return torch.eye(kept.numel()).bool() | (~kept[:, None] & kept[None, :])


def eye(shape: Shape) -> Tensor:
    return torch.eye(shape[0] * shape[1] * shape[2]).bool()


def unit(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def within(x: Tensor) -> Tensor:
    """Values that the logit with alpha = 0.05 reaches, and a little more."""
    return 3 * torch.tanh(x)


def net(inputs: int, outputs: int, context: int) -> nn.Module:
    from modeflow.nets import ResidualMLP

    return ResidualMLP(inputs, outputs, 16, context, blocks=1)


def two_scales(context: int, channels: bool) -> Transform:
    """(1, 4, 4): squeeze, (4, 2, 2), half leaves; squeeze, (8, 1, 1)."""

    def level(shape: Shape) -> Transform:
        return Composite([Squeeze(), ActNorm(shape[0]), Invertible1x1(shape[0])])

    def prior(count: int, kept: int) -> nn.Module:
        if channels:
            return ChannelPrior(count, kept, context, 8)
        return GaussianPrior(count, kept, context)

    shapes = [(4, 2, 2), (8, 1, 1)]
    return MultiScale([level(s) for s in shapes], shapes, [prior(2, 2), prior(8, 0)], context)  # type: ignore[list-item]


def layers_of(recipe: Callable[..., Flow], context: int = 0, **options: Any) -> Callable[[], Transform]:
    return lambda: recipe((1, 4, 4), context, **{**TINY, **options}).transform


SMALL, WIDE, ODD = (2, 2, 2), (3, 2, 4), (3, 2, 3)
TINY: dict[str, Any] = {"hidden_channels": 8}

TRANSFORMS: dict[str, TransformCase] = {
    "squeeze": TransformCase(Squeeze, WIDE, noise_shape=(12, 1, 2), volume_preserving=True),
    "flatten": TransformCase(lambda: Flatten(ODD), ODD, noise_shape=(18,), volume_preserving=True),
    "unflatten": TransformCase(lambda: Inverse(Flatten(ODD)), (18,), noise_shape=ODD, volume_preserving=True),
    "rescale": TransformCase(lambda: Rescale(1 / 256, -0.5), ODD, structure=eye(ODD), compiles=True),
    "logit": TransformCase(lambda: Logit(0.0), ODD, structure=eye(ODD), domain=unit, compiles=True),
    "logit-alpha": TransformCase(
        lambda: Logit(0.05), ODD, structure=eye(ODD), domain=unit, codomain=within, compiles=True
    ),
    "actnorm": TransformCase(lambda: ActNorm(3), ODD, structure=eye(ODD)),
    "actnorm-vector": TransformCase(lambda: ActNorm(3), 3, structure=torch.eye(3).bool()),
    "invertible-1x1": TransformCase(lambda: Invertible1x1(3, lu=False), ODD),
    "invertible-1x1-lu": TransformCase(lambda: Invertible1x1(3), ODD),
    "image-coupling-channel-glow": TransformCase(
        coupling(SMALL, "channel", SigmoidAffineElementwise()),
        SMALL,
        structure=structure(SMALL, "channel", False),
    ),
    "image-coupling-channel-flip-context": TransformCase(
        coupling(ODD, "channel", SigmoidAffineElementwise(), plain, 2, True), ODD, 2
    ),
    "image-coupling-checkerboard-realnvp": TransformCase(
        coupling((1, 2, 2), "checkerboard", TanhAffineElementwise(), residual),
        (1, 2, 2),
        structure=structure((1, 2, 2), "checkerboard", False),
    ),
    "image-coupling-checkerboard-flip-context": TransformCase(
        coupling((2, 2, 2), "checkerboard", TanhAffineElementwise(), residual, 2, True),
        (2, 2, 2),
        2,
        structure=structure((2, 2, 2), "checkerboard", True),
    ),
    "image-coupling-spline": TransformCase(
        coupling(WIDE, "checkerboard", RQSplineElementwise(4), residual, 2), WIDE, 2
    ),
    "image-coupling-flowpp": TransformCase(
        coupling((1, 2, 4), "checkerboard", LogisticMixtureElementwise(2), attention), (1, 2, 4)
    ),
    "image-coupling-flowpp-context": TransformCase(
        coupling(SMALL, "channel", LogisticMixtureElementwise(2), attention, 2), SMALL, 2
    ),
    "coupling-logistic-mixture-3": TransformCase(
        lambda: Coupling(FIRST, LogisticMixtureElementwise(3), net), 3
    ),
    "multi-scale": TransformCase(lambda: two_scales(0, False), (1, 4, 4), noise_shape=(16,)),
    "multi-scale-context": TransformCase(lambda: two_scales(2, False), (1, 4, 4), 2, noise_shape=(16,)),
    "multi-scale-channels": TransformCase(lambda: two_scales(0, True), (1, 4, 4), noise_shape=(16,)),
    "glow-two-scales": TransformCase(layers_of(Glow, steps=2), (1, 4, 4), noise_shape=(16,)),
    "glow-two-scales-context": TransformCase(
        layers_of(Glow, 2, steps=1, coupling="additive", lu=False), (1, 4, 4), 2, noise_shape=(16,)
    ),
    "glow-two-scales-map": TransformCase(
        layers_of(Glow, 8, steps=1, context_shape=(2, 2, 2)), (1, 4, 4), 8, noise_shape=(16,)
    ),
    "glow-two-scales-map-priors": TransformCase(
        layers_of(Glow, 8, steps=1, context_shape=(2, 2, 2), context_in="priors"),
        (1, 4, 4),
        8,
        noise_shape=(16,),
    ),
    "realnvp-image-two-scales": TransformCase(
        layers_of(RealNVPImage, 2, blocks=1), (1, 4, 4), 2, noise_shape=(16,)
    ),
    "nsf-image-two-scales": TransformCase(
        layers_of(NSFImage, steps=1, blocks=1), (1, 4, 4), noise_shape=(16,)
    ),
    "marprior-two-scales": TransformCase(
        layers_of(MARPrior, 2, steps=1, prior_channels=8), (1, 4, 4), 2, noise_shape=(16,)
    ),
    "flowpp-image": TransformCase(
        layers_of(FlowPlusPlusImage, couplings=(2, 1, 2), components=2, blocks=1, heads=2),
        (1, 4, 4),
        noise_shape=(16,),
        scale=0.1,
    ),
    "pixel-gaussianize": TransformCase(
        lambda: PixelGaussianize(PixelBins((1, 2, 2), 4, components=2)),
        (1, 2, 2),
        structure=eye((1, 2, 2)),
        domain=four_levels,
    ),
    "pixel-gaussianize-context": TransformCase(
        lambda: PixelGaussianize(PixelBins((2, 2, 2), 4, 3, None, "gaussian", 2, 8, 1)),
        (2, 2, 2),
        3,
        structure=eye((2, 2, 2)),
        domain=four_levels,
    ),
    "pixel-gaussianize-map": TransformCase(
        lambda: PixelGaussianize(PixelBins((1, 4, 4), 4, 8, (2, 2, 2), "logistic", 1, 8)),
        (1, 4, 4),
        8,
        structure=eye((1, 4, 4)),
        domain=four_levels,
    ),
    "multi-scale-channels-context": TransformCase(
        lambda: two_scales(2, True), (1, 4, 4), 2, noise_shape=(16,)
    ),
}


def image(
    recipe: Callable[..., Flow], shape: Shape, context: int = 0, **options: Any
) -> Callable[[], Density]:
    return lambda: recipe(shape, context, **{**TINY, **options})


# On two scales an image has 16 numbers, too many to integrate: those are checked as transforms above.
DENSITIES: dict[str, DensityCase] = {
    "glow": DensityCase(image(Glow, (1, 2, 2), steps=2), (1, 2, 2)),
    "glow-additive-context": DensityCase(
        image(Glow, (3, 2, 2), 2, steps=2, coupling="additive", lu=False), (3, 2, 2), 2
    ),
    "glow-table": DensityCase(
        lambda: build_flow("glow", 4, 2, {"steps": 2, "seed": any_seed(), **TINY}), 4, 2
    ),
    "realnvp-image": DensityCase(image(RealNVPImage, (1, 2, 2), levels=1, blocks=1), (1, 2, 2)),
    "realnvp-image-context": DensityCase(image(RealNVPImage, (1, 2, 2), 2, levels=1, blocks=1), (1, 2, 2), 2),
    "nsf-image-context": DensityCase(image(NSFImage, (1, 2, 2), 2, steps=2, blocks=1), (1, 2, 2), 2),
    "marprior": DensityCase(image(MARPrior, (1, 2, 2), steps=1, prior_channels=8), (1, 2, 2)),
    "marprior-context": DensityCase(image(MARPrior, (1, 2, 2), 2, steps=1, prior_channels=8), (1, 2, 2), 2),
    "funnel-image": DensityCase(
        image(FunnelImage, (1, 2, 2), steps=2, blocks=1),
        (1, 2, 2),
        idle=("transforms.7.bias",),  # of the last ActNorm, which the batch has just centred
    ),
    "funnel-image-context": DensityCase(
        image(FunnelImage, (1, 2, 4), 2, levels=1, steps=1, blocks=1), (1, 2, 4), 2, scale=0.1
    ),
    "flowpp-1": DensityCase(lambda: FlowPlusPlus(1, layers=2, components=2, seed=any_seed()), 1),
    "flowpp-2": DensityCase(
        lambda: FlowPlusPlus(2, layers=2, components=2, hidden_features=16, blocks=1, seed=any_seed()), 2
    ),
    "flowpp-3-context": DensityCase(
        lambda: FlowPlusPlus(3, 2, layers=2, components=2, hidden_features=16, blocks=1, seed=any_seed()),
        3,
        2,
    ),
    "flowpp-image-context": DensityCase(
        image(FlowPlusPlusImage, (1, 2, 2), 2, couplings=(2, 1, 0), components=2, blocks=1, heads=2),
        (1, 2, 2),
        2,
        scale=0.05,
    ),
}
