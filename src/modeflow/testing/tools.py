"""What the checks share: perturbed modules, test points, Jacobians, tolerances."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

__all__ = ["jacobian", "perturb", "triangular"]

M = TypeVar("M", bound=nn.Module)
Factory = Callable[[], M]
Map = Callable[[Tensor], Tensor]

SLACK = 20.0
"""Rounding errors allowed, in units of the first-order bound of one operation."""


def require(condition: bool | Tensor, message: str) -> None:
    """Raise `AssertionError` with the message unless the condition holds (also under ``python -O``)."""
    if not bool(condition):
        raise AssertionError(message)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def perturb(module: M, scale: float = 0.2, seed: int = 0) -> M:
    """Move every parameter by Gaussian noise of size ``scale / sqrt(fan_in)``; return the module.

    That is far from the start of any layer (so that zero-initialised layers are really tested), and mild
    enough that deep stacks stay well conditioned.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_((noise * scale / math.sqrt(max(fan_in, 1))).to(parameter))
    return module


def build(factory: Factory[M], dtype: torch.dtype, scale: float, seed: int = 0) -> M:
    """A perturbed module in evaluation mode; the same parameters (up to rounding) for every type."""
    with seeded(seed):
        module = factory()
    return perturb(module, scale, seed + 1).to(dtype).eval()


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Standard normal draws of the same values for every type."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)


def points(
    event_shape: tuple[int, ...],
    dtype: torch.dtype,
    domain: Map | None,
    rows: int = 8,
    seed: int = 11,
) -> Tensor:
    """Test points ``(rows, *event)``: most near zero, the last two far out (outside spline boxes).

    `domain` maps real numbers to where the module is defined.
    """
    x = 1.3 * normal((rows, *event_shape), dtype, seed)
    x[-2:] *= 6
    return x if domain is None else domain(x)


def contexts(rows: int, width: int, dtype: torch.dtype, seed: int = 13) -> Tensor | None:
    """Random contexts ``(rows, width)``, None where the module takes none."""
    return normal((rows, width), dtype, seed) if width else None


def jacobian(output: Tensor, x: Tensor) -> Tensor:
    """Jacobian of each row, ``(B, outputs, inputs)``, of an output computed from `x` row by row."""
    rows = x.shape[0]
    flat = output.reshape(rows, -1)
    inputs = x.numel() // max(rows, 1)
    if not flat.requires_grad:
        return x.new_zeros(rows, flat.shape[1], inputs)
    lines = []
    for i in range(flat.shape[1]):
        (line,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True, allow_unused=True)
        lines.append(torch.zeros_like(x) if line is None else line)
    return torch.stack(lines, dim=1).reshape(rows, flat.shape[1], inputs)


def row_max(x: Tensor) -> Tensor:
    """Largest absolute value of each row, as float64."""
    return x.detach().double().abs().reshape(x.shape[0], -1).amax(1)


def worst(error: Tensor, allowed: Tensor) -> str:
    """``"error 1e-3 in row 2, allowed 1e-6"`` for the row that breaks its tolerance by most."""
    row = int((error / allowed).nan_to_num(nan=math.inf, posinf=math.inf).argmax())
    return f"error {float(error[row]):.3g} in row {row}, allowed {float(allowed[row]):.2g}"


def triangular(features: int) -> Tensor:
    """Structure of an autoregressive map: output d may depend on inputs up to d."""
    return torch.ones(features, features).tril().bool()


def check_parameter_gradients(module: nn.Module, loss: Tensor, idle: tuple[str, ...]) -> None:
    """Every parameter not named in `idle` has a finite gradient that is not zero everywhere."""
    module.zero_grad()
    loss.backward()
    for name, parameter in module.named_parameters():
        if parameter.numel() == 0 or any(part in name for part in idle):
            continue
        gradient = parameter.grad
        require(gradient is not None, f"no gradient reaches parameter {name!r}")
        require(torch.isfinite(gradient).all(), f"the gradient of {name!r} is not finite")  # type: ignore[arg-type]
        require(
            gradient.abs().max() > 0,  # type: ignore[union-attr]
            f"the gradient of {name!r} is zero everywhere: nothing depends on it",
        )


def through_file(module: M, fresh: M) -> M:
    """Write the state of `module` in the safetensors format and load it, strictly, into `fresh`."""
    state = {k: v.detach().clone().contiguous() for k, v in module.state_dict().items()}
    fresh.load_state_dict(load(save(state)), strict=True)
    return fresh.eval()


def as_double(module: M) -> M:
    """A float64 copy with exactly the same parameter values."""
    return copy.deepcopy(module).double()
