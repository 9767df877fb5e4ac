"""Runs of layers that one native call evaluates, and how a chain of layers is cut into them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.accelerate.block import Block
from modeflow.accelerate.chain import chain
from modeflow.accelerate.layers import Description
from modeflow.accelerate.plain import description_of
from modeflow.accelerate.slots import Slot
from modeflow.accelerate.stack import Spare, Stack, run_stack
from modeflow.native import applies, kernels_for, native_kernels

__all__ = ["Run", "cut"]

#: Rows that go through all layers together, and those where a network is wide: a weight once read then serves
#: more of them. Not chosen by the number of threads: sums would depend on it.
_ROWS, _WIDE_ROWS, _WIDE = 64, 128, 128
#: Widest layers that one native call serves, by instruction set: beyond, matrix products of a tuned library
#: outweigh what the call saves.
MAX_WIDTH = {"avx512": 256, "avx2": 128, "base": 48}


class Run:
    """Layers that go together, of which at least one leads: a coupling, say.

    Arguments:
        layers: in the order of the density. descriptions: what they say of themselves.
    """

    def __init__(self, layers: Sequence[nn.Module], descriptions: Sequence[Description]) -> None:
        self.layers, self._descriptions = list(layers), list(descriptions)
        self.features = descriptions[0].features
        self.context_features = max(d.context_features for d in descriptions)
        self._slots = [slot for d in descriptions for slot in d.parameters]
        self._fixed = [slot for d in descriptions for slot in d.constants]
        # Read in every call, by loops in C.
        self._holders, self._names = _places(self._slots)
        self._fixed_holders, self._fixed_names = _places(self._fixed)
        self._tile = _WIDE_ROWS if max(d.network_width for d in descriptions) > _WIDE else _ROWS
        self._invertible = all(d.invertible for d in descriptions)
        self._dropping = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Dropout)]
        # What the kernel is told of the parameters, as long as they lie where they lay.
        self._known: tuple[list[int], Stack | None] = ([], None)
        self._spare = Spare()

    def usable(self, x: Tensor, context: Tensor | None) -> bool:
        """Whether the kernel can take this call."""
        if x.dim() != 2 or x.shape[1] != self.features or x.shape[0] == 0:
            return False
        if not self.context_features:
            return applies(x) and not self._drops()
        if context is None or context.shape != (len(x), self.context_features):
            return False
        return applies(x, context) and not self._drops()

    def _drops(self) -> bool:
        return any(dropout.training for dropout in self._dropping)

    def parameters(self) -> list[Tensor]:
        """All parameters, layer by layer in the order of the kernel."""
        return list(map(dict.get, self._holders, self._names))  # type: ignore[arg-type]

    def stack(self, parameters: Sequence[Tensor]) -> Stack | None:
        """The layers as the kernel reads them; None where it cannot take them as they are now."""
        try:
            fixed: list[Tensor] = list(map(getitem, self._fixed_holders, self._fixed_names))
            places = list(map(Tensor.data_ptr, [*parameters, *fixed]))
        except (TypeError, KeyError):  # what was there is gone: PyTorch says what it thinks of that
            return None
        if places != self._known[0]:
            self._known = (places, self._described(parameters, fixed, places))
        return self._known[1]

    def _described(
        self, parameters: Sequence[Tensor], fixed: Sequence[Tensor], places: Sequence[int]
    ) -> Stack | None:
        kind = parameters[0].dtype
        slots = [*self._slots, *self._fixed]
        if not applies(*parameters) or not all(
            slot.holds(t, kind) for slot, t in zip(slots, [*parameters, *fixed], strict=True)
        ):
            return None
        address: dict[Slot | None, int] = {None: 0}
        address.update(zip(slots, places, strict=True))
        native = kernels_for(parameters[0]).Stack(
            features=self.features,
            context_features=self.context_features,
            layers=[d.native(address.__getitem__) for d in self._descriptions],
        )
        sizes = [p.numel() for p in parameters]
        # Else the kernel would write gradients beyond the end of what it is given.
        assert native.parameter_count == sum(sizes)
        return Stack(native, self.layers, self._tile, fixed, sizes, Block.of(parameters), self._spare)

    def __call__(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(u, logabsdet)`` of all layers."""
        return self._run(x, context, False)

    def inverse(self, u: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``(x, logabsdet)`` of the inverse of all layers."""
        return self._run(u, context, True)

    def _run(self, x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        context = context if self.context_features else None
        if self.usable(x, context) and not (inverse and (torch.is_grad_enabled() or not self._invertible)):
            parameters = self.parameters()
            stack = self.stack(parameters)
            if stack is not None and parameters[0].dtype is x.dtype:
                return run_stack(stack, parameters, x, context, inverse)
        return chain(self.layers, x, context, inverse)


def _places(slots: Sequence[Slot]) -> tuple[list[dict[str, Any]], list[str]]:
    return [slot.holder for slot in slots], [slot.name for slot in slots]


def cut(layers: Sequence[nn.Module]) -> list[Any]:
    """The layers in order, neighbours that the kernel can take joined into runs."""
    parts: list[Any] = []
    group: list[nn.Module] = []
    known: list[Description] = []
    widest = MAX_WIDTH.get(native_kernels(), 0)

    def close() -> None:
        if any(d.leads for d in known):
            parts.append(Run(group, known))
        else:
            parts.extend(group)
        group.clear()
        known.clear()

    for layer in layers:
        found = described(layer, widest)
        if found is None:
            close()
            parts.append(layer)
            continue
        contexts = {d.context_features for d in (*known, found)} - {0}
        # What does not fit together is apart: PyTorch says what it thinks of that.
        if len(contexts) > 1 or (known and found.features != known[0].features):
            close()
        group.append(layer)
        known.append(found)
    close()
    return parts


def described(layer: nn.Module, widest: int) -> Description | None:
    """The description of a layer that the kernel can take, with matrix products of at most this width."""
    found = description_of(layer)
    if not isinstance(found, Description) or not found.consistent() or found.widest > widest:
        return None
    return found
