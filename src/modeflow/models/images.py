"""Models of images: NVF with a map of codes for a latent."""

from __future__ import annotations

from typing import Any

from modeflow.densities.sequences import GPT2Prior, IndependentCodes, SequencePrior
from modeflow.errors import ConfigError
from modeflow.flows.dequantised import Dequantized
from modeflow.flows.image import Glow
from modeflow.flows.stack import check_sizes
from modeflow.latents.sequential import SequentialLatentModel, VectorQuantizer
from modeflow.nets.encoder import ConvEncoder

__all__ = ["ImageNVF"]


def ImageNVF(
    shape: tuple[int, int, int],
    *,
    levels: int = 256,
    n_codes: int = 16,
    code_features: int = 8,
    halvings: int = 2,
    encoder_channels: int = 64,
    flow_options: dict[str, Any] | None = None,
    prior: str = "gpt2",
    prior_options: dict[str, Any] | None = None,
    context_in: str = "all",
    sequences: int = 1,
    dequantisation: str = "uniform",
    draws: int = 1,
    stage: str = "joint",
) -> SequentialLatentModel:
    r"""NVF with a sequential latent, for images of whole numbers.

    A residual network and a vector quantiser turn an image into a map of codes; Glow, whose couplings and
    split priors see the map by place, is p(x|z); a GPT-2 over the codes in raster order is p(z). `log_prob`
    is a lower bound on the log-probability of the pixels, code length included
    (`modeflow.metrics.bits_per_dim`).

    Arguments:
        shape: ``(channels, height, width)``; height and width divisible by ``2**halvings``.
        levels: of a pixel.
        n_codes, code_features: V and d. halvings: the map is smaller than the image by ``2**halvings``.
        encoder_channels: width of the encoder.
        flow_options: of `Glow`. context_in: as there.
        prior: ``"gpt2"``, or ``"independent"`` codes. prior_options: of the Transformer.
        sequences: strings over which the bound sums.
        dequantisation, draws: as in `Dequantized`.
        stage: what is fitted first, see `SequentialLatentModel`.

    Raises:
        ConfigError: for sizes that do not fit, or an unknown prior.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    check_sizes(n_codes=n_codes, code_features=code_features, encoder_channels=encoder_channels)
    channels, height, width = shape
    size = 2**halvings
    if height % size or width % size:
        raise ConfigError(f"an image of {height} x {width} cannot be halved {halvings} times")
    grid = (code_features, height // size, width // size)
    length = grid[1] * grid[2]
    if prior not in ("gpt2", "independent"):
        raise ConfigError(f"prior must be 'gpt2' or 'independent', received {prior!r}")
    codes: SequencePrior = (
        GPT2Prior(n_codes, length, **(prior_options or {}))
        if prior == "gpt2"
        else IndependentCodes(n_codes, length)
    )
    options = {"context_shape": grid, "context_in": context_in, **(flow_options or {})}
    flow = Glow(shape, length * code_features, **options)
    likelihood = Dequantized(flow, levels, kind=dequantisation, draws=draws)
    encoder = ConvEncoder(channels, code_features, encoder_channels, halvings, levels)
    quantizer = VectorQuantizer(n_codes, code_features)
    return SequentialLatentModel(codes, likelihood, encoder, quantizer, sequences, stage)
