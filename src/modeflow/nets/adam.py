"""The optimiser."""

from __future__ import annotations

import inspect
from typing import Any

import torch

__all__ = ["Adam"]

_Base = torch.optim.AdamW


def _plain(name: str) -> Any:
    """A method of the base without what torch wraps around it."""
    return inspect.unwrap(getattr(_Base, name))


class Adam(_Base):
    """`torch.optim.AdamW`, which loads no compiler.

    torch marks the methods of its optimisers as none to be compiled, and loads its compiler to do so: longer
    than the training of a small table takes. These are the same methods without the marks.
    """

    add_param_group = _plain("add_param_group")
    state_dict = _plain("state_dict")
    load_state_dict = _plain("load_state_dict")
    zero_grad = _plain("zero_grad")

    def step(self, closure: Any = None) -> Any:
        """One step, of gradients that are there."""
        with torch.no_grad():
            return _plain("step")(self, closure)
