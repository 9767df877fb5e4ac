"""The table of flow recipes: what `modeflow models` lists and what `flow="..."` accepts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeflow.densities.base import Density
from modeflow.densities.flow import Flow
from modeflow.errors import ConfigError, nearest
from modeflow.flows.affine import IAF, MAF, NICE, RealNVP
from modeflow.flows.bounded import AEF, CIF, NoisyAEF
from modeflow.flows.continuous import FFJORD, ResidualFlow, ScoreSDE
from modeflow.flows.elementary import PlanarFlow, RadialFlow
from modeflow.flows.flowplusplus import FlowPlusPlus, FlowPlusPlusImage
from modeflow.flows.image import FunnelImage, Glow, MARPrior, NSFImage, RealNVPImage
from modeflow.flows.image_table import as_table_flow, image_shape
from modeflow.flows.made import MADE, MAFMoG
from modeflow.flows.monotonic import NAF, SOS, NAFDense
from modeflow.flows.rival import GMMBaseFlow, ResampledFlow, StudentFlow
from modeflow.flows.spline import NSF
from modeflow.flows.survae import Funnel, SurVAE
from modeflow.flows.tan import TAN
from modeflow.transforms.base import Exactness

__all__ = ["FLOWS", "RecipeInfo", "build_flow", "flow_recipe", "image_flow"]


@dataclass(frozen=True)
class RecipeInfo:
    """One recipe: its name in the literature and what its directions cost.

    `cost_log_prob` and `cost_sample` count passes through the conditioners for D features.
    """

    key: str
    name: str
    recipe: Callable[..., Density]
    paper: str
    event: str
    density: Exactness
    cost_log_prob: str
    cost_sample: str
    preset: dict[str, Any]


FLOWS: dict[str, RecipeInfo] = {
    info.key: info
    for info in (
        RecipeInfo(
            "nsf-coupling", "NSF", NSF, "Durkan et al. 2019, arXiv:1906.04032",
            "vector", "exact", "1 pass", "1 pass", {"coupling": True},
        ),
        RecipeInfo(
            "nsf-autoregressive", "NSF", NSF, "Durkan et al. 2019, arXiv:1906.04032",
            "vector", "exact", "1 pass", "D passes", {"coupling": False},
        ),
        RecipeInfo(
            "realnvp", "RealNVP", RealNVP, "Dinh et al. 2017, arXiv:1605.08803",
            "vector", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "maf", "MAF", MAF, "Papamakarios et al. 2017, arXiv:1705.07057",
            "vector", "exact", "1 pass", "D passes", {},
        ),
        RecipeInfo(
            "maf-mog", "MAFMoG", MAFMoG, "Papamakarios et al. 2017, arXiv:1705.07057",
            "vector", "exact", "1 pass", "D passes", {},
        ),
        RecipeInfo(
            "iaf", "IAF", IAF, "Kingma et al. 2016, arXiv:1606.04934",
            "vector", "exact", "D passes", "1 pass", {},
        ),
        RecipeInfo(
            "nice", "NICE", NICE, "Dinh et al. 2014, arXiv:1410.8516",
            "vector", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "made", "MADE", MADE, "Germain et al. 2015, arXiv:1502.03509",
            "vector", "exact", "1 pass", "D passes", {},
        ),
        RecipeInfo(
            "naf", "NAF", NAF, "Huang et al. 2018, arXiv:1804.00779",
            "vector", "exact", "1 pass", "D passes, bisections", {},
        ),
        RecipeInfo(
            "naf-dense", "NAFDense", NAFDense, "Huang et al. 2018, arXiv:1804.00779",
            "vector", "exact", "1 pass", "D passes, bisections", {},
        ),
        RecipeInfo(
            "sos", "SOS", SOS, "Jaini et al. 2019, arXiv:1905.02325",
            "vector", "exact", "1 pass", "D passes, bisections", {},
        ),
        RecipeInfo(
            "planar", "PlanarFlow", PlanarFlow, "Rezende and Mohamed 2015, arXiv:1505.05770",
            "vector", "exact", "1 pass", "1 scalar root a layer", {},
        ),
        RecipeInfo(
            "radial", "RadialFlow", RadialFlow, "Rezende and Mohamed 2015, arXiv:1505.05770",
            "vector", "exact", "1 pass", "1 scalar root a layer", {},
        ),
        RecipeInfo(
            "tan", "TAN", TAN, "Oliva et al. 2018, arXiv:1801.09819",
            "vector", "exact", "1 pass, D steps", "D steps", {},
        ),
        RecipeInfo(
            "ffjord", "FFJORD", FFJORD, "Grathwohl et al. 2019, arXiv:1810.01367",
            "vector", "estimate", "48 evaluations and traces", "48 evaluations", {},
        ),
        RecipeInfo(
            "score-sde", "ScoreSDE", ScoreSDE, "Song et al. 2021, arXiv:2011.13456",
            "vector", "estimate", "80 evaluations and traces", "80 evaluations", {},
        ),
        RecipeInfo(
            "residual", "ResidualFlow", ResidualFlow, "Chen et al. 2019, arXiv:1906.02735",
            "vector", "exact", "1 pass, D products", "a fixed point a layer", {},
        ),
        RecipeInfo(
            "survae", "SurVAE", SurVAE, "Nielsen et al. 2020, arXiv:2007.02731",
            "vector", "lower bound", "1 pass a draw (16)", "1 pass", {},
        ),
        RecipeInfo(
            "funnel", "Funnel", Funnel, "Klein et al. 2021, arXiv:2112.08069",
            "vector", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "aef", "AEF", AEF, "Silvestri et al. 2023, arXiv:2205.09546",
            "vector", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "aef-noisy", "NoisyAEF", NoisyAEF, "Silvestri et al. 2023, arXiv:2205.09546",
            "vector", "lower bound", "1 pass a draw (16)", "1 pass", {},
        ),
        RecipeInfo(
            "cif", "CIF", CIF, "Cornish et al. 2020, arXiv:1909.13833",
            "vector", "lower bound", "1 pass a draw (16)", "1 pass", {},
        ),
        RecipeInfo(
            "gmm-base", "GMMBaseFlow", GMMBaseFlow, "Izmailov et al. 2020, arXiv:1912.13025",
            "vector", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "resampled-base", "ResampledFlow", ResampledFlow, "Stimper et al. 2022, arXiv:2110.15828",
            "vector", "estimate", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "student-base", "StudentFlow", StudentFlow, "Alexanderson and Henter 2020, arXiv:2006.06599",
            "vector", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "flowpp", "FlowPlusPlus", FlowPlusPlus, "Ho et al. 2019, arXiv:1902.00275",
            "vector", "exact", "1 pass", "1 pass, bisections", {},
        ),
        RecipeInfo(
            "flowpp-image", "FlowPlusPlusImage", FlowPlusPlusImage, "Ho et al. 2019, arXiv:1902.00275",
            "image", "exact", "1 pass", "1 pass, bisections", {},
        ),
        RecipeInfo(
            "glow", "Glow", Glow, "Kingma and Dhariwal 2018, arXiv:1807.03039",
            "image", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "realnvp-image", "RealNVPImage", RealNVPImage, "Dinh et al. 2017, arXiv:1605.08803",
            "image", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "nsf-image", "NSFImage", NSFImage, "Durkan et al. 2019, arXiv:1906.04032",
            "image", "exact", "1 pass", "1 pass", {},
        ),
        RecipeInfo(
            "marprior", "MARPrior", MARPrior, "Bhattacharyya et al. 2020, arXiv:2004.03891",
            "image", "exact", "1 pass", "1 pass, channels passes of the priors", {},
        ),
        RecipeInfo(
            "funnel-image", "FunnelImage", FunnelImage, "Klein et al. 2021, arXiv:2112.08069",
            "image", "exact", "1 pass", "1 pass", {},
        ),
    )
}  # fmt: skip


def flow_recipe(key: str) -> RecipeInfo:
    """Return the recipe of that name, in upper or lower case; the name of the recipe itself will do.

    Raises:
        ConfigError: if there is none, naming the nearest.
    """
    word = str(key).lower()
    info = FLOWS.get(word) or next((i for i in FLOWS.values() if i.name.lower() == word), None)
    if info is None:
        raise ConfigError(f"flow {key!r} is not known{nearest(word, FLOWS)} (one of {', '.join(FLOWS)})")
    return info


def build_flow(
    key: str, features: int, context_features: int = 0, options: dict[str, Any] | None = None
) -> Density:
    """Build a registered flow over ``(features,)``.

    A flow of images takes a row as an image, channel by channel and line by line: its option ``shape`` is
    ``[channels, height, width]``; square images of one channel or three are recognised without. It has
    ``context_affine`` beside its recipe's options, as in `NSF`.

    Arguments:
        key: a name of `FLOWS`.
        features, context_features: widths of data and context.
        options: keyword arguments of the recipe.

    Raises:
        ConfigError: for an unknown name or option (the nearest is suggested).
    """
    info = flow_recipe(key)
    given = _checked_options(info, options or {}, ["context_affine"] if info.event == "image" else [])
    if info.event == "image":
        shape = image_shape(key, features, given.pop("shape", None))
        affine = given.pop("context_affine", "auto")
        return as_table_flow(info.recipe(shape, context_features, **given), affine)
    return info.recipe(features, context_features, **given)


def image_flow(
    key: str, shape: tuple[int, int, int], context_features: int = 0, options: Mapping[str, Any] | None = None
) -> Flow:
    """Build a registered flow of images over ``(channels, height, width)``.

    Arguments:
        key: a name of `FLOWS`. shape: of the images. context_features: width of the context.
        options: keyword arguments of the recipe; those of a context that is a map (``context_shape``,
            ``context_in``) only where the recipe knows them: others take it as a vector.

    Raises:
        ConfigError: a flow of vectors, or an unknown name or option (the nearest is suggested).
    """
    info = flow_recipe(key)
    if info.event != "image":
        images = ", ".join(k for k, i in FLOWS.items() if i.event == "image")
        raise ConfigError(f"flow {key!r} is one of vectors; for images there are {images}")
    known = inspect.signature(info.recipe).parameters
    plain = {k: v for k, v in (options or {}).items() if k in known or not k.startswith("context_")}
    flow = info.recipe(shape, context_features, **_checked_options(info, plain))
    assert isinstance(flow, Flow)
    return flow


def _checked_options(
    info: RecipeInfo, options: Mapping[str, Any], more: Sequence[str] = ()
) -> dict[str, Any]:
    known = list(inspect.signature(info.recipe).parameters)
    allowed = [n for n in known if n not in ("features", "shape", "context_features", *info.preset)]
    if info.event == "image" and more:
        allowed.append("shape")
    allowed += more
    for name in options:
        if name not in allowed:
            raise ConfigError(
                f"{name!r} is not an option of {info.key}{nearest(name, allowed)} "
                f"(options: {', '.join(allowed)})"
            )
    return {**info.preset, **options}
