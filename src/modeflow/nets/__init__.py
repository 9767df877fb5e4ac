"""Conditioners: the networks that parametrise transforms. They know tensors only."""

from modeflow.nets.contractive import ContractiveMLP, LipSwish, SpectralConv2d, SpectralLinear
from modeflow.nets.made import MADE, MaskedLinear, ResidualMADE
from modeflow.nets.mlp import MLP, ResidualMLP
from modeflow.nets.timed import ConcatSquash, NoiseNet

__all__ = [
    "MADE",
    "MLP",
    "ConcatSquash",
    "ContractiveMLP",
    "LipSwish",
    "MaskedLinear",
    "NoiseNet",
    "ResidualMADE",
    "ResidualMLP",
    "SpectralConv2d",
    "SpectralLinear",
]
