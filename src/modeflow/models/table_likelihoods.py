"""Likelihoods of tables: with a flow, or by a decoder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeflow.densities.base import Density
from modeflow.densities.decoders import BernoulliDecoder, GaussianDecoder, check_scale
from modeflow.densities.features import Feature
from modeflow.errors import ConfigError
from modeflow.flows import build_flow
from modeflow.latents.options import check_widths
from modeflow.nets.brenier import BrenierMap
from modeflow.nets.mlp import MLP
from modeflow.options import Options, check_choice, check_sizes

__all__ = ["TABLE_LIKELIHOODS", "DecoderOptions", "decoder_options", "table_likelihood"]

#: Likelihoods of tables by name; all but the first are decoders.
TABLE_LIKELIHOODS = ("flow", "gaussian", "bernoulli", "brenier")


@dataclass(kw_only=True)
class DecoderOptions(Options):
    """Options of a likelihood of tables without a flow.

    Arguments:
        decoder_features: hidden widths of the network from z; of "brenier", of its two convex networks.
        scale: of "gaussian" and "brenier", the noise about the mean: "shared", one learned scale a column;
            "predicted", scales by the network (of "gaussian"); or a number, in standard deviations of the
            columns.
        min_scale: smallest scale that is learned; without one a likelihood of numbers has no maximum.
    """

    decoder_features: Sequence[int] = (64, 64)
    scale: str | float = "shared"
    min_scale: float = 1e-3

    def __post_init__(self) -> None:
        check_widths("decoder_features", self.decoder_features)
        check_scale(self.scale, self.min_scale)


def decoder_options(
    likelihood: str, given: Options | Mapping[str, Any] | None, what: str = "likelihood_options"
) -> DecoderOptions:
    """The options of a likelihood of tables, checked.

    Raises:
        ConfigError: for a likelihood or a value that is not allowed, or options that it has no use for.
    """
    check_choice("likelihood", likelihood, TABLE_LIKELIHOODS)
    options = DecoderOptions.of(given, what)
    usual = DecoderOptions()
    useless = {"flow": ("decoder_features", "scale", "min_scale"), "bernoulli": ("scale", "min_scale")}
    for name in useless.get(likelihood, ()):
        if not _same(getattr(options, name), getattr(usual, name)):
            raise ConfigError(f"likelihood='{likelihood}' has no use for {name}: leave it out")
    if likelihood == "brenier" and options.scale == "predicted":
        raise ConfigError("likelihood='brenier' has scale='shared' or a number: its map says where alone")
    return options


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Sequence) and not isinstance(one, str):
        return list(one) == list(other)
    return bool(one == other)


def table_likelihood(
    likelihood: str,
    features: int,
    options: DecoderOptions,
    flow: str = "nsf-coupling",
    flow_options: Mapping[str, Any] | None = None,
) -> Callable[[int], Density]:
    """p(x|z) of rows ``(N, features)`` by the width of its context.

    Arguments:
        likelihood: one of `TABLE_LIKELIHOODS`. features: D. options: of a decoder.
        flow, flow_options: of "flow", as in `TableModel`.
    """
    widths = tuple(options.decoder_features)

    def make(context: int) -> Density:
        check_sizes(features=features)
        if likelihood == "flow":
            return build_flow(flow, features, context, None if flow_options is None else dict(flow_options))
        if likelihood == "bernoulli":
            net = MLP(context, features, widths) if context else None
            return BernoulliDecoder(net, (features,), context)
        convex = BrenierMap(context, features, widths) if likelihood == "brenier" else None
        return GaussianDecoder(features, context, widths, options.scale, options.min_scale, convex)

    return make


def width_of(likelihood: str, columns: Sequence[Feature], latent: str) -> int:
    """How many numbers a row has for a likelihood and a latent that take no mixed rows.

    Raises:
        ConfigError: for columns of another kind.
    """
    binary = all(feature.kind == "code" and feature.levels == 2 for feature in columns)
    real = all(feature.kind == "real" for feature in columns)
    if likelihood == "bernoulli":
        if not (binary or real):
            raise ConfigError("likelihood='bernoulli' takes columns of two values alone")
    elif not real:
        what = f"latent='{latent}'" if likelihood == "flow" else f"likelihood='{likelihood}'"
        raise ConfigError(
            f"{what} takes columns of numbers alone: NVF with latent='tree', 'discrete' or 'auto' takes any"
        )
    return len(columns)
