"""Noise for layers that draw on the way to noise: fresh while training, a function of the row otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["row_noise", "standard_normal", "uniform_noise"]

_GOLDEN = -7046029254386353131
_FIRST = -4658895280553007687
_SECOND = -7723592293110705685


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap: every bit of z moves every bit of the result."""
    # The shifts of signed numbers bring in copies of the sign; the masks take them off.
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _FIRST
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return z ^ ((z >> 31) & 0x1FFFFFFFF)


class _RowNoise:
    """A stream of random numbers for every row, that depends on the row and the seed alone."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        # As float32, so that a row has the same noise whatever the precision of the model; -0 is 0.
        bits = (rows.detach().flatten(1).float() + 0.0).view(torch.int32).long()
        key = torch.full((rows.shape[0],), seed, dtype=torch.int64, device=rows.device) * _GOLDEN
        for column in bits.unbind(1):
            key = _mix(key + _GOLDEN + column)
        self.key = key
        self.calls = 0

    def uniform(self, like: Tensor) -> Tensor:
        self.calls += 1
        count = like[0].numel() if len(like) else 0
        place = torch.arange(1, count + 1, device=like.device) + (self.calls << 32)
        numbers = _mix(_mix(self.key.unsqueeze(1) + place * _GOLDEN))
        # 53 bits, in the middle of their interval: never 0, never 1.
        value = ((numbers >> 11) & ((1 << 53) - 1)).double() * 2.0**-53 + 2.0**-54
        return value.view(like.shape)


_SOURCE: ContextVar[_RowNoise | None] = ContextVar("modeflow_row_noise", default=None)


@contextmanager
def row_noise(rows: Tensor, seed: int) -> Iterator[None]:
    """Inside the block the layers' noise is a function of each row ``(B, *event)`` and the seed."""
    token = _SOURCE.set(_RowNoise(rows, seed))
    try:
        yield
    finally:
        _SOURCE.reset(token)


def uniform_noise(like: Tensor) -> Tensor:
    """Uniform numbers of the shape and type of `like`, from the rows' streams or torch's generator."""
    source = _SOURCE.get()
    return torch.rand_like(like) if source is None else source.uniform(like).to(like.dtype)


def standard_normal(like: Tensor) -> Tensor:
    """Standard normal numbers of the shape and type of `like`."""
    source = _SOURCE.get()
    if source is None:
        return torch.randn_like(like)
    return (math.sqrt(2) * torch.erfinv(2 * source.uniform(like) - 1)).to(like.dtype)
