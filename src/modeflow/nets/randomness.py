"""Random numbers of a thread's own: what is drawn for one fit neither reads nor moves any other generator.

Torch's generators are one for the whole process: two fits in threads that seeded and used them would each
draw what the other should have drawn. Within `seeded` a thread therefore has generators of its own, one a
device, which begin as torch's would after ``torch.manual_seed``. What modeflow draws while it trains asks for
them (`stream`); what only knows torch's generator (the initial weights of `torch.nn`, code that is not
modeflow's) is given them by a mode of torch that belongs to the thread alone.
"""

from __future__ import annotations

import functools
import inspect
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


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` that draws from this thread's stream."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout(input, self.p, self.training)

    def native_description(self) -> None:
        """No part of a network that does not train; while it trains, the kernels leave it to PyTorch."""


class Dropout2d(nn.Dropout2d):
    """`torch.nn.Dropout2d` that draws from this thread's stream."""

    def forward(self, input: Tensor) -> Tensor:
        return _dropout(input, self.p, self.training, whole=2)


def _dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, whole: int = 0
) -> Tensor:
    """Entries, or all of the last `whole` dimensions together, to zero with probability p."""
    if not training or p == 0:
        return input
    kept = input.shape[: input.dim() - whole] + (1,) * whole
    mask = torch.empty(kept, dtype=input.dtype, device=input.device)
    mask.bernoulli_(1 - p, generator=stream(input.device))
    return input * (mask.div_(1 - p) if p < 1 else mask)


def is_ours(module: nn.Module) -> bool:
    """Whether all that the module draws while it is evaluated is drawn from `stream`.

    True for modeflow's layers and those layers of `torch.nn` that draw nothing.
    """
    return all(_is_ours(part) for part in module.modules())


def ours_alone(module: nn.Module) -> AbstractContextManager[Any]:
    """Within the block calls of torch are not looked at, for what knows only torch's generator.

    Each costs some microseconds less. For blocks that draw from `stream`, and by the module alone; nothing
    happens where the module draws otherwise.
    """
    return torch._C.DisableTorchFunction() if is_ours(module) else nullcontext()


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


def _takes_generator(function: Any) -> bool:
    return callable(function) and "generator" in inspect.signature(function).parameters


def _like(
    draw: Callable[[Tensor], Tensor],
    input: Tensor,
    *,
    dtype: torch.dtype | None = None,
    device: Any = None,
    requires_grad: bool = False,
    **_: Any,
) -> Tensor:
    like = input.to(dtype=dtype or input.dtype, device=device or input.device)
    return draw(like).requires_grad_(requires_grad)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **more: Any,
) -> Tensor:
    """torch's; with dropout by its definition, which is the one that can be told what to drop."""
    if dropout_p == 0 or more.get("enable_gqa"):
        options = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale, **more}
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p, **options)
    score = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).tril()
        score = score.masked_fill(~seen, -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        score = score.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        score = score + attn_mask
    return _dropout(score.softmax(-1), dropout_p) @ value


#: What stands in for functions that take none.
_OURS: dict[Any, Callable[..., Any]] = {
    torch.rand_like: functools.partial(_like, rand_like),
    torch.randn_like: functools.partial(_like, randn_like),
    F.dropout: _dropout,
    F.dropout1d: functools.partial(_dropout, whole=1),
    F.dropout2d: functools.partial(_dropout, whole=2),
    F.dropout3d: functools.partial(_dropout, whole=3),
}
#: Those that take one in this version of torch.
_INIT = {
    function
    for name, function in vars(nn.init).items()
    if name.endswith("_") and not name.startswith("_") and _takes_generator(function)
}
#: For which a stream stands in for torch's own generator while they run.
_BORROWING = (
    _named(
        torch, "randint_like", "dropout", "dropout_", "alpha_dropout", "feature_dropout", "rrelu", "rrelu_"
    )
    | _named(torch, "feature_alpha_dropout", "native_dropout", "lstm", "gru", "rnn_tanh", "rnn_relu")
    | _named(F, "alpha_dropout", "feature_alpha_dropout", "gumbel_softmax", "rrelu")
    | _named(F, "multi_head_attention_forward")
    | _named(nn.init, "uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_", "sparse_")
    | _named(nn.init, "kaiming_uniform_", "kaiming_normal_", "orthogonal_")
) - _INIT
_DRAWN = _OF_TENSORS | _MAKING | _INIT


class _Given(TorchFunctionMode):
    """Gives this thread's stream to every call of torch that draws and names no generator."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        current = _CURRENT.get()
        if current is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func in _OURS:
            return _OURS[func](*args, **kwargs)
        # A wrapper of another library that passes on a generator it was not given is known by that.
        drawn, borrowing = func in _DRAWN or "generator" in kwargs, func in _BORROWING
        device = _device_of(args, kwargs) if drawn or borrowing else None
        if device is None or device.type == "meta":  # a meta tensor has a shape and no numbers
            return func(*args, **kwargs)
        if drawn:
            return func(*args, **{**kwargs, "generator": current.on(device)})
        with _instead_of_torchs(current.on(device)):
            return func(*args, **kwargs)


def _device_of(args: Any, kwargs: Any) -> torch.device:
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return tensors[0].device if tensors else torch.get_default_device()
