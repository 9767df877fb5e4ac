"""Whether modules are what their classes say: no hooks, no methods of their own, no types unknown."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.modules import module as base

__all__ = ["hooks_of", "plain", "unhooked"]

#: Hooks that act on every module of the process.
_GLOBAL: list[dict[Any, Any]] = [
    base._global_forward_hooks,
    base._global_forward_pre_hooks,
    base._global_backward_hooks,
    base._global_backward_pre_hooks,
]


def hooks_of(modules: Iterable[nn.Module]) -> list[dict[Any, Any]]:
    """Where the hooks are kept that a call of these modules runs: as long as all are empty there are none."""
    own = [
        hooks
        for m in modules
        for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
    ]
    return [*own, *_GLOBAL]


def unhooked(module: nn.Module) -> bool:
    """Whether a call of the module runs no hook, in it or below."""
    return not any(hooks_of(module.modules()))


def plain(module: nn.Module, kinds: frozenset[type]) -> bool:
    """Whether the module and all below are exactly of these types, without methods replaced on the object.

    A subclass, and so a parametrised layer, is another type.
    """
    return all(type(m) in kinds and not _shadowed(m) for m in module.modules())


def _shadowed(module: nn.Module) -> bool:
    kind = type(module)
    return any(isinstance(getattr(kind, name, None), FunctionType) for name in vars(module))
