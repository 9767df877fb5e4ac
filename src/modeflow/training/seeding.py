"""Randomness that neither depends on nor disturbs the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["mixed_seed", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block torch's global generators start from `seed`; afterwards they are as before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        yield


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several integers (splitmix64), the same on every machine."""
    value = 0
    for part in parts:
        value = (value ^ (part & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        value ^= value >> 31
    return value >> 1
