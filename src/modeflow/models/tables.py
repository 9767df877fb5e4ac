"""Models of tables: NVF with a discrete latent, with a continuous one, and the VAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modeflow.densities.base import Density
from modeflow.densities.decoders import GaussianDecoder
from modeflow.flows import build_flow
from modeflow.latents import (
    ContinuousLatentModel,
    ContinuousOptions,
    DiscreteLatentModel,
    DiscreteOptions,
    LatentModel,
    TableLatent,
)
from modeflow.options import check_choice, check_sizes

__all__ = ["LATENTS", "VAE", "ContinuousNVF", "DiscreteNVF", "TableModel"]

#: Latents of tables by name: their options, which make the model.
LATENTS: Mapping[str, type[TableLatent]] = {"discrete": DiscreteOptions, "continuous": ContinuousOptions}


def TableModel(
    features: int,
    latent: str = "discrete",
    n_states: int = 8,
    *,
    flow: str = "nsf-coupling",
    flow_options: Mapping[str, Any] | None = None,
    latent_options: TableLatent | Mapping[str, Any] | None = None,
) -> LatentModel:
    r"""A latent-variable model of rows, ``p(x) = ∫ p(z) p(x | z) dz``, with a conditional flow for p(x|z).

    Arguments:
        features: dimension D of the data.
        latent: its name in `LATENTS`: ``"discrete"`` or ``"continuous"``.
        n_states: K, of a latent that has states; with 1 the model is the plain flow.
        flow, flow_options: the conditional flow, by its name in `modeflow.flows.FLOWS`.
        latent_options: of the latent, an object of its class in `LATENTS` or a mapping.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    check_choice("latent", latent, LATENTS)
    options = LATENTS[latent].of(latent_options, "latent_options")
    return options.model(features, n_states, _flow_of(features, flow, flow_options))


def DiscreteNVF(
    features: int,
    n_states: int = 8,
    *,
    flow: str = "nsf-coupling",
    flow_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DiscreteLatentModel:
    r"""NVF with a discrete latent: ``p(x) = Σ_k π_k p(x | z = k)``, each term a conditional flow.

    Arguments:
        features, n_states, flow, flow_options: as in `TableModel`.
        options: fields of `modeflow.latents.DiscreteOptions`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    latent = DiscreteOptions.of(options, "DiscreteNVF")
    return latent.model(features, n_states, _flow_of(features, flow, flow_options))


def ContinuousNVF(
    features: int,
    latent_features: int = 2,
    *,
    flow: str = "nsf-coupling",
    flow_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> ContinuousLatentModel:
    r"""NVF with a continuous latent: ``p(x) = ∫ N(z; 0, I) p(x | z) dz``, p(x|z) a conditional flow.

    For data along a manifold: z says where on it, the flow what is around it. Its density is a lower bound.

    Arguments:
        features, flow, flow_options: as in `TableModel`. latent_features: dimension L of z.
        options: the other fields of `modeflow.latents.ContinuousOptions`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    latent = _continuous("ContinuousNVF", latent_features, options)
    return latent.model(features, 1, _flow_of(features, flow, flow_options))


def VAE(
    features: int,
    latent_features: int = 2,
    *,
    decoder_features: Sequence[int] = (64, 64),
    scale: str = "shared",
    **options: Any,
) -> ContinuousLatentModel:
    r"""Variational autoencoder: `ContinuousNVF` with a Gaussian in the place of the flow.

    Arguments:
        features, latent_features, options: as in `ContinuousNVF`.
        decoder_features: hidden widths of the decoder. scale: as in `GaussianDecoder`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Kingma and Welling, *Auto-Encoding Variational Bayes*, 2013, https://arxiv.org/abs/1312.6114
    """
    check_sizes(features=features)

    def decoder(context: int) -> Density:
        return GaussianDecoder(features, context, decoder_features, scale)

    return _continuous("VAE", latent_features, options).model(features, 1, decoder)


def _flow_of(features: int, flow: str, options: Mapping[str, Any] | None) -> Callable[[int], Density]:
    """A flow by the width of its context."""
    check_sizes(features=features)
    return lambda context: build_flow(flow, features, context, None if options is None else dict(options))


def _continuous(what: str, latent_features: int, options: Mapping[str, Any]) -> ContinuousOptions:
    check_sizes(latent_features=latent_features)
    return ContinuousOptions.of({"features": latent_features, **options}, what)
