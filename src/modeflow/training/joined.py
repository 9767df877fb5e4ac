"""A training shared with processes that `torchrun` started, on this machine or on several.

Every process runs the same program on the same rows: what is drawn and chosen is the same everywhere, and
every training takes its share of each batch. Only the first process writes files and prints.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from modeflow.errors import ConfigError
from modeflow.training.devices import FabricWorld

__all__ = ["Group", "group", "joined_world"]


@dataclass(frozen=True)
class Group:
    """The processes that train together.

    Attributes:
        rank: of this one, from 0. size: how many. local_size: of them on this machine.
    """

    rank: int
    size: int
    local_size: int


def group() -> Group | None:
    """What torchrun's environment says; None for a process by itself.

    Raises:
        ConfigError: an environment that says only half of it.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return None
    try:
        names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        found = Group(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"torchrun's environment is incomplete: {error}; start the program by torchrun"
        ) from error
    if found.size % found.local_size:
        raise ConfigError(
            "torchrun started unlike numbers of processes on its machines: give all --nproc-per-node"
        )
    return found if found.size > 1 else None


@functools.cache
def _fabric(accelerator: str, precision: Any) -> Any:
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    member = group()
    assert member is not None
    nodes = member.size // member.local_size
    fabric = Fabric(
        accelerator=accelerator,
        devices=member.local_size,
        num_nodes=nodes,
        strategy="ddp",
        precision=precision,
    )
    fabric.launch()
    return fabric


def joined_world(device: torch.device, precision: str) -> tuple[FabricWorld, torch.device]:
    """The processes that torchrun started, and the device of this one."""
    fabric = _fabric(device.type, precision if precision != "64-true" else "32-true")
    return FabricWorld(fabric), fabric.device
