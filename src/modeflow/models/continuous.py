"""Models with a continuous latent: NVF for manifolds, and the VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modeflow.densities.decoders import GaussianDecoder
from modeflow.densities.normal import StandardNormal
from modeflow.flows import build_flow
from modeflow.flows.stack import check_sizes
from modeflow.latents import ContinuousELBO, ContinuousLatentModel, build_posterior

__all__ = ["VAE", "ContinuousNVF"]


def ContinuousNVF(
    features: int,
    latent_features: int = 2,
    *,
    flow: str = "nsf-coupling",
    flow_options: dict[str, Any] | None = None,
    posterior: str = "gaussian",
    encoder_features: Sequence[int] = (64, 64),
    kl_warmup_steps: int = 0,
    free_bits: float = 0.0,
    draws: int = 64,
) -> ContinuousLatentModel:
    r"""NVF with a continuous latent: ``p(x) = ∫ N(z; 0, I) p(x | z) dz``, p(x|z) a conditional flow.

    For data along a manifold: z says where on it, the flow what is around it. Its density is a lower bound.

    Arguments:
        features: dimension D of the data. latent_features: dimension L of z.
        flow, flow_options: the conditional flow, by its name in `modeflow.flows.FLOWS`.
        posterior: q(z|x) by its name, ``"gaussian"``, ``"full-gaussian"`` or ``"iaf"``, see
            `modeflow.latents.posteriors`. encoder_features: hidden widths of its network.
        kl_warmup_steps: optimiser steps over which the weight of the KL term rises to one.
        free_bits: nats of every dimension of z that cost nothing; a flow that can do without z needs them.
        draws: of z, over which the bound averages.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    check_sizes(features=features, latent_features=latent_features)
    return ContinuousLatentModel(
        StandardNormal(latent_features),
        build_flow(flow, features, latent_features, flow_options),
        build_posterior(posterior, latent_features, features, encoder_features),
        ContinuousELBO(kl_warmup_steps, free_bits),
        draws,
    )


def VAE(
    features: int,
    latent_features: int = 2,
    *,
    decoder_features: Sequence[int] = (64, 64),
    posterior: str = "gaussian",
    encoder_features: Sequence[int] = (64, 64),
    scale: str = "shared",
    kl_warmup_steps: int = 0,
    free_bits: float = 0.0,
    draws: int = 64,
) -> ContinuousLatentModel:
    r"""Variational autoencoder: `ContinuousNVF` with a Gaussian in the place of the flow.

    Arguments:
        features, latent_features, posterior, encoder_features, kl_warmup_steps, free_bits, draws: as in
            `ContinuousNVF`.
        decoder_features: hidden widths of the decoder. scale: as in `GaussianDecoder`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, https://arxiv.org/abs/1312.6114
    """
    check_sizes(features=features, latent_features=latent_features)
    return ContinuousLatentModel(
        StandardNormal(latent_features),
        GaussianDecoder(features, latent_features, decoder_features, scale),
        build_posterior(posterior, latent_features, features, encoder_features),
        ContinuousELBO(kl_warmup_steps, free_bits),
        draws,
    )
