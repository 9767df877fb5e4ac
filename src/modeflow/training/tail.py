"""The end of a training: a tail of known length, over which the learning rate falls to zero."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TAIL_SHARE", "Tail"]

#: Length of the tail as a share of the steps before it.
TAIL_SHARE = 0.5


@dataclass(frozen=True)
class Tail:
    """Steps ``start <= step < start + length`` over which the learning rate falls linearly to zero."""

    start: int
    length: int

    @classmethod
    def after(cls, steps: int, batches: int, total_steps: int) -> Tail:
        """The tail that begins now: whole epochs of so many batches, at least one, within the budget."""
        epochs = max(1, round(TAIL_SHARE * steps / batches))
        return cls(steps, min(epochs * batches, max(total_steps - steps, 1)))

    @classmethod
    def of_budget(cls, total_steps: int) -> Tail:
        """The tail that ends with the budget."""
        start = int(total_steps / (1 + TAIL_SHARE))
        return cls(start, max(total_steps - start, 1))

    @property
    def end(self) -> int:
        """The number of steps with which training ends."""
        return self.start + self.length

    def factor(self, step: int) -> float:
        """Of the learning rate at a step: one until the tail, then down to zero at its end."""
        return min(1.0, max(0.0, (self.end - step) / self.length))
