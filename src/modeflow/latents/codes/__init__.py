"""A latent of codes, strings or maps of them: the density is a bound, by the likeliest strings."""

from modeflow.latents.codes.kbest import k_best
from modeflow.latents.codes.model import SequentialLatentModel
from modeflow.latents.codes.objective import CodesObjective
from modeflow.latents.codes.options import CodesOptions, TableCodes
from modeflow.latents.codes.quantizer import VectorQuantizer

__all__ = [
    "CodesObjective",
    "CodesOptions",
    "SequentialLatentModel",
    "TableCodes",
    "VectorQuantizer",
    "k_best",
]
