"""Random numbers of a thread's own: what is drawn for one fit neither reads nor moves any other generator.

Torch's generators are one for the whole process: two fits in threads that seeded and used them would each
draw what the other should have drawn. Within `seeded` a thread therefore has generators of its own, one a
device, which begin as torch's would after ``torch.manual_seed``. What modeflow draws while it trains asks for
them (`stream`); what only knows torch's generator (the initial weights of `torch.nn`, code that is not
modeflow's) is given them by a mode of torch that belongs to the thread alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["Dropout", "Dropout2d", "rand_like", "randn_like", "seeded", "stream"]


class _Streams:
    """Generators by device, all begun from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._by_device: dict[torch.device, torch.Generator] = {}

    def reseed(self, seed: int) -> None:
        """Begin anew."""
        self.seed, self._by_device = seed, {}

    def on(self, device: torch.device) -> torch.Generator:
        """The generator of a device."""
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._by_device:
            self._by_device[device] = torch.Generator(device).manual_seed(self.seed)
        return self._by_device[device]


_CURRENT: ContextVar[_Streams | None] = ContextVar("modeflow_streams", default=None)
#: Held while a stream stands in for torch's own generator.
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # the thread that held the old one is not in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def stream(device: torch.device) -> torch.Generator | None:
    """This thread's generator for a device; None outside `seeded`, for torch's own."""
    current = _CURRENT.get()
    return None if current is None else current.on(device)


def rand_like(like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) of the shape, type and device of `like`."""
    return torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=stream(like.device))


def randn_like(like: Tensor) -> Tensor:
    """Standard normal numbers of the shape, type and device of `like`."""
    return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=stream(like.device))


@contextmanager
def seeded(seed: int, foreign: bool = True) -> Iterator[None]:
    """Within the block this thread draws from generators of its own that begin at `seed`.

    Arguments:
        seed: of all of them.
        foreign: also what knows only torch's generator is given them. Every call of torch in the block then
            costs some microseconds more, so a training of layers that are all modeflow's goes without.
    """
    token = _CURRENT.set(_Streams(seed))
    try:
        with _Given() if foreign else nullcontext():
            yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def _instead_of_torchs(generator: torch.Generator) -> Iterator[None]:
    """Within the block torch's generator of that device is this one; the caller's is as before afterwards."""
    device = generator.device
    cuda = device.type == "cuda"

    def get() -> Tensor:
        return torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()

    def put(state: Tensor) -> None:
        if cuda:
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)

    with _lock:
        before = get()
        put(generator.get_state())
        try:
            yield
        finally:
            generator.set_state(get())
            put(before)


def reseed(seed: int) -> None:
    """Begin this thread's generators (outside `seeded`: torch's own) anew."""
    current = _CURRENT.get()
    if current is None:
        torch.manual_seed(seed)
    else:
        current.reseed(seed)


def get_states(device: torch.device) -> dict[str, Tensor]:
    """The state of the generators that a computation on `device` draws from, as tensors by name."""
    current = _CURRENT.get()
    cuda = device.type == "cuda"
    if current is None:
        states = {"cpu": torch.get_rng_state()}
        return states | {"cuda": torch.cuda.get_rng_state(device)} if cuda else states
    states = {"cpu": current.on(torch.device("cpu")).get_state()}
    return states | {"cuda": current.on(device).get_state()} if cuda else states


def set_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Put the generators into states from `get_states`."""
    current = _CURRENT.get()
    cuda = "cuda" in states and device.type == "cuda"
    if current is not None:
        current.on(torch.device("cpu")).set_state(states["cpu"])
        if cuda:
            current.on(device).set_state(states["cuda"])
        return
    torch.set_rng_state(states["cpu"])
    if cuda:
        torch.cuda.set_rng_state(states["cuda"], device)


def repeated(device: torch.device) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What a computation is run in, and what it is run in again to draw the same numbers."""
    current = _CURRENT.get()
    if current is None:
        return nullcontext(), nullcontext()
    return nullcontext(), _again(current, get_states(device), device)


@contextmanager
def _again(streams: _Streams, states: dict[str, Tensor], device: torch.device) -> Iterator[None]:
    token = _CURRENT.set(streams)  # the way back may be walked by another thread
    try:
        now = get_states(device)
        set_states(states, device)
        try:
            yield
        finally:
            set_states(now, device)
    finally:
        _CURRENT.reset(token)


# -- what knows only torch's generator ----------------------------------------------------------


class _Dropping:
    """Draws from this thread's stream; a `torch.nn` dropout in front of it in the order of classes."""

    def forward(self, input: Tensor) -> Tensor:
        generator = stream(input.device) if self.training and self.p else None  # type: ignore[attr-defined]
        if generator is None:
            return super().forward(input)  # type: ignore[misc,no-any-return]
        with _instead_of_torchs(generator):
            return super().forward(input)  # type: ignore[misc,no-any-return]


class Dropout(_Dropping, nn.Dropout):
    """`torch.nn.Dropout` that draws from this thread's stream."""


class Dropout2d(_Dropping, nn.Dropout2d):
    """`torch.nn.Dropout2d` that draws from this thread's stream."""


def is_ours(module: nn.Module) -> bool:
    """Whether all that the module draws while it is evaluated is drawn from `stream`.

    True for modeflow's layers and those layers of `torch.nn` that draw nothing.
    """
    return all(_is_ours(part) for part in module.modules())


_DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention, nn.Transformer)


def _is_ours(part: nn.Module) -> bool:
    home = type(part).__module__
    if home.startswith("modeflow."):
        return True
    return home.startswith("torch.nn.modules.") and not isinstance(part, _DRAWING)


def _named(home: Any, *names: str) -> set[Any]:
    return {getattr(home, name) for name in names if hasattr(home, name)}


#: Take a generator; by the tensor that they fill or read, and those that make a tensor.
_OF_TENSORS = _named(
    torch.Tensor,
    *("bernoulli", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "multinomial"),
    *("normal_", "random_", "uniform_"),
) | _named(torch, "bernoulli", "multinomial", "poisson", "binomial")
_MAKING = _named(torch, "rand", "randn", "randint", "randperm", "normal")
#: Take none, or not in every version of torch.
_TAKING_NONE = (
    _named(torch, "rand_like", "randn_like", "randint_like", "dropout", "dropout_", "alpha_dropout")
    | _named(torch, "feature_dropout", "feature_alpha_dropout", "native_dropout", "rrelu", "rrelu_", "lstm")
    | _named(torch, "gru", "rnn_tanh", "rnn_relu")
    | _named(F, "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    | _named(F, "gumbel_softmax", "rrelu", "scaled_dot_product_attention", "multi_head_attention_forward")
    | _named(nn.init, "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "sparse_")
    | _named(nn.init, "kaiming_uniform_", "kaiming_normal_", "orthogonal_")
)


class _Given(TorchFunctionMode):
    """Gives this thread's stream to every call of torch that draws and names no generator."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _OF_TENSORS and func not in _MAKING and func not in _TAKING_NONE:
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None or (current := _CURRENT.get()) is None:
            return func(*args, **kwargs)
        generator = current.on(_device_of(args, kwargs))
        if func in _TAKING_NONE:
            with _instead_of_torchs(generator):
                return func(*args, **kwargs)
        return func(*args, **{**kwargs, "generator": generator})


def _device_of(args: Any, kwargs: Any) -> torch.device:
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return tensors[0].device if tensors else torch.get_default_device()
