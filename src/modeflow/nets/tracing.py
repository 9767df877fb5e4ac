"""Whether a graph is being traced, in which no branch can look at numbers."""

from __future__ import annotations

import torch

__all__ = ["tracing"]


def tracing() -> bool:
    """Whether `torch.export` or `torch.compile` traces: then what is otherwise left out where no row needs it
    is always computed, and what is otherwise checked is not."""
    return torch.compiler.is_compiling()
