"""Likelihoods of images of whole numbers: with a flow or without, given any context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from modeflow.densities.base import Density
from modeflow.densities.decoders import BernoulliDecoder
from modeflow.densities.image_decoders import DiscretizedDecoder
from modeflow.errors import ConfigError
from modeflow.flows import image_flow
from modeflow.flows.dequantised import Dequantized
from modeflow.latents import Images
from modeflow.latents.options import ImageShape
from modeflow.latents.schedules import whole_steps
from modeflow.nets.decoder import ConvDecoder
from modeflow.options import Options, check_choice, check_sizes
from modeflow.transforms.pixels import PixelBins, PixelGaussianize

__all__ = ["IMAGE_LIKELIHOODS", "LikelihoodOptions", "image_likelihood"]

IMAGE_LIKELIHOODS = ("flow", "logistic", "gaussian", "bernoulli")


@dataclass(kw_only=True)
class LikelihoodOptions(Options):
    """Options of the likelihood of images.

    Arguments:
        components: of the mixture at every pixel.
        decoder_channels: width of the network from z.
        entry: what stands before the flow: "pixels" (`PixelGaussianize`), or "affine" (values in ±1/2); None
            for "pixels" with a latent and "affine" without.
        context_in: where Glow sees a map of codes: "all" couplings and priors, or "priors".
        dequantisation: the noise that whole numbers get before a flow: "uniform" or "variational".
        draws: of that noise, over which the bound averages.
        start: share of the optimiser steps in which the first layer of the flow is fitted alone.
        start_steps: optimiser steps in which it is; None for the share `start` of all.
    """

    components: int = 3
    decoder_channels: int = 64
    entry: str | None = None
    context_in: str = "all"
    dequantisation: str = "uniform"
    draws: int = 1
    start: float = 0.1
    start_steps: int | None = None

    def __post_init__(self) -> None:
        check_sizes(components=self.components, decoder_channels=self.decoder_channels, draws=self.draws)
        if self.entry is not None:
            check_choice("entry", self.entry, ("pixels", "affine"))
        check_choice("context_in", self.context_in, ("all", "priors"))
        check_choice("dequantisation", self.dequantisation, ("uniform", "variational"))
        if not 0 <= self.start < 1:
            raise ConfigError(f"start must lie in [0, 1), received {self.start!r}")
        if self.start_steps is not None:
            whole_steps("start_steps", self.start_steps)

    def for_steps(self, steps: int) -> Self:
        """The same, with `start_steps` filled in, where it was left open, for so many optimiser steps."""
        if self.start_steps is not None:
            return self
        return replace(self, start_steps=min(round(self.start * steps), steps - 1))


def image_likelihood(
    kind: str,
    images: Images,
    context_features: int,
    context_shape: ImageShape | None,
    options: LikelihoodOptions,
    flow: str,
    flow_options: Mapping[str, Any] | None,
) -> Density:
    """p(x|z) by the name of its kind.

    Arguments:
        kind: one of `IMAGE_LIKELIHOODS`. images: what they are like.
        context_features: width of the context. context_shape: its shape where it is a map.
        options: of the likelihood. flow, flow_options: as in `ImageModel`.

    Raises:
        ConfigError: for a value that is not allowed.
    """
    if kind == "bernoulli":
        return _bernoulli(images, context_features, context_shape, options)
    entry = options.entry or ("pixels" if context_features else "affine")
    bins: PixelBins | None = None
    if kind != "flow" or entry == "pixels":
        bins = PixelBins(
            images.shape,
            images.levels,
            context_features,
            context_shape,
            "logistic" if kind == "flow" else kind,
            options.components,
            options.decoder_channels,
            images.halvings,
        )
    if kind != "flow":
        assert bins is not None
        return DiscretizedDecoder(bins)
    given = dict(flow_options or {})
    if context_shape is not None:
        given = {"context_shape": context_shape, "context_in": options.context_in, **given}
    inner = image_flow(flow, images.shape, context_features, given)
    gauss = None if bins is None else PixelGaussianize(bins)
    return Dequantized(inner, images.levels, kind=options.dequantisation, draws=options.draws, entry=gauss)


def _bernoulli(
    images: Images, context_features: int, context_shape: ImageShape | None, options: LikelihoodOptions
) -> Density:
    """Logits of every pixel: of images of two levels."""
    if images.levels != 2:
        raise ConfigError(
            f"likelihood='bernoulli' is of images of two levels, received levels={images.levels}: make "
            "the images binary (of eight bits: bits=1), or, but with laplace, take likelihood='logistic'"
        )
    channels, height, width = images.shape
    net: ConvDecoder | None = None
    if context_features:
        sizes = (context_shape, options.decoder_channels, images.halvings)
        net = ConvDecoder(context_features, channels, (height, width), *sizes, channels_last=False)
    return BernoulliDecoder(net, images.shape, context_features)
