"""Recipes by the literature's name. Each returns a density over ``(features,)``."""

from modeflow.flows.affine import IAF, MAF, NICE, RealNVP
from modeflow.flows.elementary import PlanarFlow, RadialFlow
from modeflow.flows.made import MADE, MAFMoG
from modeflow.flows.monotonic import NAF, SOS
from modeflow.flows.registry import FLOWS, RecipeInfo, build_flow, flow_recipe
from modeflow.flows.spline import NSF

__all__ = [
    "FLOWS",
    "IAF",
    "MADE",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "SOS",
    "MAFMoG",
    "PlanarFlow",
    "RadialFlow",
    "RealNVP",
    "RecipeInfo",
    "build_flow",
    "flow_recipe",
]
