"""Recipes by the literature's name. Each returns a density over ``(features,)``, or ``(C, H, W)``."""

from modeflow.flows.affine import IAF, MAF, NICE, RealNVP
from modeflow.flows.bounded import AEF, CIF, NoisyAEF
from modeflow.flows.continuous import FFJORD, ResidualFlow, ScoreSDE
from modeflow.flows.dequantised import Dequantized
from modeflow.flows.elementary import PlanarFlow, RadialFlow
from modeflow.flows.flowplusplus import FlowPlusPlus, FlowPlusPlusImage
from modeflow.flows.image import FunnelImage, Glow, MARPrior, NSFImage, RealNVPImage
from modeflow.flows.made import MADE, MAFMoG
from modeflow.flows.monotonic import NAF, SOS, NAFDense
from modeflow.flows.recipes import FLOWS, RecipeInfo, recipe
from modeflow.flows.registry import build_flow, flow_recipe, image_flow
from modeflow.flows.rival import GMMBaseFlow, ResampledFlow, StudentFlow
from modeflow.flows.spline import NSF
from modeflow.flows.survae import Funnel, SurVAE
from modeflow.flows.tan import TAN

__all__ = [
    "AEF",
    "CIF",
    "FFJORD",
    "FLOWS",
    "IAF",
    "MADE",
    "MAF",
    "NAF",
    "NICE",
    "NSF",
    "SOS",
    "TAN",
    "Dequantized",
    "FlowPlusPlus",
    "FlowPlusPlusImage",
    "Funnel",
    "FunnelImage",
    "GMMBaseFlow",
    "Glow",
    "MAFMoG",
    "MARPrior",
    "NAFDense",
    "NSFImage",
    "NoisyAEF",
    "PlanarFlow",
    "RadialFlow",
    "RealNVP",
    "RealNVPImage",
    "RecipeInfo",
    "ResampledFlow",
    "ResidualFlow",
    "ScoreSDE",
    "StudentFlow",
    "SurVAE",
    "build_flow",
    "flow_recipe",
    "image_flow",
    "recipe",
]
