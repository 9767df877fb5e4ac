"""A number that is not finite: noticed before it reaches the weights, and traced to where it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities import Density, Loss
from modeflow.training.checkpoint import rng_tensors, set_rng

__all__ = ["Attempt", "Watch", "explain_non_finite"]

#: Steps between two looks at the loss, by type of device. On a GPU a look stalls the queue.
LOOK_EVERY = {"cpu": 1, "cuda": 20}


@dataclass
class Attempt:
    """All that is needed to compute a step again."""

    epoch: int
    step: int
    index: Tensor
    rng: dict[str, Tensor]


class Watch:
    """Keeps steps with a non-finite loss or gradient from the weights, and remembers the first of them.

    Where every step is looked at, the caller skips a bad step itself. Otherwise the fused optimiser is told,
    on the device, to skip the bad step and all that follow, until the next look finds out: the weights stay
    those of the last good step, so that the diagnosis is of the very step and no checkpoint is spoilt.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.every = LOOK_EVERY.get(device.type, 1)
        self._recent: list[Attempt] = []
        self._bad = torch.zeros((), device=device)
        self._good = torch.zeros((), device=device)
        if self.every > 1:
            # What torch's GradScaler hands to a fused optimiser: 1 makes its step do nothing.
            optimizer.found_inf = self._bad  # type: ignore[attr-defined]

    def due(self, step: int) -> bool:
        """Whether to look after this many steps."""
        return step % self.every == 0

    def see(self, attempt: Attempt, norm: Tensor | float, loss: Tensor) -> Attempt | None:
        """Take note of a step before the optimiser makes it; returns it if it is known to be bad."""
        if self.every == 1:
            return None if math.isfinite(float(norm) + float(loss)) else attempt
        self._recent.append(attempt)
        self._bad.copy_(torch.maximum(self._bad, (~torch.isfinite(loss + norm)).to(self._bad)))
        self._good += 1 - self._bad
        return None

    def look(self) -> Attempt | None:
        """The first bad step since the last look, if there is one."""
        if not self._recent:
            return None
        bad = self._recent[int(self._good)] if float(self._bad) else None
        self._recent.clear()
        self._good.zero_()
        return bad


def explain_non_finite(
    model: Density, repeat: Callable[[], Loss], rng: Mapping[str, Tensor]
) -> tuple[str, bool]:
    """What is not finite, and the module or parameter in which it first was.

    Arguments:
        model: with the weights of the step.
        repeat: computes the loss of the very batch again.
        rng: state of the generators before the step, so that the noise is the same.

    Returns:
        a clause, and whether anything was found to be non-finite.
    """
    device = model.device
    now = rng_tensors(device)
    set_rng(rng, device)
    try:
        with _outputs_watched(model) as found:
            loss = repeat()
        terms = [name for name, value in loss.terms.items() if _bad(value)]
        # A log-probability of minus infinity is what a state switched off has: suspected only last.
        first = next((name for name, nan in found if nan), found[0][0] if found else None)
        if terms or _bad(loss.value):
            what = f"term '{terms[0]}'" if terms else "the loss"
            if first is not None:
                return f"{what} is not finite; its first appearance is the output of {first}", True
            return f"{what} is not finite, though the output of every module is", True
        model.zero_grad()
        loss.value.backward()
        names = [n for n, p in model.named_parameters() if p.grad is not None and _bad(p.grad)]
        if names:
            return f"the first parameter with a non-finite gradient is '{names[0]}'", True
        return "the norm of the gradient is not finite, though each of its entries is", False
    finally:
        model.zero_grad()
        set_rng(now, device)


def _bad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())


def _worse_than_minus_infinity(value: Tensor) -> bool:
    return bool((value.isnan() | value.isposinf()).any())


@contextmanager
def _outputs_watched(model: nn.Module) -> Iterator[list[tuple[str, bool]]]:
    """Collects modules whose output is not finite, in order, and whether it is other than minus infinity.

    Leaves finish before the modules around them, so the first name is the innermost.
    """
    found: list[tuple[str, bool]] = []

    def hook(name: str, module: nn.Module) -> Callable[..., None]:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple | list) else (output,)
            bad = [value for value in outputs if _bad(value)]
            if bad:
                label = f"'{name}' ({type(module).__name__})"
                found.append((label, any(_worse_than_minus_infinity(value) for value in bad)))

        return look

    handles = [m.register_forward_hook(hook(n, m)) for n, m in model.named_modules() if n]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
