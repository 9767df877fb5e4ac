"""Fitting to a target known up to a constant: reverse divergence, transport score climbing, and chains."""

from modeflow.inference.chains import Chains, hmc, langevin, r_hat
from modeflow.inference.climbing import ClimbedPosterior, ClimbOptions, transport_score_climbing, warp
from modeflow.inference.importance import Estimate, Importance, importance, weigh
from modeflow.inference.pareto import fit_pareto, smooth_log_weights
from modeflow.inference.posterior import FittedPosterior, PosteriorOptions, fit_posterior
from modeflow.inference.starting import annealed_rows
from modeflow.inference.targets import TARGETS, Target, as_target, named_target

__all__ = [
    "TARGETS",
    "Chains",
    "ClimbOptions",
    "ClimbedPosterior",
    "Estimate",
    "FittedPosterior",
    "Importance",
    "PosteriorOptions",
    "Target",
    "annealed_rows",
    "as_target",
    "fit_pareto",
    "fit_posterior",
    "hmc",
    "importance",
    "langevin",
    "named_target",
    "r_hat",
    "smooth_log_weights",
    "transport_score_climbing",
    "warp",
    "weigh",
]
