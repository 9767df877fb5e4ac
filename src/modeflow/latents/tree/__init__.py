"""A tree of discrete latents, one a feature, summed exactly."""

from modeflow.latents.tree.chow_liu import chow_liu, mutual_information
from modeflow.latents.tree.importance import ImportanceTree
from modeflow.latents.tree.likelihood import FlowOverLeaves, LeafLikelihood
from modeflow.latents.tree.model import TreeLatentModel
from modeflow.latents.tree.options import STATES, TreeOptions
from modeflow.latents.tree.prior import TreePrior
from modeflow.latents.tree.start import TreeStart
from modeflow.latents.tree.structure import Tree

__all__ = [
    "STATES",
    "FlowOverLeaves",
    "ImportanceTree",
    "LeafLikelihood",
    "Tree",
    "TreeLatentModel",
    "TreeOptions",
    "TreePrior",
    "TreeStart",
    "chow_liu",
    "mutual_information",
]
