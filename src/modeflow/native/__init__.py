"""Native kernels for the hot loops, and the switch between them and pure PyTorch.

The extension is built at installation where there is a C++ compiler. Without it, and wherever a kernel does
not apply (another type than float32 and float64, another device, inside `torch.compile` or a functional
transform), the same mathematics runs in PyTorch. ``MODEFLOW_NATIVE=0`` in the environment, or
`use_native(False)`, turns it off.

A forked child computes with one thread, in torch as well: the others stay in the parent.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

kernels: Any
try:
    kernels = importlib.import_module("modeflow.native._kernels")
except ImportError:  # no compiler at installation
    kernels = None

__all__ = ["applies", "kernels", "kernels_for", "native_kernels", "use_native"]


def _single_thread() -> None:
    # The threads that torch's OpenMP counts on are not in the child, and it would wait for them for ever.
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_thread)

_on = os.environ.get("MODEFLOW_NATIVE", "1") != "0"


def native_kernels() -> str:
    """Instruction set of the kernels in use: ``avx512``, ``avx2`` or ``base``; ``none`` for pure PyTorch."""
    return kernels.instruction_set() if kernels is not None and _on else "none"


@contextmanager
def use_native(on: bool) -> Iterator[None]:
    """Inside the block the native kernels are used, where they apply, or not at all."""
    global _on
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


def applies(*tensors: Tensor) -> bool:
    """Whether a kernel can take these tensors.

    They must be on the CPU, all float32 or all float64, and nothing may be tracing or transforming them.
    """
    kind = tensors[0].dtype
    return (
        kernels is not None
        and _on
        and (kind is torch.float32 or kind is torch.float64)
        and all(t.dtype is kind and t.device.type == "cpu" for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def kernels_for(like: Tensor) -> Any:
    """The kernels for numbers of the type of `like`, float32 or float64."""
    return kernels.float32 if like.dtype is torch.float32 else kernels.float64
