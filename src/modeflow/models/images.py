"""Models of images of whole numbers: a likelihood and a latent, any of one with any of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modeflow.densities.base import Density
from modeflow.errors import ConfigError
from modeflow.latents import (
    CodesOptions,
    ImageContinuous,
    ImageLatent,
    Images,
    ImageStates,
    LatentModel,
    NoLatent,
)
from modeflow.latents.options import ImageShape
from modeflow.models.likelihoods import IMAGE_LIKELIHOODS, LikelihoodOptions, image_likelihood
from modeflow.options import check_choice

__all__ = ["IMAGE_LATENTS", "ImageModel", "ImageNVF", "ImageVAE"]

#: Latents of images by name: their options, which make the model.
IMAGE_LATENTS: Mapping[str, type[ImageLatent]] = {
    "none": NoLatent,
    "discrete": ImageStates,
    "continuous": ImageContinuous,
    "sequential": CodesOptions,
}


def ImageModel(
    shape: ImageShape,
    *,
    levels: int = 256,
    latent: str = "sequential",
    likelihood: str = "flow",
    flow: str = "glow",
    flow_options: Mapping[str, Any] | None = None,
    halvings: int = 2,
    latent_options: ImageLatent | Mapping[str, Any] | None = None,
    likelihood_options: LikelihoodOptions | Mapping[str, Any] | None = None,
) -> LatentModel:
    r"""A latent-variable model of images, ``p(x) = ∫ p(z) p(x | z) dz``, by its likelihood and its latent.

    ============ ==================== ==================== =====================
    likelihood   continuous           discrete             sequential
    ============ ==================== ==================== =====================
    flow         NVF, continuous      NVF, discrete        NVF, sequential
    logistic,    VAE                  discrete VAE         VQ-VAE
    gaussian,
    bernoulli
    ============ ==================== ==================== =====================

    The flow is the literature's Glow (or another of `modeflow.flows.FLOWS` for images) on pixels that the
    context's own prediction has made Gaussian (`PixelGaussianize`), so that it begins with the likelihood of
    the row below and learns what pixels have in common beyond it. `log_prob` is of the pixels, what z costs
    included: exact for the discrete latent with a likelihood without a flow, else a lower bound.

    Arguments:
        shape: ``(channels, height, width)``; height and width divisible by ``2**halvings``.
        levels: of a pixel.
        latent: its name in `IMAGE_LATENTS`: ``"sequential"`` (codes), ``"discrete"``, ``"continuous"``, or
            ``"none"`` (one density for all).
        likelihood: ``"flow"``, ``"logistic"`` or ``"gaussian"`` (discretised, exact on whole numbers), or
            ``"bernoulli"`` (of two levels).
        flow, flow_options: the flow by its name, and its options.
        halvings: the map of codes is smaller than the image by ``2**halvings``; so the encoder's.
        latent_options: of the latent, an object of its class in `IMAGE_LATENTS` or a mapping.
        likelihood_options: `LikelihoodOptions`, or a mapping.

    Raises:
        ConfigError: for sizes that do not fit, an unknown name, or an option of another latent.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638; van den Oord et al., *Neural Discrete Representation Learning*,
        2017; Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013
    """
    check_choice("latent", latent, IMAGE_LATENTS)
    check_choice("likelihood", likelihood, IMAGE_LIKELIHOODS)
    options = IMAGE_LATENTS[latent].of(latent_options, "latent_options")
    of_likelihood = LikelihoodOptions.of(likelihood_options, "likelihood_options")
    images = Images(shape, levels, halvings)
    images.grid(1)  # refused here, whether there is a map or not

    def density(context_features: int, context_shape: ImageShape | None) -> Density:
        context = context_features, context_shape
        return image_likelihood(likelihood, images, *context, of_likelihood, flow, flow_options)

    model = options.model(images, density)
    model.schedule = replace(model.schedule, start_steps=of_likelihood.start_steps or 0)
    return model


def ImageNVF(shape: ImageShape, **options: Any) -> LatentModel:
    """`ImageModel` with a flow: NVF for images, with a sequential latent unless `latent` says otherwise."""
    return ImageModel(shape, likelihood="flow", **options)


def ImageVAE(
    shape: ImageShape, *, latent: str = "continuous", likelihood: str = "logistic", **options: Any
) -> LatentModel:
    """`ImageModel` without a flow: VAE, discrete VAE or, with ``latent="sequential"``, VQ-VAE."""
    if likelihood == "flow":
        raise ConfigError("a VAE has no flow: likelihood must be 'logistic', 'gaussian' or 'bernoulli'")
    return ImageModel(shape, latent=latent, likelihood=likelihood, **options)
