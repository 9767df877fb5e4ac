"""Operations that ONNX has none for, or that lose digits in it, in terms of those it has.

In ``torch.onnx`` log1p(x) is log(1 + x) and expm1(x) is exp(x) - 1, without a digit at small x, and a log of
a sum of exponentials overflows. Here they are those of Kahan, and sums are of what is below the largest.
Numbers that stand in a program (log 2π, the least width of a bin) become single precision there: here they
are tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["accurate"]


def _log1p(x: Tensor) -> Tensor:
    y = 1 + x
    rest = torch.where(y == 1, torch.ones_like(x), y - 1)
    found = torch.where(y == 1, x, torch.log(y) * (x / rest))
    return torch.where(y.isinf(), y, found)


def _expm1(x: Tensor) -> Tensor:
    y = torch.exp(x)
    inside = (y != 1) & (y > 0) & ~y.isinf()
    logarithm = torch.log(torch.where(inside, y, torch.full_like(y, 2.0)))
    return torch.where(y == 1, x, torch.where(inside, (y - 1) * (x / logarithm), y - 1))


def _logaddexp(x: Tensor, y: Tensor) -> Tensor:
    top = torch.maximum(x, y)
    away = torch.where(top.isinf(), torch.zeros_like(top), (x - y).abs())
    return top + _log1p(torch.exp(-away))


def _logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    top = torch.amax(x, dim, keepdim=True)
    safe = torch.where(top.isinf(), torch.zeros_like(top), top)
    found = safe + torch.log(torch.sum(torch.exp(x - safe), dim, keepdim=True))
    return found if keepdim else found.squeeze(dim)


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    scaled = x * beta
    found = (scaled.clamp_min(0) + _log1p(torch.exp(-scaled.abs()))) / beta
    return torch.where(scaled > threshold, x, found)


def _searchsorted(knots: Tensor, values: Tensor, *, right: bool = False, **_: Any) -> Tensor:
    at, edges = values.unsqueeze(-1), knots.unsqueeze(-2)
    return (at >= edges if right else at > edges).sum(-1)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.log1p.default: _log1p,
    torch.ops.aten.expm1.default: _expm1,
    torch.ops.aten.logaddexp.default: _logaddexp,
    torch.ops.aten.logsumexp.default: _logsumexp,
    torch.ops.aten.softplus.default: _softplus,
    torch.ops.aten.searchsorted.Tensor: _searchsorted,
}

_aten = torch.ops.aten
#: Operations with a number, by the same with a tensor.
_WITH_TENSORS = {
    _aten.add.Tensor: _aten.add.Tensor,
    _aten.sub.Tensor: _aten.sub.Tensor,
    _aten.mul.Tensor: _aten.mul.Tensor,
    _aten.div.Tensor: _aten.div.Tensor,
    _aten.rsub.Scalar: _aten.rsub.Scalar,
    _aten.ge.Scalar: _aten.ge.Tensor,
    _aten.gt.Scalar: _aten.gt.Tensor,
    _aten.le.Scalar: _aten.le.Tensor,
    _aten.lt.Scalar: _aten.lt.Tensor,
}


def accurate(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The program in operations that ONNX evaluates to the last digits but few, as a module to be traced."""
    module = program.run_decompositions(_FUNCTIONS).module()
    assert isinstance(module, torch.fx.GraphModule)
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _WITH_TENSORS or len(node.args) != 2:
            continue
        value, kind = node.args[1], node.meta["val"].dtype
        if not isinstance(value, float) or float(torch.tensor(value, dtype=torch.float32)) == value:
            continue
        kind = node.args[0].meta["val"].dtype if kind is torch.bool else kind
        name = f"number_{node.name}"
        module.register_buffer(name, torch.tensor(value, dtype=kind))
        with module.graph.inserting_before(node):
            number = module.graph.get_attr(name)
            if node.target is _aten.rsub.Scalar:
                node.target, node.args = _aten.sub.Tensor, (number, node.args[0])
            else:
                node.target, node.args = _WITH_TENSORS[node.target], (node.args[0], number)
    module.recompile()
    return module
