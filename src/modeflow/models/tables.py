"""Models of tables: a latent and a likelihood, any of one with any of the other; NVF by its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modeflow.densities.base import Density
from modeflow.densities.features import Feature, as_features
from modeflow.errors import ConfigError
from modeflow.latents import (
    ContinuousLatentModel,
    ContinuousOptions,
    DiscreteLatentModel,
    DiscreteOptions,
    LatentModel,
    TableCodes,
    TableLatent,
    TreeLatentModel,
    TreeOptions,
)
from modeflow.models.table_likelihoods import DecoderOptions, decoder_options, table_likelihood, width_of
from modeflow.options import check_choice, check_sizes

__all__ = ["LATENTS", "TREE_FLOW", "ContinuousNVF", "DiscreteNVF", "TableModel", "TreeNVF"]

#: Latents of tables by name: their options, which make the model.
LATENTS: Mapping[str, type[TableLatent]] = {
    "discrete": DiscreteOptions,
    "tree": TreeOptions,
    "continuous": ContinuousOptions,
    "sequential": TableCodes,
}


#: Options of the flow over a tree: shallow, and made of splines and permutations alone, so that reals that
#: are absent pass (`modeflow.latents.FlowOverLeaves`).
TREE_FLOW: Mapping[str, Any] = {
    "layers": 3,
    "hidden_features": 64,
    "mixing": "reverse",
    "context_affine": "none",
    "tail_bound": 5.0,
}


def TableModel(
    features: int | Sequence[Feature],
    latent: str = "discrete",
    n_states: int = 8,
    *,
    likelihood: str = "flow",
    flow: str = "nsf-coupling",
    flow_options: Mapping[str, Any] | None = None,
    latent_options: TableLatent | Mapping[str, Any] | None = None,
    likelihood_options: DecoderOptions | Mapping[str, Any] | None = None,
) -> LatentModel:
    r"""A latent-variable model of rows, ``p(x) = ∫ p(z) p(x | z) dz``, by its latent and its likelihood.

    ============ ==================== ==================== ==================== =============
    likelihood   continuous           discrete             sequential           tree
    ============ ==================== ==================== ==================== =============
    flow         NVF, continuous      NVF, discrete        NVF, sequential      NVF, tree
    gaussian,    VAE                  discrete VAE         VQ-VAE
    bernoulli
    brenier      LIDVAE
    ============ ==================== ==================== ==================== =============

    Arguments:
        features: dimension D of the data; or, for a tree or states, what each feature is.
        latent: its name in `LATENTS`: ``"discrete"``, ``"tree"``, ``"continuous"`` or ``"sequential"``.
        n_states: K, of a latent that has states; with 1 the model is the plain flow.
        likelihood: ``"flow"``, ``"gaussian"``, ``"bernoulli"`` (columns of zeros and ones) or ``"brenier"``
            (a Gaussian about a map of z that is one to one).
        flow, flow_options: the conditional flow, by its name in `modeflow.flows.FLOWS`.
        latent_options: of the latent, an object of its class in `LATENTS` or a mapping.
        likelihood_options: of a likelihood without a flow, a `DecoderOptions` or a mapping.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    check_choice("latent", latent, LATENTS)
    options = LATENTS[latent].of(latent_options, "latent_options")
    decoder = decoder_options(likelihood, likelihood_options)
    columns = as_features(features)
    if likelihood == "flow" and options.mixed:
        reals = sum(feature.kind == "real" for feature in columns)
        return options.model(columns, n_states, _flow_of(reals, flow, flow_options))
    width = width_of(likelihood, columns, latent)
    if latent == "tree":
        raise ConfigError(f"latent='tree' has leaves or a flow, not likelihood='{likelihood}'")
    if likelihood == "brenier" and latent != "continuous":
        raise ConfigError(f"likelihood='brenier' is of latent='continuous', not of '{latent}'")
    made = table_likelihood(likelihood, width, decoder, flow, flow_options)
    return options.model(width, n_states, made)


def DiscreteNVF(
    features: int | Sequence[Feature],
    n_states: int = 8,
    *,
    flow: str = "nsf-coupling",
    flow_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> DiscreteLatentModel:
    r"""NVF with a discrete latent: ``p(x) = Σ_k π_k p(x | z = k)``, each term a conditional flow.

    Of mixed features a term is a chain, codes first, then angles, then the flow of the reals
    (`modeflow.densities.MixedRows`).

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
    columns = as_features(features)
    reals = sum(feature.kind == "real" for feature in columns)
    return latent.model(columns, n_states, _flow_of(reals, flow, flow_options))


def TreeNVF(
    features: int | Sequence[Feature],
    states: int = 64,
    *,
    flow: str = "nsf-autoregressive",
    flow_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> TreeLatentModel:
    r"""NVF with a tree of states, K a feature, under a flow: ``p(x) = Σ_z p(z) p(T(x) | z) |det T'|``.

    The flow straightens the reals, given the other features; the tree of states over all of them is its base.
    Its default is three autoregressive layers of splines (`TREE_FLOW`).

    Arguments:
        features: how many reals, or what each feature is. states: K of each.
        flow, flow_options: as in `TableModel`.
        options: the other fields of `modeflow.latents.TreeOptions`.

    Raises:
        ConfigError: for a value that is not allowed.

    Reference:
        Dong et al., *Normalizing Flow with Variational Latent Representation*, 2022,
        https://arxiv.org/abs/2211.11638
    """
    latent = TreeOptions.of({"states": states, **options}, "TreeNVF")
    columns = as_features(features)
    reals = sum(feature.kind == "real" for feature in columns)
    given = {**(TREE_FLOW if flow == "nsf-autoregressive" else {}), **(flow_options or {})}
    return latent.model(columns, 1, _flow_of(reals, flow, given))


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


def _flow_of(features: int, flow: str, options: Mapping[str, Any] | None) -> Callable[[int], Density]:
    """A flow by the width of its context."""
    return table_likelihood("flow", features, DecoderOptions(), flow, options)


def _continuous(what: str, latent_features: int, options: Mapping[str, Any]) -> ContinuousOptions:
    check_sizes(latent_features=latent_features)
    return ContinuousOptions.of({"features": latent_features, **options}, what)
