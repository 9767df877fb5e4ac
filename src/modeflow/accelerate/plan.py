"""How a chain of layers is gone through: in native runs, as long as the layers are what they were.

They are cut into runs once, and what that rests on is looked at again in every call: which layers and
networks there are, their types, their settings and their hooks. (Parameters are looked up anew by each run.)
What differs is cut again; with hooks the modules themselves are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import getitem
from typing import Any

from torch import nn

from modeflow.accelerate.plain import describes_itself, hooks_of
from modeflow.accelerate.runs import cut

__all__ = ["Plan"]

#: What every module has: nothing of it changes what a layer computes (children and hooks are watched apart).
_COMMON = frozenset(vars(nn.Module()))


class _Watch:
    """What the cut rests on, so kept that comparing takes a few calls in C: some microseconds for a flow."""

    def __init__(self, layers: nn.ModuleList) -> None:
        known = [layer for layer in layers if describes_itself(layer)]
        # Of what no run can hold it is enough that it is the same: it is called as it is.
        self._modules = list(dict.fromkeys(chain.from_iterable(layer.modules() for layer in known)))
        self.hooks = hooks_of(self._modules)
        self._types = list(map(type, self._modules))
        parents = [m._modules for m in self._modules if m._modules]
        self._layers = dict(layers._modules)
        self._children, self._child_copies = parents, [dict(children) for children in parents]
        attributes = [vars(m) for m in self._modules]
        self._attributes, self._counts = attributes, list(map(len, attributes))
        settings = [
            (vars(m), name)
            for m in self._modules
            if not isinstance(m, nn.Linear)  # its sizes are those of its parameters
            for name in vars(m)
            if name not in _COMMON
        ]
        self._holders, self._names = [s[0] for s in settings], [s[1] for s in settings]
        self._settings = list(map(getitem, self._holders, self._names))

    def same(self, layers: nn.ModuleList) -> bool:
        """Whether nothing has changed."""
        # Modules, settings: equal if identical, and that is looked at first.
        try:
            return (
                layers._modules == self._layers
                and self._children == self._child_copies
                and list(map(type, self._modules)) == self._types
                and list(map(len, self._attributes)) == self._counts
                and list(map(getitem, self._holders, self._names)) == self._settings
            )
        except (KeyError, RuntimeError, ValueError):  # a setting is gone, or is a tensor in another's place
            return False


class Plan:
    """The runs of a chain of layers. A copy of it, and what is read from a file, begins anew."""

    def __init__(self) -> None:
        self._known: tuple[_Watch, list[Any]] | None = None

    def __reduce__(self) -> tuple[type[Plan], tuple[()]]:
        return Plan, ()

    def parts(self, layers: nn.ModuleList) -> Sequence[Any]:
        """Runs and single layers, in the order of the density."""
        known = self._known
        if known is None or not known[0].same(layers):
            # Set at once: another thread must not see the new watch beside the old runs.
            known = self._known = (_Watch(layers), cut(list(layers)))
        return layers if any(known[0].hooks) else known[1]  # type: ignore[return-value]
