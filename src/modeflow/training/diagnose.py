"""Which term and which module first produced a number that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modeflow.densities import Density, Loss
from modeflow.training.checkpoint import rng_tensors, set_rng

__all__ = ["explain_non_finite"]


def explain_non_finite(
    model: Density,
    repeat: Callable[[], Loss],
    rng: Mapping[str, Tensor],
    where: str,
) -> str:
    """One line: where it happened, the loss term, and the first module with a non-finite output.

    Arguments:
        model: with the weights of the step.
        repeat: computes the loss of the very batch again.
        rng: state of the generators before the step, so that the noise is the same.
        where: "epoch 3, step 120".
    """
    now = rng_tensors()
    set_rng(rng)
    try:
        with _first_non_finite(model) as found:
            loss = repeat()
        if found:
            cause = f"its first appearance is the output of {found[0]}"
        else:
            loss.value.backward()
            bad = [n for n, p in model.named_parameters() if p.grad is not None and _bad(p.grad)]
            cause = (
                f"the first parameter with a non-finite gradient is '{bad[0]}'"
                if bad
                else "no single module produced it: the sum overflowed"
            )
    finally:
        set_rng(now)
    terms = [name for name, value in loss.terms.items() if _bad(value)]
    what = f"term '{terms[0]}'" if terms else ("the loss" if _bad(loss.value) else "the gradient")
    return (
        f"training stopped at {where}: {what} is not finite; {cause}. Lower learning_rate, or look for "
        "extreme values in the data; the best weights so far are kept"
    )


def _bad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all())


@contextmanager
def _first_non_finite(model: nn.Module) -> Iterator[list[str]]:
    """Collects the names of modules whose output is not finite, in order of evaluation.

    Leaves finish before the modules around them, so the first name is the innermost.
    """
    found: list[str] = []

    def hook(name: str, module: nn.Module) -> Callable[..., None]:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if any(_bad(value) for value in outputs):
                found.append(f"'{name}' ({type(module).__name__})")

        return look

    handles = [m.register_forward_hook(hook(n, m)) for n, m in model.named_modules() if n]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
