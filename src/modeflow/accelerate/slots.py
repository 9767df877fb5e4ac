"""Where a kernel's tensors are found: they are looked up in every call, as they may have been replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Slot", "buffer", "constant", "parameter"]


@dataclass(frozen=True, eq=False)
class Slot:
    """A name in a dictionary of tensors, and what the kernel takes for granted of what is found there.

    Attributes:
        holder, name: a module's dictionary of parameters or buffers, and the name within.
        shape: as the kernel reads it.
        dtype: None for that of the stack's parameters.
    """

    holder: dict[str, Any]
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None = None

    def holds(self, tensor: Any, dtype: torch.dtype) -> bool:
        """Whether the tensor is as the kernel reads it, in a stack with parameters of this type."""
        return (
            tuple(tensor.shape) == self.shape
            and tensor.dtype is (self.dtype or dtype)
            and tensor.is_contiguous()
            and tensor.device.type == "cpu"
        )


def parameter(module: nn.Module, name: str, *shape: int) -> Slot:
    """A parameter of the module."""
    return Slot(module._parameters, name, shape)


def buffer(module: nn.Module, name: str, *shape: int, dtype: torch.dtype | None = None) -> Slot:
    """A buffer of the module."""
    return Slot(module._buffers, name, shape, dtype)


def constant(tensor: Tensor) -> Slot:
    """A tensor that no module holds."""
    return Slot({"": tensor}, "", tuple(tensor.shape), tensor.dtype)
