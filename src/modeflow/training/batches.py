"""The batches of an epoch, of which what no step changes is worked out for many at once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from modeflow.training.rows import InMemory
from modeflow.training.stored import Order

__all__ = ["Batches"]

#: Most rows, and numbers, that are taken from memory at once.
_ROWS, _NUMBERS = 8192, 1 << 20

#: What an objective needs of rows, see `Density.prepare`.
Prepared = tuple[Tensor, ...]


class Batches:
    """Batches of rows, in an order.

    Arguments:
        order: of the epoch. size: rows a batch.
        prepare: `Density.prepare`, by which rows in memory are told many at a time; None to leave the rows.
    """

    def __init__(
        self, order: Order | InMemory, size: int, prepare: Callable[[Tensor], Prepared] | None
    ) -> None:
        self._order, self._size, self._prepare = order, size, prepare
        self._first = 0
        self._index: Tensor | None = None
        self._known: Prepared = ()

    def take(self, number: int) -> tuple[Tensor, Prepared]:
        """The numbers of the rows of a batch, ``(n,)``, and what the objective needs of them."""
        if self._prepare is None or not isinstance(self._order, InMemory):
            index, x = self._order.take(number * self._size, (number + 1) * self._size)
            return index, (x,)
        start = number * self._size - self._first
        if self._index is None or not 0 <= start < len(self._index):
            most = min(_ROWS, _NUMBERS // max(1, self._order.rows[:1].numel()))
            self._first, start = number * self._size, 0
            stop = self._first + max(1, most // self._size) * self._size
            self._index, x = self._order.take(self._first, stop)
            self._known = self._prepare(x)
        stop = start + self._size
        return self._index[start:stop], tuple(part[start:stop] for part in self._known)
