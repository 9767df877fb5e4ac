"""Metrics: likelihood with its standard error, mode coverage, use of states."""

from modeflow.metrics.likelihood import LogLikelihood, bits_per_dim, summarise
from modeflow.metrics.modes import (
    bridge_mass,
    modes_found,
    normalized_mutual_information,
    state_usage_entropy,
    true_bridge_mass,
)

__all__ = [
    "LogLikelihood",
    "bits_per_dim",
    "bridge_mass",
    "modes_found",
    "normalized_mutual_information",
    "state_usage_entropy",
    "summarise",
    "true_bridge_mass",
]
