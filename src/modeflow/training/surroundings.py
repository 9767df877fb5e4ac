"""What the caller's surroundings must not change: the numbers, and whether there are any.

torch and NumPy keep settings a whole process or thread long. A caller's `no_grad`, `inference_mode` or
autocast, another default type or device, or `numpy.errstate(all="raise")` are for the caller's own code;
within modeflow's methods they are as they are at the start, and afterwards again as the caller had them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

__all__ = ["shield", "shielded"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: What NumPy begins with: a density of exp(-1000) = 0 is no error.
_NUMPY: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


@contextmanager
def shielded(grad: bool) -> Iterator[None]:
    """Within the block torch and NumPy are set as they are at the start.

    Arguments:
        grad: whether gradients are recorded there.
    """
    with ExitStack() as stack:
        stack.enter_context(np.errstate(**_NUMPY))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(_float32.as_default())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # Only where it is another: the setting is a mode of torch, which costs time at every call.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def shield(grad: bool = False) -> Callable[[_Function], _Function]:
    """A function or method that runs `shielded`."""

    def around(function: _Function) -> _Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with shielded(grad):
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return around


class _DefaultType:
    """float32 as torch's default type, which is one for all threads: given back by the last who needed it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._before = torch.float32

    @contextmanager
    def as_default(self) -> Iterator[None]:
        with self._lock:
            self._within += 1
            if torch.get_default_dtype() is not torch.float32:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            with self._lock:
                self._within -= 1
                if not self._within and self._before is not torch.float32:
                    torch.set_default_dtype(self._before)
                    self._before = torch.float32


_float32 = _DefaultType()
