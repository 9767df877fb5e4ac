"""Whether modules are what their classes say: no hooks, no methods of their own, no types unknown."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType
from typing import Any

from torch import nn
from torch.nn.modules import module as base

from modeflow.nets.description import defines

__all__ = ["description_of", "hooks_of", "plain", "unhooked"]

#: Torch's own modules that a described layer may hold, exactly of these types.
_TORCH = frozenset((nn.Linear, nn.ModuleList, nn.Dropout))

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


def describes_itself(module: nn.Module) -> bool:
    """Whether the module's own class says what it is; a subclass, and so a parametrised layer, does not."""
    return defines(module, "native_description")


def plain(module: nn.Module) -> bool:
    """Whether the module and all below describe themselves, or are torch's, without methods replaced."""
    return all(
        (describes_itself(m) or type(m) in _TORCH) and not _replaces_methods(m) for m in module.modules()
    )


def description_of(module: nn.Module) -> Any:
    """What the module says that it is, where that is all there is to it; else None."""
    if not describes_itself(module) or not plain(module):
        return None
    return module.native_description()  # type: ignore[operator]


def _replaces_methods(module: nn.Module) -> bool:
    kind = type(module)
    return any(isinstance(getattr(kind, name, None), FunctionType) for name in vars(module))
