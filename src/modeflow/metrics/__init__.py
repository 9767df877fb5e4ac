"""Metrics: likelihood with its standard error, mode coverage, use of states; `synthetic` of tables."""

from modeflow.metrics import synthetic
from modeflow.metrics.image_features import (
    FEATURES,
    GenerationScores,
    inception_fid,
    score_samples_of,
    small_features,
)
from modeflow.metrics.images import (
    Memorisation,
    PrecisionRecall,
    frechet_distance,
    memorisation,
    nearest_images,
    precision_recall,
)
from modeflow.metrics.likelihood import (
    BitsPerDim,
    LogLikelihood,
    bits_per_dim,
    image_bits,
    pooled,
    reconstruction_error,
    summarise,
    summarise_bits,
)
from modeflow.metrics.modes import (
    adjusted_rand,
    bridge_mass,
    islands_reached,
    modes_found,
    normalized_mutual_information,
    state_usage_entropy,
    true_bridge_mass,
)
from modeflow.metrics.ranks import rank_p_values, rank_threshold

__all__ = [
    "FEATURES",
    "BitsPerDim",
    "GenerationScores",
    "LogLikelihood",
    "Memorisation",
    "PrecisionRecall",
    "adjusted_rand",
    "bits_per_dim",
    "bridge_mass",
    "frechet_distance",
    "image_bits",
    "inception_fid",
    "islands_reached",
    "memorisation",
    "modes_found",
    "nearest_images",
    "normalized_mutual_information",
    "pooled",
    "precision_recall",
    "rank_p_values",
    "rank_threshold",
    "reconstruction_error",
    "score_samples_of",
    "small_features",
    "state_usage_entropy",
    "summarise",
    "summarise_bits",
    "synthetic",
    "true_bridge_mass",
]
