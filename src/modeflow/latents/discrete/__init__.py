"""A latent of K states: the density is a sum over them."""

from modeflow.latents.discrete.islands import (
    CLEAR,
    LIKELY,
    Islands,
    Relief,
    find_islands,
    merge_islands,
    survey,
)
from modeflow.latents.discrete.model import DiscreteLatentModel, PrunedLogProb
from modeflow.latents.discrete.objectives import (
    OBJECTIVES,
    GumbelELBO,
    Marginal,
    Objective,
    SummedELBO,
    Truncated,
    build_objective,
    check_options,
)
from modeflow.latents.discrete.options import DiscreteOptions, ImageStates, NoLatent
from modeflow.latents.discrete.partition import Partition, Survey, partition
from modeflow.latents.discrete.prune import prune_dead_states
from modeflow.latents.discrete.stable import stable_islands
from modeflow.latents.discrete.start import IslandStart, look
from modeflow.latents.discrete.start_images import ClusterStart, cluster_images

__all__ = [
    "CLEAR",
    "LIKELY",
    "OBJECTIVES",
    "ClusterStart",
    "DiscreteLatentModel",
    "DiscreteOptions",
    "GumbelELBO",
    "ImageStates",
    "IslandStart",
    "Islands",
    "Marginal",
    "NoLatent",
    "Objective",
    "Partition",
    "PrunedLogProb",
    "Relief",
    "SummedELBO",
    "Survey",
    "Truncated",
    "build_objective",
    "check_options",
    "cluster_images",
    "find_islands",
    "look",
    "merge_islands",
    "partition",
    "prune_dead_states",
    "stable_islands",
    "survey",
]
