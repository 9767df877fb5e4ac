"""Where training runs: one device, or several processes through lightning-fabric."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.errors import ConfigError

__all__ = ["SINGLE", "World", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: if CUDA is asked for and not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device='{name}': torch finds no CUDA device here; use 'cpu' or 'auto'")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device='{name}' is not a device; use auto, cpu, cuda or cuda:N") from error


class World:
    """The processes of a training. This one knows a single process; `FabricWorld` knows several.

    Each process holds all rows, takes its share of every batch, and adds up the gradients, so that the
    result is that of one process up to rounding.
    """

    rank, size = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """This process's rows of a batch."""
        return index

    def scale(self, loss: Tensor, mine: int, all_rows: int) -> Tensor:
        """Weight the mean over this process's rows so that the sum over processes is the batch mean."""
        return loss

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all processes."""

    def agree(self, flag: bool) -> bool:
        """True if any process says so."""
        return flag

    def autocast(self) -> Any:
        """Context of lower precision, where configured."""
        return contextlib.nullcontext()


SINGLE = World()


class FabricWorld(World):
    """Several processes, or a precision other than float32, by lightning-fabric."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.rank, self.size = int(fabric.global_rank), int(fabric.world_size)

    def share(self, index: Tensor) -> Tensor:
        return index[self.rank :: self.size] if self.size > 1 else index

    def scale(self, loss: Tensor, mine: int, all_rows: int) -> Tensor:
        # A share without rows has a mean of NaN; its gradient is then no part of the sum.
        return loss * (mine / all_rows) if mine else torch.zeros_like(loss) * 0 + 0 * loss.nan_to_num()

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.size == 1:
            return
        with_gradient = list(parameters)
        for p in with_gradient:
            if p.grad is None:  # not reached by this share, but perhaps by another
                p.grad = torch.zeros_like(p)
        flat = torch.cat([p.grad.reshape(-1) for p in with_gradient if p.grad is not None])
        flat = self.fabric.all_reduce(flat, reduce_op="sum")
        start = 0
        for p in with_gradient:
            p.grad = flat[start : start + p.numel()].view_as(p)
            start += p.numel()

    def agree(self, flag: bool) -> bool:
        if self.size == 1:
            return flag
        total = self.fabric.all_reduce(torch.tensor(float(flag)), reduce_op="sum")
        return float(total) > 0

    def autocast(self) -> Any:
        return self.fabric.autocast()
