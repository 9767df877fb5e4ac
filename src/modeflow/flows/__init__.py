"""Recipes by the literature's name. Each returns a `Flow` over ``(features,)``."""

from modeflow.flows.affine import MAF, RealNVP
from modeflow.flows.registry import FLOWS, RecipeInfo, build_flow, flow_recipe
from modeflow.flows.spline import NSF

__all__ = ["FLOWS", "MAF", "NSF", "RealNVP", "RecipeInfo", "build_flow", "flow_recipe"]
