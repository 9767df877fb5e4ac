"""Randomness that neither depends on nor disturbs the user's own."""

from __future__ import annotations

from modeflow.nets.randomness import seeded

__all__ = ["mixed_seed", "seeded"]


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several integers (splitmix64), the same on every machine."""
    value = 0
    for part in parts:
        value = (value ^ (part & (2**64 - 1))) + 0x9E3779B97F4A7C15 & (2**64 - 1)
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
        value ^= value >> 31
    return value >> 1
