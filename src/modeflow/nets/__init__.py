"""Conditioners: the networks that parametrise transforms. They know tensors only."""

from modeflow.nets.made import MADE, MaskedLinear, ResidualMADE
from modeflow.nets.mlp import MLP, ResidualMLP

__all__ = ["MADE", "MLP", "MaskedLinear", "ResidualMADE", "ResidualMLP"]
