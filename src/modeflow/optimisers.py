"""PyTorch's optimisers without its compiler.

Their methods load `torch._dynamo` when they are first called, to be ready for `torch.compile`: 2.5 seconds at
the start of every training, a short one too. Here the same methods are taken without that wrapping; the
arithmetic is the same, bit for bit.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

__all__ = ["Adam", "AdamW"]


_Kind = TypeVar("_Kind", bound=torch.optim.Optimizer)


def _plain(kind: type[_Kind]) -> type[_Kind]:
    """An optimiser whose steps are taken without gradients, and without the wrapping of PyTorch's methods."""
    wrapped = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in wrapped}
    return type(kind.__name__, (kind,), {**methods, "step": torch.no_grad()(inspect.unwrap(kind.step))})


Adam = _plain(torch.optim.Adam)
AdamW = _plain(torch.optim.AdamW)
