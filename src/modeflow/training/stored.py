"""Rows of a training that lie in a file: memory does not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeflow.training.seeding import mixed_seed

__all__ = ["Order", "StoredRows"]

#: Rows that lie together, and how many such blocks are shuffled with one another.
_BLOCK, _BLOCKS = 8192, 32
#: Bytes of a number.
_NUMBER = 8


@dataclass(frozen=True)
class StoredRows:
    """The rows of a file of float64 numbers, without those that are held out.

    An epoch goes through blocks of rows that follow one another, in a random order; the rows of 32 blocks,
    262,144, are shuffled with one another. Where these are all rows, the order is the one that rows in memory
    have, so that both train to the same bits. A row may be taken by its number at any time: an epoch is a
    function of its seed, and goes on anywhere.

    Arguments:
        path: of the numbers, row by row. dim: columns. total: rows of the file.
        held: rows that are no part, ascending. content: a hash of the numbers. device: where batches go.
    """

    path: Path
    dim: int
    total: int
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    content: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return self.total - len(self.held)

    def to(self, device: torch.device) -> StoredRows:
        """The same, of which batches are on a device."""
        return replace(self, device=device)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Rows by their numbers among those that are no part of `held`, ``(n, D)``."""
        return torch.from_numpy(self.file_rows(self._places(index.cpu().numpy()))).to(self.device)

    def file_rows(self, rows: np.ndarray) -> np.ndarray:
        """Rows of the file by their numbers in it, held out or not, ``(n, D)``."""
        out = np.empty((len(rows), self.dim))
        with self.path.open("rb", buffering=0) as stream:
            for i, place in enumerate(rows):
                out[i] = self._read(stream, int(place), 1)
        return out

    def blocks(self) -> Iterator[np.ndarray]:
        """All rows, in the order of the file, some at a time."""
        for start in range(0, len(self), _BLOCK * _BLOCKS):
            yield self.between(start, min(start + _BLOCK * _BLOCKS, len(self)))

    def between(self, start: int, end: int) -> np.ndarray:
        """Rows that follow one another, ``(end - start, D)``."""
        places = self._places(np.arange(start, end))
        first, last = int(places[0]), int(places[-1])
        with self.path.open("rb", buffering=0) as stream:
            values = self._read(stream, first, last - first + 1)
        return values if len(values) == len(places) else values[places - first]

    def order(self, generator: torch.Generator) -> Order:
        """The order of an epoch."""
        return Order(self, generator)

    def fingerprint(self) -> str:
        """Differs for other numbers, or others held out."""
        held = f"{len(self.held)} {int(self.held.sum())} {int((self.held * np.arange(len(self.held))).sum())}"
        return f"{self.total}x{self.dim} {self.content} {held}"

    def _places(self, numbers: np.ndarray) -> np.ndarray:
        """Rows of the file by their numbers among those that are no part of `held`."""
        before = self.held - np.arange(len(self.held))
        return numbers + np.searchsorted(before, numbers, side="right")

    def _read(self, stream: Any, row: int, count: int) -> np.ndarray:
        stream.seek(row * self.dim * _NUMBER)
        wanted = count * self.dim * _NUMBER
        data = stream.read(wanted)
        while len(data) < wanted:
            more = stream.read(wanted - len(data))
            if not more:
                raise OSError(f"'{os.fspath(self.path)}' is shorter than it was: fit again")
            data += more
        return np.frombuffer(data, dtype="<f8").reshape(count, self.dim)


class Order:
    """An epoch over stored rows; batches are taken in turn, from anywhere on."""

    def __init__(self, rows: StoredRows, generator: torch.Generator) -> None:
        self.rows, self._seed = rows, generator.initial_seed()
        n, count = len(rows), -(-len(rows) // _BLOCK)
        self._single = count <= _BLOCKS
        blocks = torch.arange(count) if self._single else torch.randperm(count, generator=generator)
        sizes = torch.minimum(torch.tensor(_BLOCK), n - blocks * _BLOCK)
        self._windows = [
            (blocks[i : i + _BLOCKS], int(sizes[i : i + _BLOCKS].sum())) for i in range(0, count, _BLOCKS)
        ]
        self._starts = np.concatenate([[0], np.cumsum([size for _, size in self._windows])])
        self._generator = generator
        self._at = -1

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """The rows at these places of the order: their numbers ``(n,)``, and they ``(n, D)``."""
        stop, index, rows = min(stop, len(self)), [], []
        while start < stop:
            window = int(np.searchsorted(self._starts, start, side="right")) - 1
            self._load(window)
            first = int(self._starts[window])
            end = min(stop, int(self._starts[window + 1]))
            index.append(self._index[start - first : end - first])
            rows.append(self._rows[start - first : end - first])
            start = end
        found = rows[0].clone() if len(rows) == 1 else torch.cat(rows)
        return torch.cat(index).to(self.rows.device), found.to(self.rows.device)

    def _load(self, window: int) -> None:
        if window == self._at:
            return
        self._at, n = window, len(self.rows)
        self._index = self._rows = torch.empty(0)  # given up before others come
        blocks, size = self._windows[window]
        if not self._single:
            self._generator.manual_seed(mixed_seed(self._seed, window))
        shuffled = torch.randperm(size, generator=self._generator)
        ends = [(int(b) * _BLOCK, min((int(b) + 1) * _BLOCK, n)) for b in blocks]
        # Each block goes to where its rows belong: there are never two copies of a window.
        place, rows, index = (
            torch.empty_like(shuffled),
            torch.empty(size, self.rows.dim, dtype=torch.float64),
            [],
        )
        place[shuffled] = torch.arange(size)
        start = 0
        for first, last in ends:
            values = torch.from_numpy(np.array(self.rows.between(first, last)))
            rows[place[start : start + last - first]] = values
            index.append(torch.arange(first, last))
            start += last - first
        self._rows, self._index = rows, torch.cat(index)[shuffled]
