"""Models of images of whole numbers: a likelihood and a latent, any of one with any of the other."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from modeflow.densities.base import Density
from modeflow.densities.image_decoders import DiscretizedDecoder
from modeflow.densities.normal import StandardNormal
from modeflow.densities.sequences import GPT2Prior, IndependentCodes, SequencePrior
from modeflow.errors import ConfigError, nearest
from modeflow.flows import image_flow
from modeflow.flows.dequantised import Dequantized
from modeflow.flows.stack import check_sizes
from modeflow.latents import (
    CategoricalEncoder,
    CategoricalPrior,
    ContinuousELBO,
    ContinuousLatentModel,
    DiscreteLatentModel,
    LatentModel,
    Schedule,
    SequentialLatentModel,
    VectorQuantizer,
    build_objective,
    build_posterior,
)
from modeflow.nets.encoder import ConvEncoder, ConvVectorEncoder
from modeflow.transforms.pixels import PixelBins, PixelGaussianize

__all__ = ["IMAGE_LATENTS", "IMAGE_LIKELIHOODS", "ImageModel", "ImageNVF", "ImageVAE"]

IMAGE_LATENTS = ("none", "continuous", "discrete", "sequential")
IMAGE_LIKELIHOODS = ("flow", "logistic", "gaussian")

Shape = tuple[int, int, int]
#: What a prior of codes is given beside its options.
_GIVEN = ("self", "n_codes", "length")


def ImageModel(
    shape: Shape,
    *,
    levels: int = 256,
    latent: str = "sequential",
    likelihood: str = "flow",
    n_codes: int = 64,
    code_features: int = 8,
    codes_per_image: int | None = None,
    n_states: int = 10,
    latent_features: int = 32,
    posterior: str = "gaussian",
    halvings: int = 2,
    encoder_channels: int = 64,
    decoder_channels: int = 64,
    components: int = 3,
    flow: str = "glow",
    flow_options: Mapping[str, Any] | None = None,
    entry: str | None = None,
    context_in: str = "all",
    prior: str | None = None,
    prior_options: Mapping[str, Any] | None = None,
    objective: str | None = None,
    kl_warmup_steps: int | None = None,
    free_bits: float = 0.0,
    sequences: int = 1,
    dequantisation: str = "uniform",
    draws: int = 1,
    latent_draws: int = 16,
    schedule: Schedule | None = None,
) -> LatentModel:
    r"""A latent-variable model of images, ``p(x) = ∫ p(z) p(x | z) dz``, by its likelihood and its latent.

    ============ ==================== ==================== =====================
    likelihood   continuous           discrete             sequential
    ============ ==================== ==================== =====================
    flow         NVF, continuous      NVF, discrete        NVF, sequential
    logistic,    VAE                  discrete VAE         VQ-VAE
    gaussian
    ============ ==================== ==================== =====================

    The flow is the literature's Glow (or another of `modeflow.flows.FLOWS` for images) on pixels that the
    context's own prediction has made Gaussian (`PixelGaussianize`), so that it begins with the likelihood of
    the row below and learns what pixels have in common beyond it. `log_prob` is of the pixels, what z costs
    included: exact for the discrete latent with a likelihood without a flow, else a lower bound.

    Arguments:
        shape: ``(channels, height, width)``; height and width divisible by ``2**halvings``.
        levels: of a pixel.
        latent: ``"sequential"``, ``"discrete"``, ``"continuous"``, or ``"none"`` (one density for all).
        likelihood: ``"flow"``, ``"logistic"`` or ``"gaussian"`` (discretised, exact on whole numbers).
        n_codes, code_features: V and d of the codes. n_states: K. latent_features: of a continuous z.
        posterior: of a continuous z, by its name in `modeflow.latents.POSTERIORS`.
        codes_per_image: so many codes, each of the whole image; None for a map of codes, one for each place.
        halvings: the map of codes is smaller than the image by ``2**halvings``; so the encoder's.
        encoder_channels, decoder_channels: widths of the networks to and from z.
        components: of the mixture at every pixel.
        flow, flow_options: the flow by its name, and its options.
        entry: what stands before the flow: ``"pixels"`` (`PixelGaussianize`; the default with a latent), or
            ``"affine"`` (values in ±1/2; the default without).
        context_in: where Glow sees a map of codes: ``"all"`` couplings and priors, or ``"priors"``.
        prior: of codes: ``"gpt2"`` or ``"independent"``; of states: ``"learned"`` or ``"uniform"``.
        prior_options: of the Transformer.
        objective: of a discrete latent, see `modeflow.latents.objectives`; "truncated" if None.
        kl_warmup_steps: of a continuous latent, or of an ELBO of a discrete one.
        free_bits: of a continuous latent.
        sequences: strings over which the bound sums. dequantisation, draws: as in `Dequantized`.
        latent_draws: of a continuous z, over which the bound averages.
        schedule: what is fitted when.

    Raises:
        ConfigError: for sizes that do not fit, an unknown name, or an option of the objective of another
            latent.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638; van den Oord et al., *Neural Discrete Representation Learning*,
        2017; Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013
    """
    _choice("latent", latent, IMAGE_LATENTS)
    _choice("likelihood", likelihood, IMAGE_LIKELIHOODS)
    check_sizes(
        n_codes=n_codes,
        code_features=code_features,
        codes_per_image=codes_per_image or 1,
        n_states=n_states,
        latent_features=latent_features,
        encoder_channels=encoder_channels,
        decoder_channels=decoder_channels,
    )
    warmup = {} if kl_warmup_steps is None else {"kl_warmup_steps": kl_warmup_steps}
    _check_objective(latent, objective, warmup, free_bits)
    channels, height, width = shape
    size = 2**halvings
    if height % size or width % size:
        raise ConfigError(f"an image of {height} x {width} cannot be halved {halvings} times")
    grid = (code_features, height // size, width // size)
    context: tuple[int, Shape | None] = {
        "none": (0, None),
        "continuous": (latent_features, None),
        "discrete": (n_states if n_states > 1 else 0, None),
        "sequential": (math.prod(grid), grid)
        if codes_per_image is None
        else (codes_per_image * code_features, None),
    }[latent]
    entry = entry or ("affine" if context[0] == 0 else "pixels")
    _choice("entry", entry, ("pixels", "affine"))
    bins: PixelBins | None = None
    if likelihood != "flow" or entry == "pixels":
        kind = "logistic" if likelihood == "flow" else likelihood
        bins = PixelBins(shape, levels, *context, kind, components, decoder_channels, halvings)
    density: Density
    if likelihood == "flow":
        options = dict(flow_options or {})
        if context[1] is not None:
            options = {"context_shape": grid, "context_in": context_in, **options}
        inner = image_flow(flow, shape, context[0], options)
        gauss = PixelGaussianize(bins) if bins is not None else None
        density = Dequantized(inner, levels, kind=dequantisation, draws=draws, entry=gauss)
    else:
        assert bins is not None
        density = DiscretizedDecoder(bins)

    model: LatentModel
    if latent == "sequential":
        encoder: nn.Module = ConvEncoder(channels, code_features, encoder_channels, halvings, levels)
        length = grid[1] * grid[2]
        if codes_per_image is not None:
            length = codes_per_image
            net = ConvVectorEncoder(shape, length * code_features, encoder_channels, halvings, levels)
            encoder = nn.Sequential(net, nn.Unflatten(1, (length, code_features)))
        codes = _codes(prior, n_codes, length, prior_options)
        quantizer = VectorQuantizer(n_codes, code_features)
        model = SequentialLatentModel(codes, density, encoder, quantizer, sequences)
    elif latent == "continuous":

        def reads(outputs: int) -> nn.Module:
            return ConvVectorEncoder(shape, outputs, encoder_channels, halvings, levels)

        loss = ContinuousELBO(free_bits=free_bits, **warmup)
        q = build_posterior(posterior, latent_features, make_net=reads)
        model = ContinuousLatentModel(
            StandardNormal(latent_features), density, q, loss, latent_draws, chunk_rows=256
        )
    else:
        _choice("prior", prior or "learned", ("learned", "uniform"))
        states = CategoricalPrior(n_states if latent == "discrete" else 1, learned=prior != "uniform")
        if context[0] == 0:
            model = DiscreteLatentModel(states, density, None, None, chunk_rows=256)
        else:
            net = ConvVectorEncoder(shape, n_states, encoder_channels, halvings, levels)
            fitted = build_objective(objective or "truncated", **warmup)
            classifier = CategoricalEncoder(n_states=n_states, net=net)
            model = DiscreteLatentModel(states, density, classifier, fitted, chunk_rows=256)
    if schedule is not None:
        model.schedule = schedule
    return model


def ImageNVF(shape: Shape, **options: Any) -> LatentModel:
    """`ImageModel` with a flow: NVF for images, with a sequential latent unless `latent` says otherwise."""
    return ImageModel(shape, likelihood="flow", **options)


def ImageVAE(
    shape: Shape, *, latent: str = "continuous", likelihood: str = "logistic", **options: Any
) -> LatentModel:
    """`ImageModel` without a flow: VAE, discrete VAE or, with ``latent="sequential"``, VQ-VAE."""
    if likelihood == "flow":
        raise ConfigError("a VAE has no flow: likelihood must be 'logistic' or 'gaussian'")
    return ImageModel(shape, latent=latent, likelihood=likelihood, **options)


def _codes(prior: str | None, n_codes: int, length: int, options: Mapping[str, Any] | None) -> SequencePrior:
    _choice("prior", prior or "gpt2", ("gpt2", "independent"))
    if prior == "independent":
        return IndependentCodes(n_codes, length)
    known = [n for n in inspect.signature(GPT2Prior.__init__).parameters if n not in _GIVEN]
    for name in options or {}:
        if name not in known:
            raise ConfigError(
                f"prior_options: {name!r} is not known{nearest(name, known)} (options: {', '.join(known)})"
            )
    return GPT2Prior(n_codes, length, **dict(options or {}))


def _check_objective(latent: str, objective: str | None, warmup: Mapping[str, int], free_bits: float) -> None:
    """Refuse what only the objective of another latent has a use for."""
    refused = {
        "objective": objective is not None and latent != "discrete",
        "kl_warmup_steps": bool(warmup) and latent in ("none", "sequential"),
        "free_bits": bool(free_bits) and latent != "continuous",
    }
    for name, wrong in refused.items():
        if wrong:
            raise ConfigError(f"a latent '{latent}' has no use for {name}: leave it out")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"{name} must be one of {', '.join(allowed)}; received {value!r}{nearest(str(value), allowed)}"
        )
